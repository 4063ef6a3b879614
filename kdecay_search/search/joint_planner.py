"""The joint search: one stage that searches whole schedules on a budget.

The first runs are a space-filling design and the baselines at the study file's own level. After
that, the runs of each decision are those that are worth most by the knowledge gradient, of
candidates that were tried and of new ones alike, on any seed. Each baseline is tuned by the same
rule among its own levels and floors, with a number of runs that follows from the budget. The stage
ends when its budget is spent, or when no further run is worth it.

Every decision waits for the runs of the decision before, so a study's answer does not depend on how
many workers it has or how fast they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdecay_search.search.allocation import Remaining, worthiest
from kdecay_search.search.knowledge_gradient import Posterior, Run
from kdecay_search.search.machines import Machines
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.selection import Gain, Selection
from kdecay_search.search.space import Space
from kdecay_search.search.stage import CandidateResult, Incumbent, Stage, TunedBaseline
from kdecay_search.search.stage_planner import StagePlanner
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.search.tally import Memo
from kdecay_search.statistics import describe
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import CAPS, LEVEL_CAP, Axis, ScheduleSpace, Subspace
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, CandidateTrials, RunRequest


@dataclass(frozen=True)
class WholeSpace(Space):
    """The candidates that a joint search has tried so far; they come one by one."""

    def grown(self, policy: Policy = POLICY) -> Space | None:
        return None

    def is_upper_edge(self, k: float) -> bool:
        return False


class JointPlanner(StagePlanner):
    """The trials of one stage of a joint search, and what follows from them."""

    space: Space

    def __init__(
        self,
        spec: StudySpec,
        incumbent: Incumbent | None,
        schedules: ScheduleSpace,
        replicates: Mapping[int, CandidateTrials],
        machines: Machines,
        policy: Policy,
        memo: Memo,
        budget: int,
    ) -> None:
        """
        Args:
            spec: The study.
            incumbent: What the stage before ended with; None in stage 1.
            schedules: What the stage may try; in a later stage its first family alone.
            replicates: The trials of each candidate that has some, by its index.
            machines: What is known of the machines from this stage and earlier ones.
            policy: The constants behind the decisions.
            memo: What earlier plans have worked out.
            budget: Number of runs that the stage may begin, all in all.
        """
        self.schedules, self.budget = schedules, budget
        points = [
            _point_of(replicates[i]) if i in replicates else None for i in range(_count(replicates))
        ]
        k = schedules.families[0].axes.get("k", Axis((1.0,)))
        space = WholeSpace(spec.search, tuple(points), (k.low, k.high))
        super().__init__(spec, incumbent, space, replicates, machines, policy, memo)
        self._next = self._next_runs()

    # ---- what the stage has found ------------------------------------------------------------

    def baseline(self) -> Incumbent:
        """In stage 1: the original, at its best level and floor."""
        subspace = self.schedules.baselines[0]
        tried = [c for c in self.candidates if self._is_in(subspace, c)]
        best = self._lowest(tried) or (tried[0] if tried else None)
        if best is None or best.whole is None:
            return Incumbent((1.0,), {}, point=self._first(subspace))
        return Incumbent((1.0,), best.errors, best.lr_max, best.diverged, best.whole)

    def stage(self, incumbent: Incumbent) -> Stage:
        found = super().stage(incumbent)
        return replace(
            found,
            base=self.incumbent.point.without_term()
            if self.incumbent and self.incumbent.point
            else None,
            baselines=tuple(
                self._tuned(subspace, tried)
                for subspace in self.schedules.baselines
                if (tried := [c for c in self.candidates if self._is_in(subspace, c)])
            ),
            edges=self._edges(),
        )

    def _tuned(self, subspace: Subspace, tried: Sequence[CandidateResult]) -> TunedBaseline:
        best = self._lowest(tried) or tried[0]
        gain = None
        if self.selection and self.best and self.best.point and best.point and best.errors:
            gain = self._gain_on(best.point, self.best.point)
        runs = sum(self._summary(c.index).begun for c in tried)
        return TunedBaseline(subspace.name, best, len(tried), runs, gain)

    def _gain(self, selection: Selection, best: Candidate) -> Gain:
        return self._gain_on(selection.points[0], best)

    def _gain_on(self, reference: Candidate, best: Candidate) -> Gain:
        """By how much the best candidate improves on another. What is far worse than both is left
        out: drawn in it would be told wrong, and as it is it would bend the surface."""
        assert self._surrogate is not None
        if best == reference:
            return Gain(0.0, (0.0, 0.0), 0.0)
        results = self._surrogate.results
        means = {c.point: c.error.mean for c in self.candidates if c.point and c.errors}
        if self.incumbent is not None and reference == self.incumbent.point:
            means.setdefault(reference, describe(self.incumbent.errors.values()).mean)
        compared = [means[point] for point in (reference, best) if means.get(point) is not None]
        limit = max(compared, default=math.inf) + results.spread  # type: ignore[type-var]
        kept = [
            point
            for point in self._surrogate.points
            if point in (reference, best) or (means.get(point) or math.inf) <= limit
        ]
        policy = replace(self.policy, far=math.inf)
        surrogate = self._memo.surrogate(kept, results.among(frozenset(kept)), policy)
        gain = Selection.of(surrogate, (reference, best)).gain(best)
        return gain.widened(results.uneven_noise((reference, best), self.policy))

    def _is_running(self) -> bool:
        return bool(self._unfinished() or self._next)

    def _is_at_edge(self) -> bool:
        return bool(self._edges())

    def _edges(self) -> tuple[str, ...]:
        """Parameters of the best candidate at a bound that stays, because a cap or the end of the
        budget stops it."""
        point = self.best.point if self.best else None
        if point is None:
            return ()
        for subspace in self._searched():
            if subspace.family == point.family:
                return tuple(
                    name
                    for name in subspace.searched
                    if subspace.axes[name].scale is not None
                    and (name, 0.0) not in _NATURAL
                    and not self.policy.edge
                    <= subspace.axes[name].share(getattr(point, name))
                    <= 1 - self.policy.edge
                    and not (
                        name in ("lr_min", "warmup")
                        and getattr(point, name) < subspace.axes[name].at(0.5)
                    )
                )
        return ()

    def _to_go(self) -> int:
        under_way = sum(len(self._summary(c.index).open) for c in self.candidates)
        return under_way + (max(0, self._left_of_budget()) if self._is_running() else 0)

    # ---- which runs come next ----------------------------------------------------------------

    def missing(self) -> tuple[tuple[RunRequest, ...], tuple[RunRequest, ...]]:
        return self._next, ()

    def _next_runs(self) -> tuple[RunRequest, ...]:
        again = [
            (candidate, seed)
            for candidate in self.candidates
            for seed in sorted(self._summary(candidate.index).retry)
        ]
        if again:
            return self._requests(again)
        left = self._left_of_budget()
        if left <= 0 or any(self._summary(c.index).open for c in self.candidates):
            return ()
        if self.candidates:
            runs = self._worth(left) if self._surrogate else []
        else:
            runs = [(point, FIRST_SEED) for point in self._design()][:left]
        known = {c.point: c for c in self.candidates if c.point is not None}
        new = dict.fromkeys(point for point, _ in runs if point not in known)
        for index, point in enumerate(new, start=len(self.candidates)):
            known[point] = CandidateResult(
                index, point.k, {}, 0, 0, 0, 0, lr_max=point.lr_max, whole=point
            )
        return self._requests((known[point], seed) for point, seed in runs)

    def _design(self) -> list[Candidate]:
        """The first candidates: each baseline at the study file's level, and a spread of points."""
        families = self.schedules.families
        wanted = self.policy.design_per_axis * max(len(f.searched) for f in families) + 1
        count = max(2, min(wanted, int(self.policy.design_share * self.budget)))
        spread = self._spread(families, count)
        return list(dict.fromkeys([*map(self._first, self.schedules.baselines), *spread]))

    def _worth(self, left: int) -> list[Run]:
        """The next runs once there are results; none if the stage is over."""
        policy = self.policy
        size = max(policy.min_batch, min(policy.max_batch, self.budget // policy.runs_per_decision))
        size = min(size, left)
        tried = {c.point: c for c in self.candidates if c.point is not None}
        able = {point: c for point, c in tried.items() if not c.diverged and not c.failed}
        own = [(each, self._proposals((each,), 16)) for each in self.schedules.baselines]
        new = [
            *self._proposals(self._searched(), policy.proposals),
            *self._nearby(),
            *(point for _, points in own for point in points),
        ]
        new = [point for point in dict.fromkeys(new) if point not in tried]
        assert self._surrogate is not None
        points = (*self._surrogate.points, *new)
        surrogate = self._memo.surrogate(points, self._surrogate.results, policy)
        missing = {point: self._summary(c.index).missing for point, c in able.items()}
        missing |= dict.fromkeys(new, frozenset(range(self.spec.search.seeds)))
        remaining = Remaining(missing, self.spec.search.seeds, left, left)
        among = Selection.of(surrogate)
        likely = dict(zip(among.points, among.probabilities, strict=True))
        means = dict(zip(among.points, among.means, strict=True))

        def ranked(points: Iterable[Candidate]) -> list[Candidate]:
            return sorted(points, key=lambda point: (-likely[point], means[point], point))

        leading = [point for point in able if able[point].errors]
        if not leading:
            return []

        def worth(
            old: Sequence[Candidate], fresh: Sequence[Candidate], size: int, certain: Sequence[Run]
        ) -> list[Run]:
            half = policy.max_considered // 2
            considered = [*ranked(old)[:half], *ranked(fresh)[:half]]
            extra = [point for point, _ in certain if point not in considered]
            posterior = Posterior.of(
                surrogate,
                dict.fromkeys((*considered, *extra)),
                policy,
                untried=[point for point in (*fresh, *extra) if point not in leading],
            )
            return worthiest(posterior, remaining, size, certain)

        runs: list[Run] = []
        for subspace, fresh in own:
            if len(runs) >= max(1, size // 2) and left > size:
                break
            mine = [point for point in leading if subspace.holds(point)]
            begun = sum(self._summary(tried[p].index).begun for p in tried if subspace.holds(p))
            if begun >= self._baseline_runs() or not mine:
                continue
            best = min(mine, key=lambda point: (means[point], point))
            is_last = begun == self._baseline_runs() - 1
            chosen = (
                []
                if is_last
                else worth(mine, [p for p in fresh if p in means and p not in tried], 1, ())
            )
            if not chosen and len(able[best].errors) < policy.min_runs_to_win:
                chosen = [(best, seed) for seed in sorted(missing[best])[:1]]
            runs += chosen
        leader = min(leading, key=lambda point: (means[point], point))
        if left <= size and len(able[leader].errors) < policy.min_runs_to_win:
            runs += [
                (leader, seed) for seed in sorted(missing[leader])[:1] if (leader, seed) not in runs
            ]
        runs = runs[:left]
        runs += worth(leading, new, size - len(runs), runs)
        if not runs and len(able[leader].errors) < policy.min_runs_to_win:
            runs = [(leader, seed) for seed in sorted(missing[leader])[:1]]
        return list(dict.fromkeys(runs))[:left]

    def _baseline_runs(self) -> int:
        """Number of runs that each baseline is tuned with."""
        fewest, most = self.policy.baseline_runs
        share = self.policy.baseline_share * self.budget / max(1, len(self.schedules.baselines))
        return max(fewest, min(most, round(share)))

    def _left_of_budget(self) -> int:
        return self.budget - self.begun

    # ---- new candidates ----------------------------------------------------------------------

    def _first(self, subspace: Subspace) -> Candidate:
        """A baseline as the study file has it, or as near to that as its ranges allow."""
        schedule = self.spec.schedule
        wanted = {
            "lr_max": schedule.lr_max,
            "lr_min": schedule.lr_min / schedule.lr_max,
            "decay_share": 0.2,
        }
        axes = {
            name: Axis((_nearest(axis, wanted[name]),)) if name in wanted else axis
            for name, axis in subspace.axes.items()
        }
        fixed = replace(subspace, axes=axes)
        return fixed.at([0.0] * len(fixed.searched))

    def _searched(self) -> list[Subspace]:
        """The families, with ranges widened at whose edge the best candidate lies."""
        point = self.best.point if self.best else None
        return [
            self._widened(subspace, point)
            if point and point.family == subspace.family
            else subspace
            for subspace in self.schedules.families
        ]

    def _widened(self, subspace: Subspace, point: Candidate) -> Subspace:
        axes = dict(subspace.axes)
        for name in subspace.searched:
            axis = axes[name]
            if axis.scale is None:
                continue
            low, high = CAPS.get(name, (0.0, 0.0))
            if name == "lr_max":
                middle = math.sqrt(axis.low * axis.high)
                low, high = middle / LEVEL_CAP, middle * LEVEL_CAP
            value = getattr(point, name)
            wider: Axis | None = axis
            while wider is not None:
                axes[name] = wider
                share = wider.share(value)
                if self.policy.edge < share < 1 - self.policy.edge:
                    break
                wider = wider.widened(low, high, self.policy.widening, share > 0.5)  # noqa: PLR2004
        return replace(subspace, axes=axes)

    def _proposals(self, subspaces: Sequence[Subspace], count: int) -> list[Candidate]:
        return self._spread(subspaces, count, first=len(self.candidates))

    def _spread(self, subspaces: Sequence[Subspace], count: int, first: int = 0) -> list[Candidate]:
        """About ``count`` candidates spread evenly: families in turn, by how many axes they have.

        Args:
            subspaces: Where to spread them.
            count: Number of candidates.
            first: Place in the sequence to begin at.
        """
        sizes = [1 + len(subspace.searched) for subspace in subspaces]
        points: list[Candidate] = []
        for subspace, size in zip(subspaces, sizes, strict=True):
            number = max(1, round(count * size / sum(sizes)))
            shares = _sequence(len(subspace.searched), number, self.spec.search.sampler_seed, first)
            points += [subspace.at(row) for row in shares.tolist()]
        return points

    def _nearby(self) -> list[Candidate]:
        """Candidates around the best ones that were tried."""
        if self.selection is None:
            return []
        best = sorted(self.selection.points, key=lambda p: (self.selection.mean(p), p))[:3]  # type: ignore[union-attr]
        found = []
        for rank, point in enumerate(best):
            for subspace in self._searched():
                if subspace.family != point.family:
                    continue
                centre = np.array(subspace.shares(point))
                count = self.policy.proposals_nearby
                steps = _sequence(len(centre), count, self.spec.search.sampler_seed, count * rank)
                sizes = np.geomspace(0.03, 0.3, count)[:, None]
                shares = np.clip(centre + sizes * (2 * steps - 1), 0.0, 1.0)
                found += [subspace.at(row) for row in shares.tolist()]
        return found

    # ---- as on a grid ------------------------------------------------------------------------

    def _reference(self) -> Candidate:
        if self.incumbent is not None and self.incumbent.point is not None:
            return self.incumbent.point
        return next((p for p in self.space.points if p), self._first(self.schedules.baselines[0]))

    def _select(self) -> Selection | None:
        if self._surrogate is None:
            return None
        reference, *others = self._surrogate.points
        points = (reference, *(point for point in others if point not in self._worst))
        selection = Selection.of(self._surrogate, points)
        if not self.schedules.baselines:
            return selection
        self.selection = selection
        base = self.baseline().point
        if base is None or base not in points:
            return selection
        return Selection.of(self._surrogate, (base, *(p for p in points if p != base)))

    def _is_baseline(self, candidate: CandidateResult) -> bool:
        return bool(self.schedules.baselines) and self._is_in(
            self.schedules.baselines[0], candidate
        )

    def _is_in(self, subspace: Subspace, candidate: CandidateResult) -> bool:
        return candidate.point is not None and subspace.holds(candidate.point)

    def _candidate(self, index: int) -> CandidateResult:
        found = super()._candidate(index)
        summary = self._summary(index)
        return replace(
            found, whole=self.space.points[index], unfinished=len(summary.open) + len(summary.retry)
        )


def further_terms(
    schedules: ScheduleSpace, point: Candidate, least_step: float
) -> ScheduleSpace | None:
    """The space of a further term: every k above the last, with all else fixed.

    Args:
        schedules: What the first stage searched.
        point: The schedule so far, with its last term.
        least_step: Least distance between two terms.

    Returns:
        The space; None if the schedule has no terms or no larger one is left.
    """
    if point.k is None:
        return None
    low, high = point.k + least_step, CAPS["k"][1]
    top = max(family.axes["k"].high for family in schedules.families if "k" in family.axes)
    if low >= high:
        return None
    fixed = {
        name: Axis((value,))
        for name, value in point.stated().items()
        if name not in ("k", "family")
    }
    k = Axis((low, min(high, max(top, 4 * low))), "log")
    family = Subspace(point.family or "", point.family or "", {"k": k, **fixed})
    return ScheduleSpace((family,), ())


_NATURAL = {("lr_min", 0.0), ("warmup", 0.0)}
"""Bounds that are no limits of the search."""


def _nearest(axis: Axis, value: float) -> float:
    if axis.scale is None:
        return min(axis.values, key=lambda each: abs(each - value))
    return min(max(value, axis.low), axis.high)


def _count(replicates: Mapping[int, CandidateTrials]) -> int:
    return max(replicates, default=-1) + 1


def _point_of(trials: CandidateTrials) -> Candidate | None:
    return next((trial.point for trial in trials.trials if trial.point), None)


def _sequence(dimensions: int, count: int, seed: int, first: int) -> np.ndarray:
    """Evenly spread points in the unit cube, (count, dimensions): the additive recurrence with the
    powers of the generalised golden ratio (Roberts, "The unreasonable effectiveness of
    quasirandom sequences", 2018)."""
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    places = np.arange(first + 1, first + count + 1)[:, None]
    return (0.5 + 0.31 * seed + places * steps) % 1.0
