"""The runs of a search as records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from kdecay_search.errors import MissingPackage
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.comparators import schedule_of
from kdecay_search.study.trials import Trial
from kdecay_search.worker.train import ks_of

if TYPE_CHECKING:
    import pandas as pd

Curves = Mapping[str, Sequence[float]]
"""The curves of a run by name: one value for each report."""
NOT_COLUMNS = ("schedule", "args", "values", "averaged_values")
"""Fields of a record that are no column of a table."""


@dataclass(frozen=True)
class RunRecord:
    """One training of a search."""

    number: int
    """Number of the run, from 1, in the order in which they were begun."""
    stage: int
    """Stage of the search, from 1; 0 for a run of the confirmation."""
    name: str
    """The schedule's name for people, such as ``k = 2.5, N = 1.2 at lr_max 0.1``."""
    family: str
    """Family of the schedule: ``polynomial``, ``cosine``, ``exponential``, or another's name."""
    ks: tuple[float, ...]
    """Terms of the schedule; none if it has none, such as a cooldown."""
    lr_max: float
    """Highest learning rate."""
    lr_min: float
    """Lowest learning rate, at the end."""
    args: Mapping[str, Any]
    """Values of the parameters of your own that the search varies, by name."""
    seed: int
    """Seed of the run."""
    state: str
    """What became of the run: ``complete``, ``pruned``, ``failed``, …"""
    value: float | None
    """Final value of the metric, infinite if the run has diverged; None if it has none."""
    reports: int
    """How many reports the run has made."""
    seconds: float | None
    """How long it has trained; None if that is not known."""
    message: str | None
    """Why it failed; None if it did not."""
    schedule: Schedule
    """The schedule."""
    values: tuple[float, ...] = ()
    """The metric at each report, with the weights as they are."""
    averaged_values: tuple[float, ...] = ()
    """The metric at each report with averaged weights; empty if it was not reported."""


class Runs(list[RunRecord]):
    """The runs of a search: a list that can become a table."""

    def to_dataframe(self) -> pd.DataFrame:
        """The runs as a table of pandas, one in each row. A parameter of your own is a column such
        as ``args.weight_decay``.

        Raises:
            MissingPackage: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - optional, and slow
        except ImportError as error:
            raise MissingPackage("pandas is not installed here; pip install pandas") from error
        names = [field.name for field in fields(RunRecord) if field.name not in NOT_COLUMNS]
        own = dict.fromkeys(name for run in self for name in run.args)
        rows = [
            {name: getattr(run, name) for name in names}
            | {f"args.{name}": value for name, value in run.args.items()}
            for run in self
        ]
        return pd.DataFrame(rows, columns=[*names, *(f"args.{name}" for name in own)])


def runs_of(
    snapshot: StudySnapshot,
    curves: Mapping[int, Curves],
    seconds: Mapping[int, float],
    steps_per_epoch: float,
) -> Runs:
    """The runs of a study that have begun.

    Args:
        snapshot: The study.
        curves: Curves by trial id.
        seconds: Seconds by trial id.
        steps_per_epoch: Updates per epoch, for the warm-up.
    """
    begun = sorted(_begun(snapshot.attempts), key=lambda trial: trial.trial_id)
    return Runs(
        _record(number, trial, snapshot, curves, seconds, steps_per_epoch)
        for number, trial in enumerate(begun, start=1)
    )


def _begun(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.worker is not None]


def _record(
    number: int,
    trial: Trial,
    snapshot: StudySnapshot,
    curves: Mapping[int, Curves],
    seconds: Mapping[int, float],
    steps_per_epoch: float,
) -> RunRecord:
    request, spec = trial.request, snapshot.spec
    point = trial.point or Candidate(trial.k, trial.lr_max)
    ks = ks_of(request, point)
    whole = request.point
    schedule = schedule_of(spec, request.comparator, ks, steps_per_epoch, trial.lr_max, whole)
    whole_family = (whole and whole.family) or request.comparator or ""
    kept = curves.get(trial.trial_id, {})
    metric = spec.task.metric
    return RunRecord(
        number=number,
        stage=trial.key.stage,
        name=(
            request.comparator
            if request.comparator is not None and whole is None
            else candidate_name(point, request.earlier_ks)
        ),
        family=schedule.family if isinstance(schedule, KDecaySchedule) else whole_family,
        ks=schedule.ks if isinstance(schedule, KDecaySchedule) else (),
        lr_max=schedule.lr_max,
        lr_min=schedule.lr_min,
        args=dict(point.args),
        seed=trial.key.seed,
        state=str(trial.state),
        value=None if trial.error is None else metric.value(trial.error),
        reports=trial.epochs,
        seconds=seconds.get(trial.trial_id),
        message=trial.message,
        schedule=schedule,
        values=tuple(kept.get("validation_error", ())),
        averaged_values=tuple(kept.get("averaged_error", ())),
    )
