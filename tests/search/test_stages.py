"""Stages and terms."""

from __future__ import annotations

import pytest

from kdecay_search.search import Progress, make_plan
from kdecay_search.study.search_spec import grid
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import Trial
from tests.search.searches import played, search
from tests.support.memory_studies import completed, stated, study


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
    schedules = [(*t.request.earlier_ks, t.k, t.key.seed) for t in queue.trials]
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
    assert all(t.request.protected for t in baseline)
    assert not any(t.request.protected for t in queue.trials if t not in baseline)
    assert queue.ks_of(1) == {1.0, *grid(k_min, 4.0, 0.5)}


def test_original_schedule_can_win_below_the_range() -> None:
    spec = study(surface={"best_ks": [1.0]}, search=search(k_min=2.0))
    assert played(spec).plan().incumbent.ks == (1.0,)


def test_equal_errors_are_decided_for_one_of_the_equals() -> None:
    part = search(k_max=3.0, k_cap=3.0, k_step=1.0, max_terms=1)
    plan = played(study(search=part), stated({1.0: 10.0, 2.0: 5.0, 3.0: 5.0})).plan()
    assert plan.incumbent.ks in {(2.0,), (3.0,)}


def test_first_seeds_of_all_candidates_come_first() -> None:
    requests = make_plan(study(search=search(seeds=3)), []).enqueue
    assert [request.key.seed for request in requests] == sorted(
        request.key.seed for request in requests
    )
    assert requests[0].k == 1.0
    assert len(requests) == 7 * 3


def test_token_holds_all_that_a_worker_needs() -> None:
    spec = study(surface={"best_ks": [1.5, 6.0]}, search=search(max_terms=2, min_gain=0.0))
    queue = played(spec)
    first = queue.plan().incumbent.ks[0]
    requests = {t.request for t in queue.trials if t.key.stage == 2}
    assert {request.earlier_ks for request in requests} == {(first,)}
    assert {request.bounds for request in requests} == {(first + 0.5, 4.0)}
    assert {request.k for request in requests} == set(grid(first + 0.5, 4.0, 0.5))
