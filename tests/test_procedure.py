from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest
from builders import (
    MemoryQueue,
    completed,
    failed,
    pruned,
    simulated,
    stated,
    study,
    trial,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.accounts import LOSSES_PER_ATTEMPT
from kdecay_search.builtin import SimulatedTask
from kdecay_search.point import Point
from kdecay_search.procedure import (
    Plan,
    Progress,
    Stage,
    make_plan,
    runs_at_most,
    spread,
)
from kdecay_search.runs import WITHDRAWN, RunKey, State, Trial
from kdecay_search.simulation import curve, final_error
from kdecay_search.spec import StudySpec, grid

NOISE = {"seed_noise": 0.5, "run_noise": 0.05, "epoch_noise": 0.3}
QUARTERS = st.integers(1, 12).map(lambda quarters: quarters / 4)


def search(**keys: Any) -> dict[str, Any]:
    """[search] with two seeds and a closed range: k = 1, 1.5, … 4, and no growth."""
    return {"k_min": 1.0, "k_max": 4.0, "k_cap": 4.0, "seeds": 2, "min_gain": 0.01} | keys


def played(spec: StudySpec, outcome: Any = None, at_once: int | None = None) -> MemoryQueue:
    queue = MemoryQueue(spec, outcome)
    queue.play(at_once)
    return queue


def by_k(stage: Stage) -> dict[float | None, Any]:
    return {candidate.k: candidate for candidate in stage.candidates}


# ---- what is found --------------------------------------------------------------------------


def mean_error(spec: StudySpec, ks: tuple[float, ...]) -> float:
    assert isinstance(spec.task, SimulatedTask)
    return fmean(
        curve(spec.task, ks, seed)[-1].validation_error for seed in range(spec.search.seeds)
    )


def greedily(spec: StudySpec) -> tuple[float, ...]:
    """Eq. 14 by brute force: the best k of the whole grid, then the best larger one with it, …"""
    part = spec.search
    every = [part.k_min + i * part.k_step for i in range(200)]
    every = [k for k in every if k <= part.cap + 1e-9]
    found: tuple[float, ...] = ()
    error = mean_error(spec, (1.0,))
    while len(found) < part.max_terms:
        larger = [k for k in every if not found or k > found[-1] + 1e-9]
        larger += [1.0] if not found and 1.0 not in larger else []
        if not larger:
            break
        best = min(larger, key=lambda k: (mean_error(spec, (*found, k)), k))
        gain = error - mean_error(spec, (*found, best))
        if gain <= part.min_gain or (*found, best) == (1.0,):
            break
        found, error = (*found, best), mean_error(spec, (*found, best))
    return found or (1.0,)


@pytest.mark.parametrize("noise", [{}, NOISE], ids=["exact", "noisy"])
@pytest.mark.parametrize(
    "best_ks", [(1.0,), (2.5,), (3.7,), (4.0,), (9.0,), (0.5,), (1.5, 3.5), (1.0, 4.0), (2.0, 9.0)]
)
def test_found_terms_are_those_of_brute_force(
    best_ks: tuple[float, ...], noise: dict[str, float]
) -> None:
    surface = {"best_ks": best_ks, "curvature": 200.0, **noise}
    spec = study(surface=surface, search=search(max_terms=3))
    assert played(spec).plan().incumbent.ks == greedily(spec)


@settings(deadline=None, max_examples=40)
@given(
    best=st.lists(st.floats(0.3, 8.0), min_size=1, max_size=3, unique=True),
    k_min=QUARTERS,
    width=st.integers(0, 10),
    step=st.sampled_from([0.25, 0.5, 1.0]),
    noise_seed=st.integers(0, 1000),
)
def test_found_term_is_as_good_as_brute_force_s_on_any_surface(
    best: list[float], k_min: float, width: int, step: float, noise_seed: int
) -> None:
    """Within the noise: on a flat surface the smooth curve may prefer a neighbour."""
    surface = {"best_ks": sorted(best), "curvature": 100.0, "noise_seed": noise_seed, **NOISE}
    k_max = k_min + width * step
    part = search(k_min=k_min, k_max=k_max, k_cap=k_max, k_step=step, max_terms=1)
    spec = study(surface=surface, search=part)
    assert isinstance(spec.task, SimulatedTask)
    candidates = {1.0, *grid(k_min, k_max, step)}
    lowest = min(final_error(spec.task.surface, (k,)) for k in candidates)
    found = final_error(spec.task.surface, played(spec).plan().incumbent.ks)
    assert found - lowest < 0.15 + spec.search.min_gain


def test_noiseless_search_finds_the_best_k_on_the_grid() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=1))
    plan = played(spec).plan()
    assert plan.incumbent.ks == (2.5,)
    assert list(plan.incumbent.errors.values()) == [pytest.approx(8.0)] * 2


def test_two_terms_are_found_one_after_the_other() -> None:
    """k1 is the best single term, which is not one of the surface's two."""
    surface = {"best_ks": [1.0, 4.0], "curvature": 300.0}
    spec = study(surface=surface, search=search(max_terms=2))
    plan = played(spec).plan()
    assert isinstance(spec.task, SimulatedTask)
    singles = {k: final_error(spec.task.surface, (k,)) for k in grid(1.0, 4.0, 0.5)}
    first = min(singles, key=singles.__getitem__)
    assert first not in {1.0, 4.0}
    assert plan.stages[0].best is not None
    assert plan.stages[0].best.k == first
    assert plan.stages[1].earlier_ks == (first,)


def test_errors_of_the_result_are_those_of_its_own_runs() -> None:
    spec = study(surface={"best_ks": [2.5], **NOISE}, search=search(seeds=4))
    plan = played(spec).plan()
    assert isinstance(spec.task, SimulatedTask)
    expected = {
        seed: curve(spec.task, plan.incumbent.ks, seed)[-1].validation_error for seed in range(4)
    }
    assert plan.incumbent.errors == expected


@pytest.mark.parametrize("at_once", [1, 2, 7, None])
def test_number_of_workers_changes_nothing(at_once: int | None) -> None:
    spec = study(surface={"best_ks": [1.5, 6.0], **NOISE}, search=search(max_terms=3))
    reference = played(spec)
    other = played(spec, at_once=at_once)
    assert other.plan() == reference.plan()
    assert other.runs() == reference.runs()


# ---- the range grows ------------------------------------------------------------------------


@pytest.mark.parametrize("best", [4.5, 6.0, 8.0, 9.5])
def test_range_grows_until_the_best_lies_inside(best: float) -> None:
    spec = study(surface={"best_ks": [best]}, search=search(k_cap=20.0, max_terms=1))
    queue = played(spec)
    assert queue.plan().incumbent.ks == (best,)
    assert max(queue.ks_of(1)) > best
    assert not queue.plan().stages[0].at_edge


def test_range_grows_to_the_cap_and_not_beyond() -> None:
    spec = study(surface={"best_ks": [50.0]}, search=search(k_cap=7.0, max_terms=1))
    queue = played(spec)
    assert queue.ks_of(1) == set(grid(1.0, 7.0, 0.5))
    assert queue.plan().stages[0].at_edge
    assert queue.plan().incumbent.ks == (7.0,)


def test_cap_that_is_twice_k_max_when_left_out() -> None:
    part = {"k_min": 1.0, "k_max": 2.0, "seeds": 1, "max_terms": 1}
    queue = played(study(surface={"best_ks": [50.0]}, search=part))
    assert max(queue.ks_of(1)) == 4.0


def test_best_in_the_interior_does_not_grow_the_range() -> None:
    spec = study(surface={"best_ks": [2.0]}, search=search(k_cap=20.0, max_terms=1))
    assert played(spec).ks_of(1) == set(grid(1.0, 4.0, 0.5))


def test_range_waits_for_all_runs_before_it_grows() -> None:
    """An early lead of the largest k is not yet a reason to grow."""
    spec = study(search=search(k_cap=20.0, max_terms=1, seeds=1))
    queue = MemoryQueue(spec, stated({k: 20 - k for k in grid(1.0, 20.0, 0.5)}))
    queue.tick()
    largest = next(t for t in queue.waiting if t.k == 4.0)
    queue.put(completed(largest, 1.0))
    assert queue.plan().enqueue == ()
    assert len(queue.plan().stages[0].candidates) == 7


def test_cap_between_two_grid_points_is_not_exceeded() -> None:
    spec = study(surface={"best_ks": [50.0]}, search=search(k_cap=5.7, max_terms=1))
    assert max(played(spec).ks_of(1)) == 5.5


def test_k_max_between_two_grid_points_does_not_keep_the_range_from_the_cap() -> None:
    spec = study(surface={"best_ks": [50.0]}, search=search(k_max=4.2, k_cap=4.6, max_terms=1))
    assert max(played(spec).ks_of(1)) == 4.5


def test_candidates_keep_their_numbers_when_the_range_grows() -> None:
    spec = study(surface={"best_ks": [9.0]}, search=search(k_cap=12.0, max_terms=1))
    queue = MemoryQueue(spec)
    seen: dict[int, float | None] = {}
    while (plan := queue.tick()).progress == Progress.RUNNING:
        for candidate in plan.stages[0].candidates:
            assert seen.setdefault(candidate.index, candidate.k) == candidate.k
        queue.work()
    assert len(seen) > 7


def test_second_stage_starts_with_the_grown_range() -> None:
    spec = study(surface={"best_ks": [6.0]}, search=search(k_cap=10.0, max_terms=2))
    queue = played(spec)
    grown = max(queue.ks_of(1))
    assert grown > 6.0
    assert queue.ks_of(2) >= set(grid(6.5, grown, 0.5))


# ---- stages and terms -----------------------------------------------------------------------


def test_candidates_of_a_stage_exceed_the_term_before() -> None:
    spec = study(surface={"best_ks": [1.5, 6.0]}, search=search(max_terms=3, min_gain=0.0))
    queue = played(spec)
    plan = queue.plan()
    assert len(plan.stages) >= 2
    for stage in plan.stages[1:]:
        assert min(queue.ks_of(stage.n)) == stage.earlier_ks[-1] + 0.5


def test_incumbent_is_reused_and_not_trained_again() -> None:
    spec = study(surface={"best_ks": [1.5, 6.0]}, search=search(max_terms=3, min_gain=0.0))
    queue = played(spec)
    assert set(queue.runs().values()) == {1}
    schedules = [(*t.token.earlier_ks, t.k, t.key.seed) for t in queue.trials]
    assert len(schedules) == len(set(schedules))
    first, second = queue.plan().stages[:2]
    assert first.best is not None
    assert second.gain.n == len(first.best.errors) == 2


def gain_spec(min_gain: float) -> StudySpec:
    return study(search=search(k_max=2.0, k_cap=2.0, k_step=1.0, min_gain=min_gain, max_terms=1))


@pytest.mark.parametrize(
    ("min_gain", "kept"), [(0.0, True), (0.49, True), (0.5, False), (0.51, False)]
)
def test_term_is_kept_only_above_the_smallest_gain(min_gain: float, kept: bool) -> None:
    """The gain is 0.5 exactly; at the bound the simpler schedule stays."""
    outcome = stated({1.0: [10.0, 20.0], 2.0: [9.25, 19.75]})
    plan = played(gain_spec(min_gain), outcome).plan()
    assert plan.stages[0].gain.mean == 0.5
    assert plan.stages[0].kept is kept
    assert plan.incumbent.ks == ((2.0,) if kept else (1.0,))
    assert plan.progress == Progress.DONE


def test_no_gain_at_all_is_not_kept_even_when_none_is_asked_for() -> None:
    plan = played(gain_spec(0.0), stated({1.0: 10.0, 2.0: 10.0})).plan()
    assert plan.incumbent.ks == (1.0,)


def test_gain_of_a_second_term_is_measured_on_the_first() -> None:
    part = search(k_max=3.0, k_cap=3.0, k_step=1.0, max_terms=2, min_gain=0.1)
    outcome = stated({1.0: 10.0, 2.0: [5.0, 6.0], 3.0: 9.0}, {3.0: [4.75, 5.75]})
    plan = played(study(search=part), outcome).plan()
    assert plan.incumbent.ks == (2.0, 3.0)
    assert plan.stages[1].gain.mean == 0.25
    assert plan.baseline.errors == {0: 10.0, 1: 10.0}


def test_search_ends_at_the_first_term_that_does_not_help() -> None:
    part = search(k_max=3.0, k_cap=9.0, k_step=1.0, max_terms=5)
    outcome = stated({1.0: 10.0, 2.0: 5.0, 3.0: 9.0}, {3.0: 6.0, 4.0: 6.5, 5.0: 7.0})
    plan = played(study(search=part), outcome).plan()
    assert [stage.kept for stage in plan.stages] == [True, False]
    assert plan.incumbent.ks == (2.0,)
    assert plan.progress == Progress.DONE


@pytest.mark.parametrize("max_terms", [1, 2, 3])
def test_search_ends_at_the_largest_number_of_terms(max_terms: int) -> None:
    part = search(max_terms=max_terms, k_cap=20.0, seeds=1, min_gain=0.0)

    def ever_better(waiting: Trial) -> Trial:
        return completed(waiting, 50.0 - 10 * waiting.key.stage + abs((waiting.k or 0) - 1.5))

    queue = played(study(search=part), ever_better)
    plan = queue.plan()
    assert len(plan.incumbent.ks) == len(plan.stages) == max_terms
    assert plan.progress == Progress.DONE
    assert plan.enqueue == ()


def test_more_terms_may_be_asked_for_later() -> None:
    one = study(surface={"best_ks": [1.5, 6.0]}, search=search(max_terms=1, min_gain=0.0))
    queue = played(one)
    before = len(queue.trials)
    queue.spec = study(surface={"best_ks": [1.5, 6.0]}, search=search(max_terms=2, min_gain=0.0))
    assert queue.play().stages[1].progress == Progress.DONE
    assert {t.key.stage for t in queue.trials[before:]} == {2}


def test_search_ends_when_no_larger_k_is_left() -> None:
    part = search(k_max=2.0, k_cap=2.0, k_step=1.0, max_terms=4)
    plan = played(study(search=part), stated({1.0: 10.0, 2.0: 5.0})).plan()
    assert plan.incumbent.ks == (2.0,)
    assert len(plan.stages) == 1
    assert plan.progress == Progress.DONE


def test_original_schedule_that_is_best_ends_the_study() -> None:
    spec = study(surface={"best_ks": [1.0]}, search=search(max_terms=3, min_gain=0.0))
    plan = played(spec).plan()
    assert plan.incumbent.ks == (1.0,)
    assert [stage.kept for stage in plan.stages] == [False]
    assert plan.progress == Progress.DONE
    assert plan.incumbent == plan.baseline


@pytest.mark.parametrize("k_min", [0.25, 0.7, 1.0, 2.0, 3.0])
def test_original_schedule_is_a_candidate_of_stage_one_whatever_the_range(k_min: float) -> None:
    queue = played(study(search=search(k_min=k_min, max_terms=2)))
    baseline = [t for t in queue.trials if t.key.stage == 1 and t.k == 1.0]
    assert sorted(t.key.seed for t in baseline) == [0, 1]
    assert all(t.token.protected for t in baseline)
    assert not any(t.token.protected for t in queue.trials if t not in baseline)
    assert queue.ks_of(1) == {1.0, *grid(k_min, 4.0, 0.5)}


def test_original_schedule_can_win_below_the_range() -> None:
    spec = study(surface={"best_ks": [1.0]}, search=search(k_min=2.0))
    assert played(spec).plan().incumbent.ks == (1.0,)


def test_equal_errors_are_decided_for_one_of_the_equals() -> None:
    part = search(k_max=3.0, k_cap=3.0, k_step=1.0, max_terms=1)
    plan = played(study(search=part), stated({1.0: 10.0, 2.0: 5.0, 3.0: 5.0})).plan()
    assert plan.incumbent.ks in {(2.0,), (3.0,)}


def test_first_seeds_of_all_candidates_come_first() -> None:
    tokens = make_plan(study(search=search(seeds=3)), []).enqueue
    assert [token.key.seed for token in tokens] == sorted(token.key.seed for token in tokens)
    assert tokens[0].k == 1.0
    assert len(tokens) == 7 * 3


def test_token_holds_all_that_a_worker_needs() -> None:
    spec = study(surface={"best_ks": [1.5, 6.0]}, search=search(max_terms=2, min_gain=0.0))
    queue = played(spec)
    first = queue.plan().incumbent.ks[0]
    tokens = {t.token for t in queue.trials if t.key.stage == 2}
    assert {token.earlier_ks for token in tokens} == {(first,)}
    assert {token.bounds for token in tokens} == {(first + 0.5, 4.0)}
    assert {token.k for token in tokens} == set(grid(first + 0.5, 4.0, 0.5))


# ---- failures -------------------------------------------------------------------------------


def always_failing(k: float, good: Any) -> Any:
    return lambda waiting: failed(waiting) if waiting.k == k else good(waiting)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_failed_run_is_tried_again_up_to_its_attempts(attempts: int) -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": attempts})
    queue = played(spec, always_failing(2.0, simulated(spec)))
    assert {t.key for t in queue.trials if t.state == State.FAILED} == {
        t.key for t in queue.trials if t.k == 2.0
    }
    tried = {t.key: queue.runs()[t.key] for t in queue.trials if t.k == 2.0}
    assert list(tried.values()) == [attempts, attempts]
    candidate = by_k(queue.plan().stages[0])[2.0]
    assert (candidate.failed, candidate.unfinished, candidate.errors) == (2, 0, {})


def test_study_goes_on_without_a_candidate_that_always_fails() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=1))
    plan = played(spec, always_failing(2.5, simulated(spec))).plan()
    assert plan.progress == Progress.DONE
    assert plan.incumbent.ks in {(2.0,), (3.0,)}


def test_run_that_fails_once_still_counts() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=1))
    seen: set[RunKey] = set()

    def flaky(waiting: Trial) -> Trial:
        if waiting.key in seen:
            return simulated(spec)(waiting)
        seen.add(waiting.key)
        return failed(waiting, "lost")

    queue = played(spec, flaky)
    assert set(queue.runs().values()) == {2}
    assert queue.plan() == played(spec).plan()


def test_stage_in_which_every_run_fails_has_failed() -> None:
    queue = played(study(search=search(max_terms=2)), failed)
    plan = queue.plan()
    assert plan.progress == Progress.FAILED
    assert [stage.progress for stage in plan.stages] == [Progress.FAILED]
    assert not plan.stages[0].kept
    assert plan.enqueue == ()
    assert len(queue.trials) == 7 * 2 * 3


def test_failed_second_stage_leaves_the_first_term() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=2))

    def outcome(waiting: Trial) -> Trial:
        return simulated(spec)(waiting) if waiting.key.stage == 1 else failed(waiting)

    plan = played(spec, outcome).plan()
    assert plan.progress == Progress.FAILED
    assert plan.incumbent.ks == (2.5,)
    assert len(plan.incumbent.errors) == 2


def test_withdrawn_trials_use_up_no_attempt() -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": 2})
    first = make_plan(spec, []).enqueue[0]
    withdrawn = [
        Trial(number, first, State.FAILED, first.k, reason=WITHDRAWN) for number in range(5)
    ]
    once = Trial(5, first, State.FAILED, first.k, reason="error")
    assert first in make_plan(spec, [*withdrawn, once]).enqueue
    twice = replace(once, number=6)
    assert first not in make_plan(spec, [*withdrawn, once, twice]).enqueue


@pytest.mark.parametrize(
    ("reasons", "over"),
    [
        (["lost"] * 14, False),
        (["lost"] * 15, True),
        (["error", "error", *["lost"] * 4], False),
        (["error", "error", *["lost"] * 5], True),
        (["memory"], False),
        (["memory", "memory"], True),
        (["error", "memory"], False),
        (["error", "error", "memory"], True),
    ],
)
def test_a_run_is_over_after_three_errors_or_two_full_memories_or_fifteen_losses(
    reasons: list[str], over: bool
) -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": 3})
    first = make_plan(spec, []).enqueue[0]
    trials = [
        Trial(number, first, State.FAILED, first.k, reason=reason)
        for number, reason in enumerate(reasons)
    ]
    assert (first not in make_plan(spec, trials).enqueue) == over


def test_of_two_trials_that_train_the_same_run_the_later_one_is_withdrawn() -> None:
    spec = study(search=search(max_terms=1))
    first = make_plan(spec, []).enqueue[0]
    trials = [Trial(number, first, State.RUNNING, first.k) for number in range(2)]
    assert [trial.number for trial in make_plan(spec, trials).withdraw] == [1]


def test_candidate_with_fewer_seeds_does_not_win_by_luck() -> None:
    """Its one complete run is the best of all; the others failed."""
    spec = study(search=search(k_max=3.0, k_cap=3.0, k_step=1.0, max_terms=1))
    good = stated({1.0: 10.0, 2.0: [0.5, 0.0], 3.0: 6.0})

    def outcome(waiting: Trial) -> Trial:
        return failed(waiting) if (waiting.k, waiting.key.seed) == (2.0, 1) else good(waiting)

    assert played(spec, outcome).plan().incumbent.ks == (3.0,)


def test_term_without_one_seed_in_common_with_the_incumbent_is_not_kept() -> None:
    """Stage 1 ends on seed 0 alone, stage 2 on seed 1 alone: there is no pair to judge by."""
    spec = study(search=search(k_max=3.0, k_cap=3.0, k_step=1.0, max_terms=2))
    good = stated({1.0: 10.0, 2.0: 5.0, 3.0: 6.0}, {3.0: 90.0})

    def outcome(waiting: Trial) -> Trial:
        survives = waiting.key.seed == (0 if waiting.key.stage == 1 else 1)
        return good(waiting) if survives else failed(waiting)

    plan = played(spec, outcome).plan()
    assert plan.stages[1].gain.n == 0
    assert plan.incumbent.ks == (2.0,)


# ---- duplicates and pruning -----------------------------------------------------------------


def filled(**keys: Any) -> MemoryQueue:
    queue = MemoryQueue(study(search=search(**keys)))
    queue.tick()
    return queue


def again(queue: MemoryQueue, original: Trial, **changes: Any) -> Trial:
    """Another trial of the same run, as a repeated enqueue leaves one."""
    number = len(queue.trials)
    queue.trials.append(replace(original, number=number, trial_id=number, **changes))
    return queue.trials[-1]


def test_waiting_trials_of_one_run_are_withdrawn_but_for_the_first() -> None:
    queue = filled()
    extra = [again(queue, queue.trials[3]) for _ in range(3)]
    assert queue.plan().withdraw == tuple(extra)
    queue.tick()
    assert queue.plan().withdraw == ()
    assert queue.plan().enqueue == ()


@pytest.mark.parametrize("served", [State.RUNNING, State.COMPLETE, State.PRUNED])
def test_waiting_trial_of_a_run_that_is_served_is_withdrawn(served: State) -> None:
    queue = filled()
    queue.put(replace(queue.trials[0], state=served))
    extra = again(queue, queue.trials[0], state=State.WAITING)
    assert queue.plan().withdraw == (extra,)


def test_first_of_two_results_of_a_run_counts() -> None:
    queue = filled()
    queue.put(completed(queue.trials[0], 5.0))
    again(queue, queue.trials[0], error=4.0)
    assert by_k(queue.plan().stages[0])[1.0].errors == {0: 5.0}


def test_waiting_duplicate_is_withdrawn_when_its_stage_is_over() -> None:
    """A repeated enqueue may leave one behind; nobody should train it."""
    queue = played(study(search=search(max_terms=1)))
    extra = again(queue, queue.trials[-1], state=State.WAITING, error=None)
    assert queue.plan().withdraw == (extra,)


def test_pruned_runs_are_finished_but_have_no_error() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=1))

    def outcome(waiting: Trial) -> Trial:
        lost = waiting.k in {3.5, 4.0} and not waiting.token.protected
        return pruned(waiting) if lost else simulated(spec)(waiting)

    queue = played(spec, outcome)
    candidate = by_k(queue.plan().stages[0])[4.0]
    assert (candidate.pruned, candidate.unfinished, candidate.errors) == (2, 0, {})
    assert queue.plan().incumbent.ks == (2.5,)
    assert set(queue.runs().values()) == {1}


def test_pruned_upper_edge_does_not_grow_the_range() -> None:
    spec = study(surface={"best_ks": [9.0]}, search=search(k_cap=12.0, max_terms=1))

    def outcome(waiting: Trial) -> Trial:
        return pruned(waiting) if waiting.k == 4.0 else simulated(spec)(waiting)

    plan = played(spec, outcome).plan()
    assert plan.incumbent.ks == (3.5,)


def test_trials_of_other_earlier_terms_are_not_mixed_in() -> None:
    """Results that belong to another first term say nothing about this stage."""
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=2))
    queue = played(study(surface={"best_ks": [2.5]}, search=search(max_terms=1)))
    stranger = trial(999, 3.0, 0.1, stage=2, candidate=0, earlier=(1.5,))
    queue.trials.append(stranger)
    plan = make_plan(spec, queue.trials)
    assert plan.stages[1].earlier_ks == (2.5,)
    assert all(not candidate.errors for candidate in plan.stages[1].candidates)


# ---- samplers -------------------------------------------------------------------------------


def sampler_spec(**keys: Any) -> StudySpec:
    surface = {"best_ks": [2.5], **NOISE}
    return study(surface=surface, search=search(sampler="tpe", trials=6, seeds=3, **keys))


@pytest.mark.parametrize("at_once", [1, 4, None])
@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_sampler_runs_exactly_trials_times_seeds(sampler: str, at_once: int | None) -> None:
    part = search(sampler=sampler, trials=6, seeds=3, max_terms=2, min_gain=0.0, k_cap=None)
    queue = played(study(surface={"best_ks": [1.5, 5.0]}, search=part), at_once=at_once)
    for stage in queue.plan().stages:
        keys = {t.key for t in queue.trials if t.key.stage == stage.n}
        assert keys == {RunKey(stage.n, i, seed) for i in range(6) for seed in range(3)}
    assert set(queue.runs().values()) == {1}


def test_original_schedule_is_one_of_the_samplers_trials() -> None:
    tokens = make_plan(sampler_spec(), []).enqueue
    known = [token for token in tokens if token.k is not None]
    assert [(token.k, token.key.seed, token.protected) for token in known] == [
        (1.0, 0, True),
        (1.0, 1, True),
        (1.0, 2, True),
    ]


def test_other_seeds_wait_until_the_sampler_has_chosen() -> None:
    queue = MemoryQueue(sampler_spec(max_terms=1))
    plan = queue.tick()
    assert {token.key.seed for token in plan.enqueue if token.k is None} == {0}
    chosen = next(t for t in queue.waiting if t.k is None)
    queue.put(replace(chosen, state=State.RUNNING, k=3.25))
    more = queue.plan().enqueue
    assert [token.key.seed for token in more] == [1, 2]
    assert {token.k for token in more} == {3.25}


def test_all_seeds_of_a_candidate_have_the_samplers_k() -> None:
    queue = played(sampler_spec(max_terms=1))
    for candidate in queue.plan().stages[0].candidates:
        ks = {t.k for t in queue.trials if t.key.candidate == candidate.index}
        assert ks == {candidate.k}
        assert len(candidate.errors) == 3


def test_sampler_tries_its_k_again_after_a_failure() -> None:
    queue = MemoryQueue(sampler_spec(max_terms=1))
    queue.tick()
    chosen = next(t for t in queue.waiting if t.k is None)
    queue.put(failed(replace(chosen, k=3.25)))
    retries = [token for token in queue.plan().enqueue if token.key.candidate == 1]
    assert {token.k for token in retries} == {3.25}
    assert [token.key.seed for token in retries] == [0, 1, 2]


def test_candidate_whose_k_never_came_to_be_counts_as_failed() -> None:
    spec = sampler_spec(max_terms=1)

    def outcome(waiting: Trial) -> Trial:
        broken = waiting.key.candidate == 2
        return failed(replace(waiting, k=None)) if broken else simulated(spec)(waiting)

    plan = played(spec, outcome).plan()
    candidate = plan.stages[0].candidates[2]
    assert (candidate.k, candidate.failed, candidate.unfinished) == (None, 3, 0)
    assert plan.progress == Progress.DONE


def test_samplers_bounds_hold_the_original_and_then_exceed_the_first_term() -> None:
    spec = sampler_spec(max_terms=2, k_min=2.0, min_gain=0.0)
    queue = played(spec)
    plan = queue.plan()
    assert {t.token.bounds for t in queue.trials if t.key.stage == 1} == {(1.0, 4.0)}
    assert len(plan.stages) == 2
    first = plan.stages[0].best
    assert first is not None
    assert first.k is not None
    bounds = {t.token.bounds for t in queue.trials if t.key.stage == 2}
    assert all(low > first.k for low, _ in bounds)


def test_samplers_second_stage_has_room_to_choose_in() -> None:
    """The first term lies at the upper end; a single k is nothing to sample from."""
    part = search(sampler="tpe", trials=4, k_cap=8.0, max_terms=2, min_gain=0.0)
    queue = MemoryQueue(study(surface={"best_ks": [20.0]}, search=part))
    queue.tick()
    queue.work()
    for waiting in queue.waiting:
        queue.put(replace(waiting, k=3.9))
    queue.choose = lambda token: Point(token.bounds[1])  # type: ignore[method-assign]
    queue.play()
    bounds = {t.token.bounds for t in queue.trials if t.key.stage == 2}
    assert all(low < high for low, high in bounds)


# ---- properties of any study ----------------------------------------------------------------


@st.composite
def specs(draw: st.DrawFn) -> StudySpec:
    """Small searches of every kind, also with ranges that no whole number of steps fills."""
    k_min = draw(QUARTERS)
    k_max = k_min + draw(st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.3, 2.0]))
    sampler = draw(st.sampled_from(["grid", "grid", "grid", "random"]))
    part = {
        "sampler": sampler,
        "k_min": k_min,
        "k_max": k_max,
        "k_step": draw(st.sampled_from([0.25, 0.5, 0.6])),
        "k_cap": draw(st.none() | st.sampled_from([0.0, 0.4, 1.0, 2.5]).map(lambda x: k_max + x)),
        "trials": draw(st.integers(2, 4)),
        "seeds": draw(st.integers(1, 3)),
        "max_terms": draw(st.integers(1, 3)),
        "min_gain": draw(st.sampled_from([0.0, 0.1, 5.0])),
    }
    return study(search=part, workers={"max_attempts": draw(st.integers(1, 3))})


class Weather:
    """Outcomes that follow from a seed alone: any errors, and some runs pruned or failed."""

    def __init__(self, seed: int, trouble: float) -> None:
        self.seed, self.trouble = seed, trouble

    def __call__(self, waiting: Trial) -> Trial:
        key = (self.seed, waiting.key, waiting.token.earlier_ks, waiting.number)
        dice = random.Random(repr(key))
        if dice.random() < self.trouble:
            return failed(waiting, dice.choice(["error", "lost"]))
        if dice.random() < self.trouble and not waiting.token.protected:
            return pruned(waiting)
        return completed(waiting, dice.uniform(0, 100) - 10 * waiting.key.stage + 10)


WEATHER = st.builds(Weather, st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.6, 0.95]))
AT_ONCE = st.none() | st.integers(1, 6)


@settings(deadline=None, max_examples=100)
@given(spec=specs(), weather=WEATHER, at_once=AT_ONCE)
def test_no_study_runs_more_than_was_announced(
    spec: StudySpec, weather: Weather, at_once: int | None
) -> None:
    queue = played(spec, weather, at_once)
    announced = runs_at_most(spec)
    plan = queue.plan()
    assert len(plan.stages) <= len(announced) <= spec.search.max_terms
    for stage, (candidates, runs) in zip(plan.stages, announced, strict=False):
        assert len(stage.candidates) <= candidates
        assert len({t.key for t in queue.trials if t.key.stage == stage.n}) <= runs


def check_soundness(spec: StudySpec, queue: MemoryQueue, plan: Plan) -> None:
    part = spec.search
    for key, count in queue.runs().items():
        states = [t.state for t in queue.trials if t.key == key]
        assert count <= spec.workers.max_attempts * LOSSES_PER_ATTEMPT
        assert sum(state in {State.COMPLETE, State.PRUNED} for state in states) <= 1
    for stage in plan.stages:
        assert stage.n == len(stage.earlier_ks) + 1
        assert all(c.unfinished == 0 for c in stage.candidates)
        grid_ks = [c.k for c in stage.candidates if c.k is not None]
        if part.sampler == "grid":
            assert len(set(grid_ks)) == len(grid_ks)
            assert all(k <= max(part.cap, 1.0) + 1e-9 for k in grid_ks)
        assert all(k > earlier for k in grid_ks for earlier in stage.earlier_ks)
        if stage.kept and stage.gain.mean is not None:
            assert stage.gain.mean > part.min_gain
    kept = tuple(stage.best.k for stage in plan.stages if stage.kept and stage.best)
    assert plan.incumbent.ks == (kept or (1.0,))
    assert all(stage.kept for stage in plan.stages[:-1])


@settings(deadline=None, max_examples=100)
@given(spec=specs(), weather=WEATHER, at_once=AT_ONCE)
def test_every_study_ends_soundly_in_any_weather(
    spec: StudySpec, weather: Weather, at_once: int | None
) -> None:
    queue = played(spec, weather, at_once)
    plan = queue.plan()
    assert plan.progress in {Progress.DONE, Progress.FAILED}
    assert plan.enqueue == plan.withdraw == ()
    assert not queue.waiting
    check_soundness(spec, queue, plan)


def part_way(spec: StudySpec, weather: Weather, ticks: int) -> MemoryQueue:
    queue = MemoryQueue(spec, weather)
    for _ in range(ticks):
        queue.tick()
        queue.work(3)
    return queue


@settings(deadline=None, max_examples=80)
@given(spec=specs(), weather=WEATHER, ticks=st.integers(0, 15), shuffling=st.randoms())
def test_order_of_the_records_does_not_matter(
    spec: StudySpec, weather: Weather, ticks: int, shuffling: random.Random
) -> None:
    queue = part_way(spec, weather, ticks)
    for original in list(queue.trials[:2]):
        again(queue, original, state=State.WAITING, error=None)
    shuffled = list(queue.trials)
    shuffling.shuffle(shuffled)
    assert make_plan(spec, shuffled) == queue.plan()


@settings(deadline=None, max_examples=80)
@given(spec=specs(), weather=WEATHER, ticks=st.integers(0, 15))
def test_planning_twice_changes_nothing(spec: StudySpec, weather: Weather, ticks: int) -> None:
    queue = part_way(spec, weather, ticks)
    assert queue.plan() == queue.plan()
    queue.tick()
    after = queue.plan()
    assert after.enqueue == after.withdraw == ()
    trials = list(queue.trials)
    queue.tick()
    assert queue.trials == trials


@settings(deadline=None, max_examples=60)
@given(spec=specs(), weather=WEATHER)
def test_killed_driver_is_healed_by_the_next_tick(spec: StudySpec, weather: Weather) -> None:
    """A tick that dies after each single enqueue leaves the same runs as one that does not."""
    whole, broken = MemoryQueue(spec, weather), MemoryQueue(spec, weather)
    whole.tick()
    while tokens := broken.plan().enqueue:
        number = len(broken.trials)
        broken.trials.append(Trial(number, tokens[0], State.WAITING, tokens[0].k, trial_id=number))
    assert broken.trials == whole.trials


# ---- what is announced ----------------------------------------------------------------------


def test_announced_runs_are_those_of_a_search_that_grows_to_the_cap() -> None:
    """Stage 1: k = 1 to 8 by 0.5 with three seeds; stage 2 starts at 1.5."""
    spec = study(search={"k_min": 1.0, "k_max": 4.0, "seeds": 3, "max_terms": 2})
    assert runs_at_most(spec) == [(15, 45), (14, 42)]


def test_announced_runs_count_the_original_when_it_is_off_the_grid() -> None:
    spec = study(search=search(k_min=2.0, seeds=1, max_terms=1))
    assert runs_at_most(spec) == [(6, 6)]


def test_announced_runs_of_a_sampler_are_trials_times_seeds_per_stage() -> None:
    assert runs_at_most(sampler_spec(max_terms=2)) == [(6, 18), (6, 18)]


def test_no_stage_is_announced_beyond_the_cap() -> None:
    spec = study(search=search(k_max=2.0, k_cap=2.0, k_step=1.0, max_terms=9, seeds=1))
    assert runs_at_most(spec) == [(2, 2), (1, 1)]


# ---- the order of a grid --------------------------------------------------------------------


@given(values=st.lists(st.floats(-100, 100), unique=True, max_size=60))
def test_spread_loses_nothing_and_doubles_nothing(values: list[float]) -> None:
    assert sorted(spread(values)) == sorted(values)


@given(size=st.integers(2, 80), data=st.data())
def test_any_beginning_of_a_spread_covers_the_range(size: int, data: st.DataObject) -> None:
    """After both ends, every doubling of the number halves the widest gap."""
    length = data.draw(st.integers(2, size))
    begun = sorted(spread(range(size))[:length])
    assert (begun[0], begun[-1]) == (0, size - 1)
    widest = max(b - a for a, b in pairwise(begun))
    assert widest <= math.ceil((size - 1) / 2 ** math.floor(math.log2(length - 1)))
