"""The noise of runs, taken apart from schedules and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdecay_search.statistics import pooled_noise

ERRORS = st.floats(0, 100)


def test_two_schedules_on_the_same_seeds_give_the_sd_of_their_paired_differences() -> None:
    old, new = [9.0, 8.2, 8.8, 9.5], [8.1, 8.0, 8.4, 8.2]
    found = pooled_noise([dict(enumerate(old)), dict(enumerate(new))])
    assert found.sd == pytest.approx(np.std(np.subtract(old, new), ddof=1))
    assert found.degrees_of_freedom == 3
    low, high = (found.sd * math.sqrt(3 / stats.chi2.ppf(p, 3)) for p in (0.975, 0.025))
    assert found.interval == pytest.approx((low, high))


def test_a_full_grid_gives_the_residual_of_a_two_way_table() -> None:
    """Residuals of rows and columns, for (K - 1)(S - 1) degrees of freedom."""
    errors = np.random.default_rng(0).normal(8, 0.3, (5, 4))
    left = errors - errors.mean(0) - errors.mean(1, keepdims=True) + errors.mean()
    found = pooled_noise([dict(enumerate(row)) for row in errors.tolist()])
    assert found.degrees_of_freedom == 12
    assert found.sd == pytest.approx(math.sqrt(2 * (left**2).sum() / 12))


@given(
    levels=st.lists(ERRORS, min_size=2, max_size=5),
    effects=st.lists(ERRORS, min_size=2, max_size=4),
)
def test_schedules_and_seeds_are_no_noise(levels: list[float], effects: list[float]) -> None:
    found = pooled_noise([{s: a + b for s, b in enumerate(effects)} for a in levels])
    assert found.sd == 0
    assert found.interval == (0, 0)


def test_a_race_with_gaps_is_estimated_without_bias_and_its_interval_covers_in_95_of_100() -> None:
    random = np.random.default_rng(3)
    squares, covered = [], []
    for _ in range(1000):
        errors = random.normal(0, 0.3, (9, 3)) + random.normal(0, 1, (1, 3)) + np.arange(9)[:, None]
        kept = [errors[k, :n] for k, n in enumerate((3, 3, 2, 2, 1, 1, 1, 1, 1))]
        found = pooled_noise([dict(enumerate(row.tolist())) for row in kept])
        assert found.degrees_of_freedom == 4
        squares.append(found.sd**2)
        covered.append(found.interval[0] <= 0.3 * math.sqrt(2) <= found.interval[1])
    assert np.mean(squares) == pytest.approx(2 * 0.09, rel=0.08)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(
    "schedules",
    [
        [],
        [{0: 5.0}, {0: 6.0}, {0: 7.0}],
        [{0: 5.0, 1: 6.0}, {0: 6.0}],
        [{0: 5.0, 1: 6.0}, {2: 6.0, 3: 7.0}],
        [{0: 5.0, 1: 6.0}, {0: 6.0, 1: math.inf}],
    ],
)
def test_too_few_runs_cannot_tell(schedules: list[dict[int, float]]) -> None:
    assert pooled_noise(schedules) is None
