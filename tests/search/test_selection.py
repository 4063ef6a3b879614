"""The smooth curve through all results: against scikit-learn, brute force and known truths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.search.gaussian_process import Contrasts, GaussianProcess
from kdecay_search.search.knowledge_gradient import Posterior, Run
from kdecay_search.search.policy import POLICY
from kdecay_search.search.results import Array, Result, Results
from kdecay_search.search.selection import Selection
from kdecay_search.search.surrogate import Surrogate, smooth_curve
from kdecay_search.study.candidate import Candidate


def select(
    points: Iterable[Candidate],
    found: Results | Iterable[Result],
    among: Iterable[Candidate] | None = None,
) -> Selection:
    given = found if isinstance(found, Results) else Results.of(found)
    return Selection.of(Surrogate.of(points, given), among)


def posterior(points: Iterable[Candidate], found: Results, among: Iterable[Candidate]) -> Posterior:
    return Posterior.of(Surrogate.of(points, found), among)


KS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
POINTS = tuple(map(Candidate, KS))
VALUES = np.log([KS])


def results(
    truth: dict[float, float], seeds: int, noise: float, seed_noise: float, draw: int
) -> list[Result]:
    random = np.random.default_rng(draw)
    offsets = random.normal(0, seed_noise, seeds)
    return [
        (Candidate(k), seed, truth[k] + offsets[seed] + random.normal(0, noise))
        for seed in range(seeds)
        for k in truth
    ]


def bowl(best: float) -> dict[float, float]:
    return {k: 30.0 + 2.0 * np.log(k / best) ** 2 for k in KS}


def test_one_curve_equals_scikit_learn_s_regressor() -> None:
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    from sklearn.gaussian_process import GaussianProcessRegressor

    one_seed = results(bowl(3.0), 1, 0.3, 0.0, 0)
    means = GaussianProcess.fit(
        VALUES, Contrasts.of(POINTS, Results.of(one_seed)), (0.8,), np.array([2.0]), np.array([0.0])
    ).means
    free = 1e7  # of the level, in units of the noise
    kernel = kernels.ConstantKernel(free) + 4.0 * kernels.RBF(0.8)
    model = GaussianProcessRegressor(kernel, alpha=1.0, optimizer=None)
    errors = np.array([error for _, _, error in one_seed])
    at = np.log(np.array([point.k for point, _, _ in one_seed]))[:, None]
    theirs = model.fit(at, errors - errors.mean()).predict(np.log(np.array(KS))[:, None])
    assert means[0] == pytest.approx(theirs - theirs.mean(), abs=1e-5)


PAIRS = tuple(Candidate(k, level) for k in (1.0, 1.5, 2.5, 4.0) for level in (0.05, 0.1, 0.2))


def valley(point: Candidate) -> float:
    """Lowest at k = 2.5 and lr_max = 0.1; the best level falls with k."""
    assert point.lr_max is not None
    k, level = np.log(point.k / 2.5), np.log(point.lr_max / 0.1)
    return float(30.0 + 2.0 * k**2 + 1.5 * (level + 0.4 * k) ** 2)


def pair_results(seeds: int, noise: float, draw: int) -> list[Result]:
    random = np.random.default_rng(draw)
    offsets = random.normal(0, 1.0, seeds)
    return [
        (point, seed, valley(point) + offsets[seed] + random.normal(0, noise))
        for seed in range(seeds)
        for point in PAIRS
    ]


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_surface_over_k_and_level_equals_scikit_learn_s_with_two_lengths(seeds: int) -> None:
    """Seed effects by indicator columns of a huge variance."""
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    from sklearn.gaussian_process import GaussianProcessRegressor

    found = [r for r in pair_results(seeds, 0.3, 0) if r[:2] != (Candidate(2.5, 0.2), 2)]
    seen = Contrasts.of(PAIRS, Results.of(found))
    values = np.log(np.array([point[:2] for point in PAIRS], float)).T
    means = GaussianProcess.fit(values, seen, (0.8, 0.5), np.array([2.0]), np.array([0.0])).means[0]

    def places(points: list[Candidate], of_seeds: list[int]) -> Array:
        """Log k, log lr_max, and a place of each seed far away from the others'."""
        logs = np.log(np.array([point[:2] for point in points], float))
        return np.column_stack([logs, 1e3 * np.array(of_seeds, float)])

    smooth = kernels.RBF([0.8, 0.5, 1e9])
    of_seed = kernels.RBF([1e9, 1e9, 1e-3])
    kernel = 4.0 * smooth + kernels.ConstantKernel(1e6) * of_seed
    model = GaussianProcessRegressor(kernel, alpha=1.0, optimizer=None)
    errors = np.array([error for _, _, error in found])
    at = places([point for point, _, _ in found], [seed for _, seed, _ in found])
    model.fit(at, errors - errors.mean())
    theirs = model.predict(places(list(PAIRS), [99] * len(PAIRS)))
    assert means == pytest.approx(theirs - theirs.mean(), abs=1e-3)


def test_a_level_that_all_share_changes_nothing() -> None:
    """Of the later stages of a search over levels."""
    plain = results(bowl(3.0), 3, 0.3, 0.5, 4)
    shared = [(Candidate(point.k, 0.1), seed, error) for point, seed, error in plain]
    one, other = select(POINTS, plain), select([Candidate(k, 0.1) for k in KS], shared)
    assert one.means == other.means
    assert one.probabilities == other.probabilities


def test_the_lowest_pair_is_chosen_without_noise() -> None:
    selection = select(PAIRS, pair_results(2, 0.0, 1))
    assert PAIRS[int(np.argmin(selection.means))] == min(PAIRS, key=valley)


def test_levels_vouch_for_each_other() -> None:
    """k = 2.5 at lr_max 0.1 did not run; its neighbours at other levels and ks did."""
    found = [r for r in pair_results(2, 0.05, 2) if r[0] != Candidate(2.5, 0.1)]
    selection = select(PAIRS, found)
    assert selection.mean(Candidate(2.5, 0.1)) < selection.mean(Candidate(1.0, 0.1))
    assert selection.mean(Candidate(2.5, 0.1)) < selection.mean(Candidate(2.5, 0.05))


def test_a_single_result_of_a_search_over_levels_is_enough_to_begin_with() -> None:
    """All lengths are as likely as one another then."""
    selection = select(PAIRS, [(PAIRS[0], 0, 30.0)])
    assert sum(selection.probabilities) == pytest.approx(1.0)


def test_a_choice_among_some_is_made_from_the_results_of_all() -> None:
    found = pair_results(3, 0.3, 3)
    some = [point for point in PAIRS if point.k == 1.0]
    every, among = select(PAIRS, found), select(PAIRS, found, some)
    assert among.points == tuple(some)
    assert among.means == tuple(every.mean(point) for point in some)
    assert sum(among.probabilities) == pytest.approx(1.0)


def dense(
    found: list[Result], length: float, signal: float, own: float
) -> tuple[Array, Array, float]:
    """Means, covariance and log evidence of the errors at ``KS`` by the textbook: every result a
    row of one Gaussian, seed effects of a huge variance among the rest."""
    k, seed, error = np.array([(point.k, seed, error) for point, seed, error in found]).T

    def covariance(a: Array, b: Array) -> Array:
        gap = np.subtract.outer(np.log(a), np.log(b))
        return signal**2 * np.exp(-0.5 * (gap / length) ** 2) + own**2 * (gap == 0)

    grid = np.array(KS)
    same_seed = np.equal.outer(seed, seed)
    inner = covariance(k, k) + 1e7 * same_seed + np.eye(len(k))
    weights = np.linalg.solve(inner, covariance(k, grid)).T
    centred = error - error.mean()
    freedom = max(1, len(k) - len(set(seed)))
    noise = (centred @ np.linalg.solve(inner, centred) + POLICY.noise_floor) / freedom
    centre = np.eye(len(KS)) - 1 / len(KS)
    posterior = noise * (covariance(grid, grid) - weights @ covariance(k, grid))
    evidence = -0.5 * np.linalg.slogdet(inner)[1] - 0.5 * freedom * np.log(noise)
    return centre @ weights @ centred, centre @ posterior @ centre, float(evidence)


@pytest.mark.parametrize("kept", [1.0, 0.6])
@pytest.mark.parametrize("seeds", [1, 3])
def test_seed_effects_are_taken_out_as_if_their_variance_were_huge(seeds: int, kept: float) -> None:
    random = np.random.default_rng(5)
    found = [
        r for r in results(bowl(3.0), seeds, 0.3, 2.0, 6) if r[0].k < 9 and random.random() < kept
    ]
    signals, own = np.array([0.5, 2.0, 32.0]), np.array([0.5, 0.0, 0.5])
    ours = GaussianProcess.fit(
        VALUES, Contrasts.of(POINTS, Results.of(found)), (0.7,), signals, own
    )
    theirs = [dense(found, 0.7, *sizes) for sizes in zip(signals, own, strict=True)]
    assert ours.means == pytest.approx(np.array([means for means, _, _ in theirs]), abs=1e-4)
    evidence = [part for _, _, part in theirs]
    assert np.diff(ours.evidence) == pytest.approx(np.diff(evidence), abs=1e-3)
    for number, (_, covariance, _) in enumerate(theirs):
        wide = replace(
            ours, contrasts=replace(ours.contrasts, freedom=1_000_000)
        )  # next to a Gaussian
        drawn = wide.draw(number, 40_000, np.random.default_rng(number))
        drawn -= drawn.mean(axis=1, keepdims=True)
        assert np.cov(drawn.T) == pytest.approx(covariance, abs=0.04 * np.abs(covariance).max())


def test_the_work_grows_with_the_candidates_and_not_with_the_results() -> None:
    found = results(dict.fromkeys(KS, 30.0), 1000, 0.3, 1.0, 7)
    seen = Contrasts.of(POINTS, Results.of(found))
    ours = GaussianProcess.fit(VALUES, seen, (0.7,), np.array([2.0]), np.array([0.5]))
    sizes = {part.size for part in vars(ours.contrasts).values() if isinstance(part, np.ndarray)}
    assert max(sizes) == len(KS) * (len(KS) - 1)


def test_a_thousand_candidates_are_judged() -> None:
    points = [Candidate(k) for k in np.linspace(1.0, 100.0, 1000).tolist()]
    selection = select(points, [(point, 0, 30 + np.log(point.k / 10) ** 2) for point in points])
    assert points[int(np.argmin(selection.means))].k == pytest.approx(10.0, abs=0.5)
    assert sum(selection.probabilities) == pytest.approx(1.0)


def width(selection: Selection, point: Candidate) -> float:
    low, high = selection.gain(point).interval
    return high - low


def test_a_candidate_without_results_is_guessed_from_its_neighbours() -> None:
    found = [r for r in results(bowl(3.0), 2, 0.05, 1.0, 8) if r[0] != Candidate(3.0)]
    selection = select(POINTS, found)
    assert selection.mean(Candidate(3.0)) < selection.mean(Candidate(1.5))
    assert width(selection, Candidate(3.0)) > width(selection, Candidate(2.0))


def test_a_gain_has_an_interval_that_holds_its_mean() -> None:
    gain = select(POINTS, results(bowl(3.0), 4, 0.2, 0.5, 9)).gain(Candidate(3.0))
    low, high = gain.interval
    assert low < gain.mean < high
    assert gain.mean == pytest.approx(2 * np.log(3) ** 2, abs=0.5)
    assert gain.is_sure


def test_a_belief_is_the_choice_s_draws_and_its_noise() -> None:
    known = Results.of(results(bowl(4.0), 4, 0.3, 0.5, 4))
    some = POINTS[2:6]
    posterior_, selection = posterior(POINTS, known, some), select(POINTS, known)
    assert posterior_.means.tolist() == pytest.approx([selection.mean(point) for point in some])
    assert posterior_.lowest(some) == min(some, key=selection.mean)
    assert 0.15 < np.sqrt(posterior_.noise) < 0.6
    gain = posterior(POINTS, known, (POINTS[0], POINTS[4]))
    spread = gain.covariance[0, 0] + gain.covariance[1, 1] - 2 * gain.covariance[0, 1]
    assert 3.92 * np.sqrt(spread) == pytest.approx(width(selection, POINTS[4]), rel=0.15)


def on(seed: int, points: Iterable[Candidate]) -> list[Run]:
    return [(point, seed) for point in points]


def test_further_seeds_are_worth_more_among_equals_than_behind_a_clear_winner() -> None:
    flat = Results.of(results(dict.fromkeys(KS, 30.0), 1, 0.5, 0.0, 10))
    clear = Results.of(results({**bowl(4.0), 4.0: 25.0}, 4, 0.1, 0.5, 4))
    assert posterior(POINTS, flat, POINTS).knowledge_gradient(on(4, POINTS)) > 0.01
    assert posterior(POINTS, clear, POINTS).knowledge_gradient(on(4, POINTS)) < 0.001


def test_the_worth_of_a_pair_is_the_closed_form_s() -> None:
    """Of two equals, the one that is then ahead is better by half of E|N(0, s²)|, s that of the
    difference's new mean."""
    doubt, noise = 0.6, 0.3
    pair = Posterior((Candidate(1.0), Candidate(2.0)), np.zeros(2), doubt**2 * np.eye(2), noise**2)
    s = 2 * doubt**2 / np.sqrt(2 * doubt**2 + 2 * noise**2)
    expected = pytest.approx(s * np.sqrt(2 / np.pi) / 2, rel=0.05)
    assert pair.knowledge_gradient(on(0, pair.points)) == expected
    assert (
        pair.knowledge_gradient(on(0, [Candidate(2.0)]))
        == pair.knowledge_gradient(on(0, [Candidate(2.0), Candidate(2.0)]))
        == 0.0
    )
    assert pair.knowledge_gradient([(Candidate(1.0), 0), (Candidate(2.0), 1)]) == 0.0
    one_is_there = replace(pair, ran={0: frozenset([Candidate(1.0)])})
    assert one_is_there.knowledge_gradient(on(0, [Candidate(2.0)])) == expected


def test_samples_do_not_hang_on_the_eigenvectors_that_a_processor_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose signs are arbitrary, and differ between processors."""
    found = Results.of([r for r in pair_results(3, 0.3, 0) if r[:2] != (Candidate(2.5, 0.2), 2)])
    surrogate = Surrogate.of(PAIRS, found)
    eigh, random = np.linalg.eigh, np.random.default_rng(3)

    def flipped(matrix: Array) -> tuple[Array, Array]:
        sizes, vectors = eigh(matrix)
        return sizes, vectors * random.choice((-1.0, 1.0), sizes.shape)[..., None, :]

    monkeypatch.setattr(np.linalg, "eigh", flipped)
    assert Surrogate.of(PAIRS, found).draws == pytest.approx(surrogate.draws, abs=1e-9)


def test_a_run_where_many_ran_tells_more_than_one_where_a_single_one_did() -> None:
    points = tuple(map(Candidate, KS))
    doubt = np.diag(np.where(np.arange(len(KS)) == 0, 0.5, 1e-6))
    ran = {0: frozenset(points[1:]), 1: frozenset(points[1:2])}
    believed = Posterior(points, np.zeros(len(KS)), doubt, 0.5, ran)
    assert believed.knowledge_gradient(on(0, points[:1])) > 1.1 * believed.knowledge_gradient(
        on(1, points[:1])
    )


@settings(deadline=None, max_examples=30)
@given(seeds=st.integers(1, 3), draw=st.integers(0, 10_000), there=st.integers(0, len(KS) - 2))
def test_one_more_run_is_never_worth_less(seeds: int, draw: int, there: int) -> None:
    """But for the few samples that it is told from. On the last seed some have run already."""
    every = results(bowl(3.0), seeds + 1, 0.5, 1.0, draw)
    ran, rest = POINTS[:there], POINTS[there:]
    known = [each for each in every if each[1] < seeds or each[0] in ran]
    posterior_ = posterior(POINTS, Results.of(known), POINTS)
    worths = [
        posterior_.knowledge_gradient(on(seeds, rest[:count])) for count in range(1, len(rest) + 1)
    ]
    assert all(b >= a - 0.1 * worths[-1] - 0.001 for a, b in pairwise(worths))


@settings(deadline=None, max_examples=30)
@given(best=st.sampled_from(KS), seeds=st.integers(1, 4), draw=st.integers(0, 10_000))
def test_without_noise_the_smallest_error_is_chosen(best: float, seeds: int, draw: int) -> None:
    selection = select(POINTS, results(bowl(best), seeds, 0.0, 1.0, draw))
    assert KS[int(np.argmin(selection.means))] == best


def test_a_seed_s_own_level_changes_nothing() -> None:
    plain = results(bowl(3.0), 3, 0.3, 0.0, 1)
    shifted = [(point, seed, error + (0.0, 5.0, -3.0)[seed]) for point, seed, error in plain]
    assert select(POINTS, shifted).means == pytest.approx(select(POINTS, plain).means, abs=1e-9)


def test_a_candidate_with_one_hard_seed_is_not_taken_for_a_bad_one() -> None:
    """k = 3 ran on the hard seed alone, the others on the easy one as well."""
    every = results(bowl(3.0), 2, 0.05, 0.0, 2)
    kept = [each for each in every if each[:2] != (Candidate(3.0), 0)]
    seen = [(point, seed, error + 4.0 * seed) for point, seed, error in kept]
    selection = select(POINTS, seen)
    assert KS[int(np.argmin(selection.means))] == 3.0


def test_order_of_the_results_does_not_matter() -> None:
    found = results(bowl(3.0), 3, 0.5, 0.5, 3)
    first, second = (select(POINTS, each) for each in (found, reversed(found)))
    assert first.means == second.means
    assert first.probabilities == second.probabilities
    assert [first.gain(p).interval for p in POINTS] == [second.gain(p).interval for p in POINTS]


def test_probabilities_sum_to_one_and_find_a_clear_winner() -> None:
    selection = select(POINTS, results({**bowl(4.0), 4.0: 25.0}, 4, 0.1, 0.5, 4))
    assert sum(selection.probabilities) == pytest.approx(1.0)
    assert selection.probability(Candidate(4.0)) > 0.99
    assert selection.gain(Candidate(4.0)).probability > 0.99


def test_where_k_makes_no_difference_the_probability_stays_spread() -> None:
    flat = dict.fromkeys(KS, 30.0)
    claims = 0
    for draw in range(60):
        selection = select(POINTS, results(flat, 3, 0.5, 0.5, draw))
        best = int(np.argmin(selection.means))
        claims += selection.gain(selection.points[best]).probability > 0.975
        assert max(selection.probabilities) < 0.95
    assert claims <= 6


def test_a_single_result_is_enough_to_begin_with() -> None:
    selection = select((Candidate(1.0), Candidate(2.0)), [(Candidate(1.0), 0, 5.0)])
    assert sum(selection.probabilities) == pytest.approx(1.0)


def test_the_curve_to_be_drawn_runs_through_clear_results_at_their_own_level() -> None:
    truth = bowl(3.0)
    found = results(truth, 3, 0.02, 0.0, 5)
    curve = smooth_curve(map(Candidate, (1.0, 2.0, 2.5, 3.0, 10.0)), found)
    assert curve.ks == (1.0, 2.0, 2.5, 3.0, 10.0)
    assert curve.errors[3] == pytest.approx(truth[3.0], abs=0.15)
    assert curve.errors[2] == pytest.approx(30.0 + 2.0 * np.log(2.5 / 3.0) ** 2, abs=0.15)
    assert curve.errors[4] == pytest.approx(truth[10.0], abs=0.15)
    bands = zip(curve.low, curve.errors, curve.high, strict=True)
    assert all(low < error < high for low, error, high in bands)


def test_the_curve_to_be_drawn_does_not_sink_where_only_easy_seeds_ran() -> None:
    """Seed 1 is four points harder, and k = 10 did not run on it."""
    flat = dict.fromkeys(KS, 30.0)
    every = results(flat, 2, 0.02, 0.0, 6)
    kept = [each for each in every if each[:2] != (Candidate(10.0), 1)]
    curve = smooth_curve(POINTS, [(point, seed, e + 4.0 * seed) for point, seed, e in kept])
    assert curve.errors == pytest.approx((32.0,) * len(KS), abs=0.2)


@pytest.mark.parametrize(
    "found", [[(Candidate(2.0), 0, 5.0)], [(Candidate(1.0), 0, 5.0), (Candidate(2.0), 0, 6.0)]]
)
def test_the_curve_to_be_drawn_is_finite_after_a_result_or_two(found: list[Result]) -> None:
    curve = smooth_curve(map(Candidate, (1.0, 1.5, 2.0)), found)
    assert np.isfinite([*curve.errors, *curve.low, *curve.high]).all()
    assert min(curve.low) < 5.5 < max(curve.high)
