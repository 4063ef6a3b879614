"""The smooth curve through all results: against scikit-learn, brute force and known truths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.choice import Result, choose, fit, smooth_means

KS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)


def results(
    truth: dict[float, float], seeds: int, noise: float, seed_noise: float, draw: int
) -> list[Result]:
    random = np.random.default_rng(draw)
    offsets = random.normal(0, seed_noise, seeds)
    return [
        (k, seed, truth[k] + offsets[seed] + random.normal(0, noise))
        for seed in range(seeds)
        for k in truth
    ]


def bowl(best: float) -> dict[float, float]:
    return {k: 30.0 + 2.0 * np.log(k / best) ** 2 for k in KS}


def test_one_curve_equals_scikit_learn_s_regressor() -> None:
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    from sklearn.gaussian_process import GaussianProcessRegressor

    one_seed = results(bowl(3.0), 1, 0.3, 0.0, 0)
    means, _, _ = fit(KS, one_seed, np.array([0.8]), np.array([2.0]), np.array([0.0]))
    level = 2 * 1e3  # of our level and seed effect, in units of the noise
    kernel = kernels.ConstantKernel(level) + 4.0 * kernels.RBF(0.8)
    model = GaussianProcessRegressor(kernel, alpha=1.0, optimizer=None)
    errors = np.array([error for _, _, error in one_seed])
    at = np.log(np.array([k for k, _, _ in one_seed]))[:, None]
    theirs = model.fit(at, errors - errors.mean()).predict(np.log(np.array(KS))[:, None])
    assert means[0] == pytest.approx(theirs - theirs.mean(), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(best=st.sampled_from(KS), seeds=st.integers(1, 4), draw=st.integers(0, 10_000))
def test_without_noise_the_smallest_error_is_chosen(best: float, seeds: int, draw: int) -> None:
    choice = choose(KS, results(bowl(best), seeds, 0.0, 1.0, draw))
    assert KS[int(np.argmin(choice.means))] == best


def test_a_seed_s_own_level_changes_nothing() -> None:
    plain = results(bowl(3.0), 3, 0.3, 0.0, 1)
    shifted = [(k, seed, error + (0.0, 5.0, -3.0)[seed]) for k, seed, error in plain]
    assert choose(KS, shifted).means == pytest.approx(choose(KS, plain).means, abs=0.05)


def test_a_candidate_with_one_hard_seed_is_not_taken_for_a_bad_one() -> None:
    """k = 3 ran on the hard seed alone, the others on the easy one as well."""
    table = {(k, seed): error for k, seed, error in results(bowl(3.0), 2, 0.05, 0.0, 2)}
    seen = [(k, seed, e + 4.0 * seed) for (k, seed), e in table.items() if (k, seed) != (3.0, 0)]
    choice = choose(KS, seen)
    assert KS[int(np.argmin(choice.means))] == 3.0


def test_order_of_the_results_does_not_matter() -> None:
    found = results(bowl(3.0), 3, 0.5, 0.5, 3)
    assert choose(KS, found) == choose(KS, reversed(found))


def test_probabilities_sum_to_one_and_find_a_clear_winner() -> None:
    choice = choose(KS, results({**bowl(4.0), 4.0: 25.0}, 4, 0.1, 0.5, 4))
    assert sum(choice.probabilities) == pytest.approx(1.0)
    assert choice.probability(4.0) > 0.99
    assert choice.better[KS.index(4.0)] > 0.99


def test_where_k_makes_no_difference_the_probability_stays_spread() -> None:
    flat = dict.fromkeys(KS, 30.0)
    claims = 0
    for draw in range(60):
        choice = choose(KS, results(flat, 3, 0.5, 0.5, draw))
        best = int(np.argmin(choice.means))
        claims += choice.better[best] > 0.975
        assert max(choice.probabilities) < 0.95
    assert claims <= 6


def test_smooth_means_pull_an_outlier_towards_its_neighbours() -> None:
    truth = {**bowl(3.0), 2.0: 33.0}
    smooth = smooth_means(KS, [(k, 0, error) for k, error in truth.items()])
    assert smooth[2.0] - smooth[3.0] < truth[2.0] - truth[3.0]


def test_a_single_result_is_enough_to_begin_with() -> None:
    choice = choose((1.0, 2.0), [(1.0, 0, 5.0)])
    assert sum(choice.probabilities) == pytest.approx(1.0)
