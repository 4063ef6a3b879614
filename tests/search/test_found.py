"""What a search finds: that of brute force."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.search_spec import grid
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.simulated import curve, final_error
from tests.search.searches import NOISE, QUARTERS, played, search
from tests.support.memory_studies import study


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
