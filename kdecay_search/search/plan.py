"""From a study's records to what the storage should hold: the paper's iterative procedure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdecay_search.search.allocation import ROUNDING
from kdecay_search.search.confirmation import Confirmation, confirm
from kdecay_search.search.joint_planner import JointPlanner
from kdecay_search.search.joint_results import JointResults
from kdecay_search.search.machines import Machines
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.proposals import further_terms
from kdecay_search.search.space import Space
from kdecay_search.search.stage import Incumbent, Progress, Stage
from kdecay_search.search.stage_planner import StagePlanner
from kdecay_search.search.stage_results import StageRecords, StageResults
from kdecay_search.search.tally import Memo
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CandidateKey, CandidateTrials, RunRequest, Trial, Trials


@dataclass(frozen=True)
class Plan:
    """What the records amount to, and what the storage should be made to hold."""

    stages: tuple[Stage, ...]
    """The stages that have begun, the first one first."""
    incumbent: Incumbent
    """The best schedule of the stages that are done."""
    baseline: Incumbent
    """The original schedule, k = 1, at its best learning-rate level."""
    progress: Progress
    """Where the study stands."""
    enqueue: tuple[RunRequest, ...]
    """Runs to be queued, in the order in which workers should take them."""
    skip: tuple[RunRequest, ...]
    """Runs that are not needed: to be recorded as skipped, untrained."""
    withdraw: tuple[Trial, ...]
    """Waiting and running trials of runs that another trial serves."""
    format: MetricFormat
    """Shows the study's errors: its decimals follow from the noise of the first stage's runs."""
    begun: int
    """Number of runs of the search that have begun."""
    spent: float
    """What they cost of a budget, in trainings of full length: paused runs and those that ended
    early count by their epochs, the others as whole ones."""
    confirmation: Confirmation | None = None
    """The confirmation on fresh seeds; None before the search is done, or if none is wanted."""
    resume: tuple[Trial, ...] = ()
    """Paused trials that should train on: to their next look, or to the end."""
    close: tuple[Trial, ...] = ()
    """Paused trials that end as pruned, because their stage closes without them."""

    @property
    def leader(self) -> Incumbent:
        """The best schedule so far: the incumbent or, while a stage runs, the candidate that
        would be kept if the stage ended now."""
        last = self.stages[-1] if self.stages else None
        if last is None or not last.leads or last.best is None or last.best.point is None:
            return self.incumbent
        return _incumbent(last)


def make_plan(
    spec: StudySpec,
    trials: Iterable[Trial],
    memo: Memo | None = None,
    policy: Policy = POLICY,
) -> Plan:
    """Decide what to do next, given everything that the storage holds of the study.

    The plan follows from the arguments alone: the same records give the same plan.

    Args:
        spec: The study.
        trials: All its trials. Of :class:`Trials`, only candidates that have changed since an
            earlier plan with the same ``memo`` are looked at trial by trial.
        memo: What earlier plans of this process have worked out; it saves time and changes nothing.
        policy: The constants behind the decisions.
    """
    memo = Memo() if memo is None else memo
    known = trials if isinstance(trials, Trials) else Trials.of(trials)
    planners, stages, baseline, incumbent = _searched(spec, known, memo, policy)
    following = planners[-1].following()
    plan = Plan(
        stages=tuple(stages),
        incumbent=incumbent,
        baseline=baseline,
        progress=stages[-1].progress,
        enqueue=following.enqueue,
        skip=following.skip,
        withdraw=tuple(trial for planner in planners for trial in planner.redundant()),
        resume=following.resume,
        close=following.close,
        format=_format(spec, stages[0], planners[0].results.noise),
        begun=sum(planner.results.begun for planner in planners),
        spent=sum(planner.results.spent for planner in planners),
    )
    is_searching = plan.progress != Progress.DONE or not spec.confirm.seeds
    return (
        plan if is_searching else _with_confirmation(plan, spec, known.by_candidate, memo, policy)
    )


def planner_of(
    spec: StudySpec, trials: Trials, memo: Memo, policy: Policy, number: int
) -> StagePlanner | None:
    """The planner of a stage as the records are; None if the search has not come to it."""
    planners = _searched(spec, trials, memo, policy, number)[0]
    return planners[-1] if len(planners) == number else None


def _searched(
    spec: StudySpec, known: Trials, memo: Memo, policy: Policy, last: int | None = None
) -> tuple[list[StagePlanner], list[Stage], Incumbent, Incumbent]:
    """The stages that have begun, the original at its best, and the best schedule of the stages
    that are done; of stage ``last`` the planner alone, which asks no stage for its verdict."""
    by_stage: dict[CandidateKey, dict[int, CandidateTrials]] = defaultdict(dict)
    for key, replicates in known.by_candidate.items():
        by_stage[key._replace(candidate=0)][key.candidate] = replicates
    baseline = incumbent = Incumbent(BASELINE_KS, {})
    stages: list[Stage] = []
    planners: list[StagePlanner] = []
    earlier: tuple[float, ...] = ()
    upper = spec.search.k_max
    while len(earlier) < spec.search.max_terms:
        number = len(stages) + 1
        # Later stages are left out: what they show must not open a stage again that is over.
        until_now = (group for key, group in known.by_candidate.items() if 0 < key.stage <= number)
        machines = Machines.of_groups(until_now, policy)
        planner = _planner(spec, planners, incumbent, upper, by_stage, machines, policy, memo)
        if planner is None:
            break
        if number == 1:
            incumbent = baseline = planner.results.baseline()
        planners.append(planner)
        if number == last:
            break
        stage = planner.stage(incumbent)
        stages.append(stage)
        if not stage.kept:
            break
        incumbent = _incumbent(stage)
        earlier, upper = incumbent.ks, planner.results.space.bounds[1]
        if not earlier:
            break  # a cooldown has no terms
    return planners, stages, baseline, incumbent


def _incumbent(stage: Stage) -> Incumbent:
    """The schedule that a stage ends with, or would end with now, if its best candidate is kept."""
    best = stage.best
    assert best is not None
    ks = () if best.k is None else (*stage.earlier_ks, best.k)
    return Incumbent(ks, best.errors, best.lr_max, best.diverged, best.whole)


def _planner(
    spec: StudySpec,
    before: Sequence[StagePlanner],
    incumbent: Incumbent,
    upper: float,
    by_stage: Mapping[CandidateKey, Mapping[int, CandidateTrials]],
    machines: Machines,
    policy: Policy,
    memo: Memo,
) -> StagePlanner | None:
    """The next stage's planner; None if no larger term is left to try, or no budget for it."""
    last = incumbent if before else None
    number, earlier = len(before) + 1, last.ks if last else ()

    def records(lr_max: float | None, base: Candidate | None = None) -> StageRecords:
        trials = by_stage[CandidateKey(number, earlier, 0, lr_max, base)]
        return StageRecords(spec, last, trials, machines, policy, memo)

    if spec.search.is_joint:
        spent = sum(planner.results.spent for planner in before)
        budget = math.floor(spec.search.budget - spent + ROUNDING)
        schedules, base = spec.schedule_space(), None
        if last:
            assert last.point is not None
            further = further_terms(schedules, last.point, spec.search.k_step)
            if further is None or budget < policy.min_budget:
                return None
            schedules, base = further, last.point.without_term()
        return JointPlanner(JointResults(records(None, base), schedules), budget)
    lr_max = last.lr_max if last else None
    space = Space.of_stage(spec.search, number, earlier, upper, lr_max, policy)
    if space is None:
        return None
    return StagePlanner(StageResults(records(lr_max), space))


def _format(spec: StudySpec, stage: Stage, noise: float) -> MetricFormat:
    """How the study's errors are shown: the noise counts once a candidate has run twice."""
    errors = [error for candidate in stage.candidates for error in candidate.errors.values()]
    is_known = any(len(candidate.errors) > 1 for candidate in stage.candidates)
    return MetricFormat.of(spec.task.metric, math.sqrt(noise) if is_known else None, errors)


def _with_confirmation(
    plan: Plan,
    spec: StudySpec,
    known: Mapping[CandidateKey, CandidateTrials],
    memo: Memo,
    policy: Policy,
) -> Plan:
    """The plan of a study whose search is done."""
    tuned = plan.stages[0].baselines
    last = confirm(spec, plan.incumbent, plan.baseline, tuned, known, memo, policy)
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


def runs_at_most(spec: StudySpec, policy: Policy = POLICY) -> list[tuple[int, int]]:
    """The largest number of candidates and of runs that each stage can need, without failures.

    Args:
        spec: The study.
        policy: Its constants for the growth of a grid are used.

    Returns:
        (candidates, runs) of each stage.
    """
    counts = []
    search = spec.search
    if search.is_joint:
        return [(search.budget, search.budget)]
    earlier: tuple[float, ...] = ()
    for number in range(1, search.max_terms + 1):
        space = Space.of_stage(search, number, earlier, search.k_max, None, policy)
        if space is None:
            break
        while (larger := space.grown(policy)) is not None:
            space = larger
        counts.append((len(space.points), len(space.points) * search.seeds))
        earlier = (*earlier, space.bounds[0])
    return counts
