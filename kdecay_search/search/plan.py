"""From a study's records to what the storage should hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kdecay_search.search.confirmation import Confirmation, confirm
from kdecay_search.search.space import Space
from kdecay_search.search.stage import Incumbent, Progress, Stage
from kdecay_search.search.stage_allocation import StagePlanner
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CandidateKey, Replicates, RunRequest, Trial, Trials


@dataclass(frozen=True)
class Plan:
    """What the records amount to, and what the storage should be made to hold."""

    stages: tuple[Stage, ...]
    incumbent: Incumbent
    baseline: Incumbent
    progress: Progress
    enqueue: tuple[RunRequest, ...]
    """Runs to be queued, in the order in which workers should take them."""
    skip: tuple[RunRequest, ...]
    """Runs that lost the race before they began: to be recorded as pruned, untrained."""
    withdraw: tuple[Trial, ...]
    """Waiting and running trials of runs that another trial serves."""
    confirmation: Confirmation | None = None
    """Once the search is done, if the study has one."""

    @property
    def leader(self) -> Incumbent:
        """The best schedule so far: the incumbent or, while a stage runs, the candidate that
        would be kept if the stage ended now."""
        last = self.stages[-1] if self.stages else None
        if last is None or not last.leads or last.best is None or last.best.k is None:
            return self.incumbent
        return Incumbent((*last.earlier_ks, last.best.k), last.best.errors, last.best.lr_max)


def make_plan(spec: StudySpec, trials: Iterable[Trial]) -> Plan:
    """What to do next, given everything that the storage holds of the study.

    Of :class:`Trials`, only candidates that have changed since an earlier plan are looked at trial
    by trial.
    """
    known = trials if isinstance(trials, Trials) else Trials.of(trials)
    by_stage: dict[CandidateKey, dict[int, Replicates]] = defaultdict(dict)
    for key, replicates in known.groups.items():
        by_stage[key._replace(candidate=0)][key.candidate] = replicates
    baseline = incumbent = Incumbent(BASELINE_KS, {})
    stages: list[Stage] = []
    earlier: tuple[float, ...] = ()
    upper = spec.search.k_max
    books: list[StagePlanner] = []
    while len(earlier) < spec.search.max_terms:
        number = len(stages) + 1
        lr_max = incumbent.lr_max if earlier else None
        space = Space.of_stage(spec.search, number, earlier, upper, lr_max)
        if space is None:
            break
        of_stage = by_stage[CandidateKey(number, earlier, 0, lr_max)]
        book = StagePlanner(spec, incumbent if number > 1 else None, space, of_stage)
        if number == 1:
            incumbent = baseline = book.baseline()
        books.append(book)
        stage = book.stage(incumbent)
        stages.append(stage)
        best = stage.best
        if not stage.kept or best is None or best.k is None:
            break
        earlier = (*earlier, best.k)
        upper = book.space.bounds[1]
        incumbent = Incumbent(earlier, best.errors, best.lr_max)
    enqueue, skip = books[-1].missing()
    plan = Plan(
        stages=tuple(stages),
        incumbent=incumbent,
        baseline=baseline,
        progress=stages[-1].progress,
        enqueue=enqueue,
        skip=skip,
        withdraw=tuple(trial for book in books for trial in book.redundant()),
    )
    is_searching = plan.progress != Progress.DONE or not spec.confirm.seeds
    return plan if is_searching else _with_confirmation(plan, spec, known.groups)


def _with_confirmation(
    plan: Plan, spec: StudySpec, known: Mapping[CandidateKey, Replicates]
) -> Plan:
    """The plan of a study whose search is done."""
    levels = (plan.incumbent.lr_max, plan.baseline.lr_max)
    last = confirm(spec, plan.incumbent.ks, known, *levels)
    if not last.is_over:
        progress = Progress.RUNNING
    else:
        progress = Progress.DONE if last.comparison.n or not last.rows else Progress.FAILED
    return replace(
        plan,
        progress=progress,
        enqueue=last.enqueue,
        withdraw=(*plan.withdraw, *last.redundant),
        confirmation=last,
    )


def runs_at_most(spec: StudySpec) -> list[tuple[int, int]]:
    """(candidates, runs) that each stage can need at most, without failures: for planning."""
    counts = []
    search = spec.search
    earlier: tuple[float, ...] = ()
    for number in range(1, search.max_terms + 1):
        space = Space.of_stage(search, number, earlier, search.k_max)
        if space is None:
            break
        while (larger := space.grown()) is not None:
            space = larger
        counts.append((len(space.points), len(space.points) * search.seeds))
        earlier = (*earlier, space.bounds[0])
    return counts
