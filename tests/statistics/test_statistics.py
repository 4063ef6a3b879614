"""Means and paired gains, held against numpy and scipy."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdecay_search.statistics import Sample, describe, paired_gain

ERRORS = st.floats(0.0, 100.0)
BY_SEED = st.dictionaries(st.integers(0, 12), ERRORS, max_size=8)


@given(values=st.lists(ERRORS, min_size=2, max_size=30))
def test_mean_and_standard_deviation_are_those_of_numpy(values: list[float]) -> None:
    sample = describe(values)
    assert sample.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert sample.sd == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert sample.n == len(values)


@given(
    values=st.lists(ERRORS, min_size=2, max_size=30).filter(lambda v: np.ptp(v) > 1e-6),
    confidence=st.floats(0.5, 0.999),
)
def test_interval_is_that_of_scipy(values: list[float], confidence: float) -> None:
    expected = stats.t.interval(
        confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    assert describe(values).interval(confidence) == pytest.approx(expected, abs=1e-6)


def test_interval_at_95_percent_over_five_pairs_by_hand() -> None:
    low, high = describe([1.0, 2.0, 3.0, 4.0, 5.0]).interval() or (0.0, 0.0)
    assert low == pytest.approx(3 - 2.776445 * math.sqrt(2.5 / 5), abs=1e-5)
    assert high == pytest.approx(3 + 2.776445 * math.sqrt(2.5 / 5), abs=1e-5)


def test_interval_of_equal_values_is_a_point() -> None:
    assert describe([2.5, 2.5, 2.5]).interval() == (2.5, 2.5)


def test_nothing_has_no_mean_and_no_interval() -> None:
    assert describe([]) == Sample(None, None, 0)
    assert describe([]).interval() is None


def test_one_value_has_a_mean_but_no_spread() -> None:
    assert describe([4.0]) == Sample(4.0, None, 1)
    assert describe([4.0]).interval() is None


def test_generator_is_described_like_a_list() -> None:
    assert describe(float(i) for i in range(4)) == describe([0.0, 1.0, 2.0, 3.0])


@given(old=BY_SEED, new=BY_SEED)
def test_gain_counts_only_the_seeds_that_both_have(
    old: dict[int, float], new: dict[int, float]
) -> None:
    shared = old.keys() & new.keys()
    gain = paired_gain(old, new)
    assert gain.n == len(shared)
    if shared:
        assert gain.mean == pytest.approx(np.mean([old[s] - new[s] for s in shared]), abs=1e-9)
    else:
        assert gain == Sample(None, None, 0)


def test_gain_of_disjoint_seeds_is_nothing() -> None:
    assert paired_gain({0: 9.0, 1: 8.0}, {2: 1.0}) == Sample(None, None, 0)


@given(old=BY_SEED, new=BY_SEED)
def test_gain_the_other_way_round_is_the_loss(old: dict[int, float], new: dict[int, float]) -> None:
    there, back = paired_gain(old, new), paired_gain(new, old)
    if there.mean is not None and back.mean is not None:
        assert there.mean == pytest.approx(-back.mean, abs=1e-12)
    assert there.n == back.n
    assert there.sd == (None if back.sd is None else pytest.approx(back.sd, abs=1e-9))


def test_noise_between_seeds_falls_out_of_a_paired_gain() -> None:
    """The seeds differ by 10 points, the gain is 0.5 in each of them."""
    old = {seed: 10.0 * seed + 2.0 for seed in range(4)}
    new = {seed: 10.0 * seed + 1.5 for seed in range(4)}
    gain = paired_gain(old, new)
    assert gain.mean == pytest.approx(0.5)
    assert gain.sd == pytest.approx(0.0, abs=1e-9)


def test_lower_error_is_a_positive_gain() -> None:
    assert paired_gain({0: 5.0}, {0: 4.0}).mean == 1.0


@given(by_seed=st.dictionaries(st.integers(0, 12), ERRORS, min_size=2, max_size=8))
def test_order_in_which_seeds_finished_does_not_matter(by_seed: dict[int, float]) -> None:
    backwards = dict(reversed(by_seed.items()))
    old = dict.fromkeys(by_seed, 50.0)
    assert paired_gain(old, by_seed) == paired_gain(old, backwards)


def test_a_gain_that_is_only_rounding_is_none() -> None:
    """Errors on 359 images, as many wrong in all: the mean of the differences is 1e-16."""
    old, new = ([100 * wrong / 359 for wrong in wrongs] for wrongs in ((10, 12, 19), (11, 11, 19)))
    assert fmean(a - b for a, b in zip(old, new, strict=True)) != 0.0
    assert paired_gain(dict(enumerate(old)), dict(enumerate(new))).mean == 0.0
