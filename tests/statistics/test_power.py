"""What a number of seeds can show, held against tables and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdecay_search.statistics import SEEDS_NEEDED_LIMIT, detectable_difference, seeds_needed

SDS = st.floats(0.01, 10)


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_small_medium_and_large_effects_need_the_pairs_that_tables_of_power_give(
    effect: float, n: int
) -> None:
    """As G*Power for matched pairs, two-sided, 5 %, 80 %."""
    assert seeds_needed(sd=1.0, difference=effect) == n


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50])
def test_the_detectable_difference_is_shown_with_the_power_that_was_asked(n: int) -> None:
    shift = detectable_difference(0.42, n) * np.sqrt(n) / 0.42
    critical = stats.t.ppf(0.975, n - 1)
    assert stats.nct.sf(critical, n - 1, shift) == pytest.approx(0.8, abs=1e-4)


def test_simulated_pairs_show_a_detectable_difference_in_80_of_100_samples() -> None:
    true = detectable_difference(0.42, 5)
    samples = np.random.default_rng(1).normal(true, 0.42, (4000, 5))
    shown = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05
    assert shown.mean() == pytest.approx(0.8, abs=0.02)


@given(SDS, st.integers(3, 500))
def test_more_seeds_show_less_and_more_noise_hides_more(sd: float, n: int) -> None:
    assert detectable_difference(sd, n) < detectable_difference(sd, n - 1)
    assert detectable_difference(2 * sd, n) == pytest.approx(2 * detectable_difference(sd, n))


@given(SDS, st.floats(0.02, 5))
def test_the_seeds_needed_are_the_fewest_that_suffice(sd: float, difference: float) -> None:
    n = seeds_needed(sd, difference)
    assert 2 <= n <= SEEDS_NEEDED_LIMIT
    if n < SEEDS_NEEDED_LIMIT:
        assert detectable_difference(sd, n) <= difference
    if n > 2:
        assert detectable_difference(sd, n - 1) > difference


def test_a_difference_far_below_the_noise_needs_the_most_that_is_counted() -> None:
    assert seeds_needed(sd=1.0, difference=1e-6) == SEEDS_NEEDED_LIMIT


def test_without_noise_two_seeds_show_anything() -> None:
    assert seeds_needed(sd=0.0, difference=1e-6) == 2
    assert detectable_difference(0.0, 2) == 0


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="2 pairs"):
        detectable_difference(0.4, 1)
    with pytest.raises(ValueError, match="sd not negative"):
        detectable_difference(-0.4, 5)
    with pytest.raises(ValueError, match="above 0"):
        seeds_needed(0.4, 0.0)
