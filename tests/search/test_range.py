"""The range of k: how it grows, and in which order its grid is tried."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.search import Progress, spread
from kdecay_search.study.search_spec import grid
from tests.search.searches import played, search
from tests.support.memory_studies import MemoryQueue, completed, stated, study

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
    queue.reconcile()
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
    while (plan := queue.reconcile()).progress == Progress.RUNNING:
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
