"""The grid of candidates."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdecay_search.study.search_spec import grid
from tests.study.files import refused_with
from tests.study.strategies import numbers


@given(
    first=st.integers(1, 2000),
    count=st.integers(0, 300),
    step=st.sampled_from(["0.01", "0.05", "0.1", "0.3", "0.7", "0.25"]),
)
@example(first=1, count=9, step="0.1")
def test_grid_has_no_drift(first: int, count: int, step: str) -> None:
    """Every point is the float nearest to the exact decimal, and the last one is not lost."""
    exact = [Fraction(first, 100) + i * Fraction(step) for i in range(count + 1)]
    assert grid(float(exact[0]), float(exact[-1]), float(step)) == tuple(map(float, exact))


@given(low=numbers(0.01, 100), width=numbers(0, 50), step=numbers(0.05, 60))
def test_grid_stays_in_its_range(low: float, width: float, step: float) -> None:
    points = grid(low, low + width, step)
    assert points[0] == pytest.approx(low, abs=1e-9)
    assert all(low - 1e-9 <= point <= low + width + 1e-9 for point in points)
    assert low + width - points[-1] < step + 1e-9
    assert all(b - a == pytest.approx(step, abs=1e-9) for a, b in pairwise(points))


def test_grid_between_swapped_ends_is_empty() -> None:
    assert grid(5.0, 1.0, 0.5) == ()


def test_k_that_rounds_to_zero_is_refused(tmp_path: Path) -> None:
    """Candidates are rounded to 10 decimals, and k = 0 is no schedule."""
    assert "search.k_min = 1e-12: must be" in refused_with(tmp_path, search__k_min=1e-12)
