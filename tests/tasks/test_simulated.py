from __future__ import annotations

import math
import statistics
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from kdecay_search.study.builtin_tasks import SimulatedTask, SurfaceSpec
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import FOUND
from kdecay_search.tasks.simulated import START_ERROR, comparator_curve, curve, final_error
from tests.support.memory_studies import NOISELESS, study

SEEDS = 400
KS = st.lists(st.floats(0.05, 50.0), min_size=1, max_size=3, unique=True).map(
    lambda ks: tuple(sorted(ks))
)


def task(epochs: int = 20, **surface: object) -> SimulatedTask:
    return SimulatedTask(
        kind="simulated", epochs=epochs, surface=SurfaceSpec(**NOISELESS | surface)
    )


def phi(ks: tuple[float, ...], u: float) -> float:
    return sum(u**k for k in ks) / len(ks)


@settings(deadline=None, max_examples=50)
@given(best=KS, ks=KS, curvature=st.floats(0.0, 300.0))
@example(best=(2.5,), ks=(1.0,), curvature=30.0)
def test_surface_is_the_stated_integral(
    best: tuple[float, ...], ks: tuple[float, ...], curvature: float
) -> None:
    surface = SurfaceSpec(best_ks=best, best_error=5.0, curvature=curvature)
    squared, _ = integrate.quad(lambda u: (phi(ks, u) - phi(best, u)) ** 2, 0, 1, limit=200)
    assert final_error(surface, ks) == pytest.approx(
        min(100.0, 5.0 + curvature * squared), abs=1e-5
    )


@settings(deadline=None, max_examples=50)
@given(best=KS, ks=KS, level=st.floats(0.1, 5.0))
def test_surface_over_levels_is_the_distance_of_the_rates(
    best: tuple[float, ...], ks: tuple[float, ...], level: float
) -> None:
    surface = SurfaceSpec(best_ks=best, best_error=5.0, best_lr_max=0.2)

    def squared(u: float) -> float:
        return (level * (1 - phi(ks, u)) - (1 - phi(best, u))) ** 2

    distance, _ = integrate.quad(squared, 0, 1, limit=200)
    assert final_error(surface, ks, 0.2 * level) == pytest.approx(
        min(100.0, 5.0 + 30 * distance), abs=1e-5
    )
    assert final_error(surface, best, 0.2) == pytest.approx(5.0, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(best=KS, ks=KS, power=st.floats(0.3, 8.0), level=st.floats(0.1, 5.0))
def test_surface_with_a_best_power_is_the_stated_integral(
    best: tuple[float, ...], ks: tuple[float, ...], power: float, level: float
) -> None:
    surface = SurfaceSpec(best_ks=best, best_error=5.0, best_lr_max=0.2, best_power=power)

    def squared(u: float) -> float:
        return (level * (1 - phi(ks, u)) - (1 - phi(best, u)) ** power) ** 2

    distance, _ = integrate.quad(squared, 0, 1, limit=200)
    assert final_error(surface, ks, 0.2 * level) == pytest.approx(
        min(100.0, 5.0 + 30 * distance), abs=1e-4
    )


@settings(deadline=None, max_examples=30)
@given(k=st.floats(0.05, 50.0), level=st.floats(0.01, 1.0), seed=st.integers(0, 5))
def test_a_whole_candidate_like_one_of_a_grid_has_its_error(
    k: float, level: float, seed: int
) -> None:
    """With the study file's floor, as a share of the level, where levels make no difference."""
    spec = study(surface={"best_ks": [2.0]}, search={"sampler": "joint"})
    point = Candidate(k, level, "polynomial", 1.0, None, 0.01)
    assert isinstance(spec.task, SimulatedTask)
    run = comparator_curve(spec, FOUND, (k,), seed, point=point)
    alike = curve(spec.task, (k,), seed)
    for epoch, other in zip(run, alike, strict=True):
        assert epoch.validation_error == pytest.approx(other.validation_error, abs=1e-6)
        assert epoch.learning_rate == pytest.approx(other.learning_rate, abs=1e-9)


BEST = Candidate(0.4, 0.2, "polynomial", 1.5, None, 0.01)


OTHERS = (
    BEST._replace(k=0.5),
    BEST._replace(power=1.2),
    BEST._replace(lr_max=0.25),
    BEST._replace(lr_min=0.05),
    BEST._replace(family="cosine", power=None),
    Candidate(None, 0.2, "cooldown", None, 0.3, 0.01),
)


@pytest.mark.parametrize("other", OTHERS)
def test_no_whole_candidate_is_better_than_the_best_one(other: Candidate) -> None:
    surface = {"best_ks": [0.4], "best_power": 1.5, "best_lr_max": 0.2, "best_error": 5.0}
    spec = study(surface=surface, schedule={"lr_min": 0.002}, search={"sampler": "joint"})

    def last(point: Candidate) -> float:
        ks = () if point.k is None else (point.k,)
        run = comparator_curve(spec, FOUND, ks, seed=0, point=point)
        assert all(epoch.learning_rate >= 0.0 for epoch in run)
        assert run[-1].learning_rate == 0.0
        return run[-1].validation_error

    assert last(BEST) == pytest.approx(5.0, abs=1e-9)
    assert last(other) > 5.01


@pytest.mark.parametrize("other", [*OTHERS, BEST._replace(warmup=0.1)])
def test_another_whole_candidate_draws_another_noise(other: Candidate) -> None:
    surface = {"run_noise": 0.3, "curvature": 0.0}
    spec = study(surface=surface, search={"sampler": "joint"})

    def drawn(point: Candidate) -> float:
        ks = () if point.k is None else (point.k,)
        return comparator_curve(spec, FOUND, ks, seed=0, point=point)[-1].validation_error

    assert drawn(other) != drawn(BEST)
    assert drawn(other) == drawn(other)


def test_k_1_is_at_its_best_at_a_higher_level_than_the_best_schedule() -> None:
    """At 1.35 times its level where that has k = 3, by which it makes up for over half."""
    surface = SurfaceSpec(best_ks=(3.0,), best_lr_max=0.1)
    levels = [0.1 + i / 1000 for i in range(100)]
    best = min(levels, key=lambda level: final_error(surface, (1.0,), level))
    assert best == pytest.approx(0.135)
    tuned, untuned = (final_error(surface, (1.0,), level) - 8.0 for level in (best, 0.1))
    assert 0.4 * untuned < tuned < 0.5 * untuned


def test_where_the_level_makes_no_difference_runs_at_two_levels_still_differ_by_their_noise() -> (
    None
):
    noisy = task(run_noise=0.3)
    assert final_error(noisy.surface, (2.0,), 0.1) == final_error(noisy.surface, (2.0,), 0.2)
    one, other = (curve(noisy, (2.0,), 0, level)[-1] for level in (0.1, 0.2))
    assert one.validation_error != other.validation_error


@given(best=KS, ks=KS)
def test_no_schedule_is_better_than_the_best_one(
    best: tuple[float, ...], ks: tuple[float, ...]
) -> None:
    surface = SurfaceSpec(best_ks=best, best_error=5.0)
    assert final_error(surface, best) == pytest.approx(5.0, abs=1e-9)
    assert final_error(surface, ks) >= 5.0


@given(best=st.floats(0.5, 20.0), steps=st.lists(st.floats(0.1, 5.0), min_size=2, max_size=2))
def test_error_grows_with_the_distance_from_the_best_k(best: float, steps: list[float]) -> None:
    surface = SurfaceSpec(best_ks=(best,))
    near, far = steps[0], sum(steps)
    assert final_error(surface, (best,)) < final_error(surface, (best + near,))
    assert final_error(surface, (best + near,)) < final_error(surface, (best + far,))
    assert final_error(surface, (best / (1 + near),)) < final_error(surface, (best / (1 + far),))


def test_surface_never_exceeds_a_hundred_percent() -> None:
    assert final_error(SurfaceSpec(best_ks=(50.0,), curvature=1e6), (1.0,)) == 100.0


def test_repeated_run_draws_the_same_curve() -> None:
    noisy = task(seed_noise=0.3, run_noise=0.2, epoch_noise=0.3)
    assert curve(noisy, (1.0, 2.5), seed=3) == curve(noisy, (1.0, 2.5), seed=3)


@pytest.mark.parametrize(
    ("ks", "seed", "noise_seed"), [((2.0,), 0, 0), ((2.5,), 1, 0), ((2.5,), 0, 1)]
)
def test_another_run_draws_another_curve(ks: tuple[float, ...], seed: int, noise_seed: int) -> None:
    noise = {"seed_noise": 0.3, "run_noise": 0.2, "epoch_noise": 0.3}
    one = curve(task(**noise), (2.5,), seed=0)
    other = curve(task(**noise, noise_seed=noise_seed), ks, seed=seed)
    assert all(a.validation_error != b.validation_error for a, b in zip(one, other, strict=True))


@given(best=KS, ks=KS, epochs=st.integers(1, 30), seed=st.integers(0, 5))
def test_curve_without_noise_ends_on_the_surface(
    best: tuple[float, ...], ks: tuple[float, ...], epochs: int, seed: int
) -> None:
    quiet = task(epochs, best_ks=best)
    run = curve(quiet, ks, seed)
    assert [epoch.number for epoch in run] == list(range(1, epochs + 1))
    assert run[-1].validation_error == pytest.approx(final_error(quiet.surface, ks), abs=1e-9)
    assert run[-1].averaged_error == pytest.approx(run[-1].validation_error, abs=1e-9)
    assert run[-1].learning_rate == pytest.approx(0.0, abs=1e-12)


@given(
    ks=KS,
    seed=st.integers(0, 50),
    noise=st.floats(0.0, 60.0),
    crossing=st.floats(0.0, 90.0),
    best_error=st.floats(0.0, 100.0),
)
def test_every_error_is_a_percentage(
    ks: tuple[float, ...], seed: int, noise: float, crossing: float, best_error: float
) -> None:
    wild = task(
        8,
        seed_noise=noise,
        run_noise=noise,
        epoch_noise=noise,
        crossing=crossing,
        best_error=best_error,
    )
    for epoch in curve(wild, ks, seed):
        assert 0.0 <= epoch.validation_error <= 100.0
        assert 0.0 <= epoch.averaged_error <= 100.0
        assert math.isfinite(epoch.training_loss)


def test_curve_comes_down_from_an_untrained_network() -> None:
    run = curve(task(100), (1.0,), seed=0)
    assert START_ERROR * 0.8 < run[0].averaged_error < START_ERROR
    assert run[-1].averaged_error < run[19].averaged_error < run[0].averaged_error


def finals(surface: dict[str, float], ks: tuple[float, ...]) -> list[float]:
    noisy = task(2, best_error=50.0, **surface)
    goal = final_error(noisy.surface, ks)
    return [curve(noisy, ks, seed)[-1].validation_error - goal for seed in range(SEEDS)]


def test_final_noise_has_the_stated_standard_deviations() -> None:
    """Seed noise is shared by all candidates of a seed, run noise is a run's own: in a difference
    of two candidates the one falls out, and the other stays twice."""
    both = {"seed_noise": 3.0, "run_noise": 1.0, "epoch_noise": 5.0}
    one, other = finals(both, (1.0,)), finals(both, (2.0,))
    tolerance = 4 / math.sqrt(2 * SEEDS)  # four standard errors of an sd, relative
    assert statistics.stdev(one) == pytest.approx(math.hypot(3.0, 1.0), rel=tolerance)
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    assert statistics.stdev(gaps) == pytest.approx(math.sqrt(2.0), rel=tolerance)
    assert statistics.fmean(one) == pytest.approx(0.0, abs=4 * math.sqrt(10 / SEEDS))


def test_seed_noise_alone_shifts_all_candidates_of_a_seed_alike() -> None:
    shifts = [finals({"seed_noise": 2.0}, (k,)) for k in (1.0, 3.0)]
    assert shifts[0] == pytest.approx(shifts[1], abs=1e-9)
    assert statistics.stdev(shifts[0]) > 1.0


def test_noise_between_epochs_is_as_stated_at_full_rate_and_gone_at_the_end() -> None:
    """k = 1000 keeps the LR at its maximum until the last epoch."""
    long = task(2000, best_error=50.0, epoch_noise=2.0, crossing=0.0, curvature=0.0)
    quiet = task(2000, best_error=50.0, crossing=0.0, curvature=0.0)
    noisy, plain = (curve(each, (1000.0,), seed=1) for each in (long, quiet))
    gaps = [
        a.validation_error - b.validation_error
        for a, b in zip(noisy[500:1900], plain[500:1900], strict=True)
    ]
    assert statistics.stdev(gaps) == pytest.approx(2.0, rel=4 / math.sqrt(2 * len(gaps)))
    assert noisy[-1].validation_error == pytest.approx(plain[-1].validation_error, abs=1e-9)


def rank_correlations(seed: int, **noise: float) -> tuple[float, float]:
    """Of raw and averaged error at 70 % of training with the final error, over k = 1 to 4."""
    runs = [
        curve(task(50, best_ks=(4.0,), **noise), (k,), seed)
        for k in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    ]
    final = [run[-1].validation_error for run in runs]
    raw = [run[34].validation_error for run in runs]
    averaged = [run[34].averaged_error for run in runs]
    return stats.spearmanr(raw, final).statistic, stats.spearmanr(averaged, final).statistic


def test_raw_error_ranks_backwards_until_late_and_averaged_error_does_not() -> None:
    """What design.md measured on real networks, drawn: a large k crosses over at the very end."""
    raw, averaged = rank_correlations(seed=0)
    assert raw < -0.7
    assert averaged == pytest.approx(1.0)


def test_noise_does_not_hide_the_late_crossing() -> None:
    noise = {"seed_noise": 0.3, "run_noise": 0.2, "epoch_noise": 0.3}
    pairs = [rank_correlations(seed, **noise) for seed in range(10)]
    assert all(raw < 0 < averaged for raw, averaged in pairs)
    assert statistics.fmean(raw for raw, _ in pairs) < -0.4
    assert statistics.fmean(averaged for _, averaged in pairs) > 0.7


def test_without_crossing_raw_and_averaged_errors_agree() -> None:
    for epoch in curve(task(10, crossing=0.0), (4.0,), seed=0):
        assert epoch.validation_error == epoch.averaged_error


@given(ks=KS)
def test_learning_rate_is_the_share_that_the_schedule_leaves(ks: tuple[float, ...]) -> None:
    rates = [epoch.learning_rate for epoch in curve(task(10), ks, seed=0)]
    expected = [1 - phi(ks, number / 10) for number in range(1, 11)]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert all(later <= earlier + 1e-12 for earlier, later in combinations(rates, 2))
