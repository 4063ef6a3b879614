"""What the candidates of a stage are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdecay_search.search import CandidateResult, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import Sample, describe, paired_gain
from kdecay_search.study.candidate import candidate_name, schedule_name
from kdecay_search.study.metric import MetricFormat


@dataclass(frozen=True)
class Reference:
    """The schedule that the candidates of a stage are to improve on."""

    name: str
    """Its terms, such as ``k = 2``, with its level of the learning rate if that was searched."""
    errors: Mapping[int, float]
    """Its final errors by seed; lower is better."""

    @staticmethod
    def of(stage: Stage, snapshot: StudySnapshot) -> Reference:
        """The original, k = 1, for the first stage; what the stage before kept for a later one."""
        if stage.n == 1:
            original = snapshot.plan.baseline
            return Reference(original.name, original.errors)
        kept = snapshot.plan.stages[stage.n - 2].best
        name = schedule_name(stage.earlier_ks, stage.lr_max)
        if stage.base is not None:
            *earlier, k = stage.earlier_ks
            name = candidate_name(stage.base._replace(k=k), earlier)
        return Reference(name, kept.errors if kept is not None else {})

    def gain(self, candidate: CandidateResult, form: MetricFormat) -> str:
        """By how much a candidate is better over the seeds that both ran on, as text.

        Empty if they share no seed, and where there is no difference, as for the reference itself.
        """
        mean = paired_gain(self.errors, candidate.errors).mean
        return f"{mean:+.{form.decimals}f}" if mean else ""

    @property
    def error(self) -> Sample:
        """Mean and standard deviation of the errors over the seeds."""
        return describe(self.errors.values())
