"""Paired comparisons, held against scipy, against simulation and against textbooks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdecay_search.statistics import Comparison, compare, holm

ERRORS = st.integers(0, 400).map(lambda images: images / 4)
"""As a test set of 400 images gives them: with many ties."""
PAIRS = st.lists(st.tuples(ERRORS, ERRORS), min_size=2, max_size=12)

DARWIN = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)
"""Crossed less self-fertilised maize, eighths of an inch: the paired example of R. A. Fisher,
The Design of Experiments (1935), where t = 2.148."""


def compared(differences: list[float] | tuple[float, ...]) -> Comparison:
    return compare(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0))


def with_p(p: float | None, difference: float = 1.0) -> Comparison:
    return replace(compared([1.0]), p=p, difference=difference)


def test_darwins_maize_is_compared_as_fisher_did() -> None:
    found = compared(DARWIN)
    assert found.difference == pytest.approx(20.933, abs=1e-3)
    assert found.difference / (found.sd / math.sqrt(15)) == pytest.approx(2.148, abs=1e-3)
    assert found.p == pytest.approx(0.0497, abs=1e-4)
    assert found.interval == pytest.approx((0.03, 41.84), abs=0.01)
    assert found.verdict == "better"


def test_five_pairs_are_too_few_for_signed_ranks() -> None:
    few = compared(DARWIN[:5])
    assert few.p_wilcoxon is None
    assert few.verdict == "no detectable difference"


@given(PAIRS)
def test_p_values_and_interval_are_those_of_scipy(pairs: list[tuple[float, float]]) -> None:
    old, new = zip(*pairs, strict=True)
    found = compare(dict(enumerate(old)), dict(enumerate(new)))
    if found.sd == 0:
        return
    expected = stats.ttest_rel(old, new)
    assert found.p == pytest.approx(float(expected.pvalue), rel=1e-6, abs=1e-12)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()), abs=1e-6)


@given(st.lists(ERRORS, min_size=6, max_size=10, unique=True), st.data())
def test_signed_ranks_without_ties_are_those_of_scipy(
    sizes: list[float], data: st.DataObject
) -> None:
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(sizes), max_size=len(sizes)))
    differences = [sign * (size + 1) for sign, size in zip(signs, sizes, strict=True)]
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert compared(differences).p_wilcoxon == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=6, max_size=9))
def test_signed_ranks_with_ties_count_all_choices_of_signs(steps: list[int]) -> None:
    found = compared([step / 4 for step in steps])
    differ = np.array([step for step in steps if step])
    if len(differ) < 6:
        assert found.p_wilcoxon is None
        return
    ranks = stats.rankdata(np.abs(differ))
    signs = np.array(np.meshgrid(*[[0, 1]] * len(differ))).reshape(len(differ), -1)
    sums, seen = ranks @ signs, ranks[differ > 0].sum()
    tail = min((sums <= seen).mean(), (sums >= seen).mean())
    assert found.p_wilcoxon == pytest.approx(min(1.0, 2 * tail))


@given(PAIRS)
def test_a_verdict_says_what_the_interval_says(pairs: list[tuple[float, float]]) -> None:
    old, new = zip(*pairs, strict=True)
    found = compare(dict(enumerate(old)), dict(enumerate(new)))
    if found.interval is not None:
        low, high = found.interval
        says = "better" if low > 0 else "worse" if high < 0 else "no detectable difference"
        assert found.verdict == says


@given(PAIRS)
def test_the_other_way_round_everything_is_mirrored(pairs: list[tuple[float, float]]) -> None:
    old, new = (dict(enumerate(errors)) for errors in zip(*pairs, strict=True))
    there, back = compare(old, new), compare(new, old)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == pytest.approx(back.p)
    assert there.p_wilcoxon == pytest.approx(back.p_wilcoxon)
    mirrored = {"better": "worse", "worse": "better"}
    assert there.verdict == mirrored.get(back.verdict, back.verdict)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_the_truth_in_95_of_100_samples(n: int) -> None:
    random = np.random.default_rng(n)
    samples = random.normal(0.2, 0.42, (800, n)).tolist()
    covered = [low <= 0.2 <= high for low, high in (compared(s).interval for s in samples)]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("n", [5, 10])
def test_the_bootstrap_covers_the_truth_in_95_of_100_samples(n: int) -> None:
    random = np.random.default_rng(n)
    samples = random.normal(0.2, 0.42, (800, n)).tolist()
    covered = [low <= 0.2 <= high for low, high in (compared(s).bootstrap for s in samples)]
    assert 0.925 <= np.mean(covered) <= 0.975


def test_the_bootstrap_is_left_out_where_a_resample_of_one_value_is_likely() -> None:
    assert compared([0.1, 0.2, 0.3, 0.5]).bootstrap is None
    assert compared([0.25] * 7 + [0.5]).bootstrap is None
    assert compared([0.1, 0.2, 0.3, 0.5, 0.9]).bootstrap is not None


def test_the_same_errors_give_the_same_answer() -> None:
    assert compared(DARWIN) == compared(DARWIN)


def test_only_seeds_that_both_have_are_compared() -> None:
    found = compare({0: 5.0, 1: 6.0, 2: 7.0}, {1: 5.5, 2: 6.0, 3: 0.0})
    assert (found.n, found.difference) == (2, 0.75)


@pytest.mark.parametrize(("old", "new", "n"), [({}, {}, 0), ({0: 1.0}, {1: 1.0}, 0)])
def test_without_pairs_there_is_nothing_to_tell(
    old: dict[int, float], new: dict[int, float], n: int
) -> None:
    found = compare(old, new)
    assert found == Comparison(None, None, n, None, None, None, None)
    assert found.verdict == "no detectable difference"


def test_one_pair_has_a_difference_and_no_verdict() -> None:
    found = compare({0: 5.0}, {0: 4.0})
    assert (found.difference, found.n, found.p, found.interval) == (1.0, 1, None, None)
    assert found.verdict == "no detectable difference"


def test_equal_differences_count_from_six_pairs_on() -> None:
    """Half a point on each of three seeds is one image of 200: chance may do that."""
    few, many = compared([0.5] * 5), compared([0.5] * 6)
    assert few.interval is many.interval is few.bootstrap is many.detectable is None
    assert (few.p, few.verdict) == (0.0625, "no detectable difference")
    assert (many.p, many.p_wilcoxon, many.verdict) == (0.03125, 0.03125, "better")


def test_rounding_does_not_pass_for_noise() -> None:
    found = compare({0: 0.3, 1: 10.3, 2: 20.3}, {0: 0.1, 1: 10.1, 2: 20.1})
    assert (found.sd, found.interval, found.verdict) == (0.0, None, "no detectable difference")


def test_errors_without_any_difference_are_no_evidence() -> None:
    found = compared([0.0] * 8)
    assert (found.difference, found.p, found.p_wilcoxon) == (0.0, 1.0, None)
    assert found.verdict == "no detectable difference"


@pytest.mark.parametrize("broken", [math.inf, math.nan, -math.inf])
def test_a_run_without_a_finite_error_leaves_nothing_to_compare(broken: float) -> None:
    found = compare({0: 5.0, 1: 6.0}, {0: 4.0, 1: broken})
    assert found == Comparison(None, None, 2, None, None, None, None)
    assert found.verdict == "no detectable difference"


def test_holm_is_the_worked_example_of_four_p_values() -> None:
    family = {name: with_p(p) for name, p in zip("abcd", (0.01, 0.04, 0.03, 0.005), strict=True)}
    adjusted = {name: c.p_adjusted for name, c in holm(family).items()}
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert {name: c.verdict for name, c in holm(family).items()} == {
        "a": "better",
        "b": "no detectable difference",
        "c": "no detectable difference",
        "d": "better",
    }


@given(st.dictionaries(st.text(max_size=3), st.none() | st.floats(0, 1), max_size=6))
def test_holm_only_ever_raises_p_and_keeps_the_order(ps: dict[str, float | None]) -> None:
    family = holm({name: with_p(p) for name, p in ps.items()})
    assert list(family) == list(ps)
    tested = sorted((c.p, c.p_adjusted) for c in family.values() if c.p is not None)
    assert all(p <= adjusted <= 1 for p, adjusted in tested)
    assert [adjusted for _, adjusted in tested] == sorted(adjusted for _, adjusted in tested)
    assert all(c.p_adjusted is None for c in family.values() if c.p is None)


def test_a_family_of_five_comparisons_is_wrong_about_any_in_at_most_5_of_100() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for errors in random.normal(8.0, 0.3, (600, 6, 5)).tolist():
        new, *others = (dict(enumerate(by_seed)) for by_seed in errors)
        family = holm({str(i): compare(old, new) for i, old in enumerate(others)})
        wrong += any(c.verdict != "no detectable difference" for c in family.values())
    assert 0 < wrong / 600 <= 0.05
