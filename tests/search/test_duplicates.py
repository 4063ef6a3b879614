"""Trials of a run that is served already, and runs that are pruned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdecay_search.search import make_plan
from kdecay_search.study.trials import State, Trial
from tests.search.searches import again, by_k, played, search
from tests.support.memory_studies import MemoryQueue, completed, pruned, simulated, study, trial


def filled(**keys: Any) -> MemoryQueue:
    queue = MemoryQueue(study(search=search(**keys)))
    queue.reconcile()
    return queue


def test_waiting_trials_of_one_run_are_withdrawn_but_for_the_first() -> None:
    queue = filled()
    extra = [again(queue, queue.trials[3]) for _ in range(3)]
    assert queue.plan().withdraw == tuple(extra)
    queue.reconcile()
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
        lost = waiting.k in {3.5, 4.0} and not waiting.request.protected
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
