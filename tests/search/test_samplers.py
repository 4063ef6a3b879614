"""Samplers that choose k."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdecay_search.search import Progress, make_plan
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import RunKey, State, Trial
from tests.search.searches import played, sampler_spec, search
from tests.support.memory_studies import MemoryQueue, failed, simulated, study


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
    requests = make_plan(sampler_spec(), []).enqueue
    known = [request for request in requests if request.k is not None]
    assert [(request.k, request.key.seed, request.protected) for request in known] == [
        (1.0, 0, True),
        (1.0, 1, True),
        (1.0, 2, True),
    ]


def test_other_seeds_wait_until_the_sampler_has_chosen() -> None:
    queue = MemoryQueue(sampler_spec(max_terms=1))
    plan = queue.reconcile()
    assert {request.key.seed for request in plan.enqueue if request.k is None} == {0}
    chosen = next(t for t in queue.waiting if t.k is None)
    queue.put(replace(chosen, state=State.RUNNING, k=3.25))
    more = queue.plan().enqueue
    assert [request.key.seed for request in more] == [1, 2]
    assert {request.k for request in more} == {3.25}


def test_all_seeds_of_a_candidate_have_the_samplers_k() -> None:
    queue = played(sampler_spec(max_terms=1))
    for candidate in queue.plan().stages[0].candidates:
        ks = {t.k for t in queue.trials if t.key.candidate == candidate.index}
        assert ks == {candidate.k}
        assert len(candidate.errors) == 3


def test_sampler_tries_its_k_again_after_a_failure() -> None:
    queue = MemoryQueue(sampler_spec(max_terms=1))
    queue.reconcile()
    chosen = next(t for t in queue.waiting if t.k is None)
    queue.put(failed(replace(chosen, k=3.25)))
    retries = [request for request in queue.plan().enqueue if request.key.candidate == 1]
    assert {request.k for request in retries} == {3.25}
    assert [request.key.seed for request in retries] == [0, 1, 2]


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
    assert {t.request.bounds for t in queue.trials if t.key.stage == 1} == {(1.0, 4.0)}
    assert len(plan.stages) == 2
    first = plan.stages[0].best
    assert first is not None
    assert first.k is not None
    bounds = {t.request.bounds for t in queue.trials if t.key.stage == 2}
    assert all(low > first.k for low, _ in bounds)


def test_samplers_second_stage_has_room_to_choose_in() -> None:
    """The first term lies at the upper end; a single k is nothing to sample from."""
    part = search(sampler="tpe", trials=4, k_cap=8.0, max_terms=2, min_gain=0.0)
    queue = MemoryQueue(study(surface={"best_ks": [20.0]}, search=part))
    queue.reconcile()
    queue.work()
    for waiting in queue.waiting:
        queue.put(replace(waiting, k=3.9))
    queue.choose = lambda request: Candidate(request.bounds[1])  # type: ignore[method-assign]
    queue.play()
    bounds = {t.request.bounds for t in queue.trials if t.key.stage == 2}
    assert all(low < high for low, high in bounds)
