"""Decisions do not depend on the scale of the metric: a·x + b gives the same study."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.curves import Curves
from benchmarks.policies import Ours
from benchmarks.replay import Replay, Scenario, study_spec
from kdecay_search.search import Plan, make_plan
from kdecay_search.search.verdict import judge
from kdecay_search.study.metric import Metric, MetricFormat
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import Trial
from tests.search.searches import played, search
from tests.support.memory_studies import MemoryQueue, completed, simulated, study

KS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
EPOCHS, SEEDS = 12, 3


@st.composite
def scales(draw: st.DrawFn) -> tuple[float, float]:
    """a from 1e-6 to 1e6 and b, with as many digits left for a·x as probabilities are told to."""
    a = 10.0 ** draw(st.floats(-6, 6))
    return a, draw(st.sampled_from([-1.0, 0.0, 1.0])) * 10.0 ** draw(st.floats(-3, 3)) * max(a, 1)


def recorded(key: int, gain: float) -> Curves:
    """Curves of a study: large ks are better at the end, and worse before by the raw error."""
    random = np.random.default_rng(key)
    u = np.linspace(1 / EPOCHS, 1, EPOCHS)[None, :, None]
    shape = (SEEDS, EPOCHS, len(KS))
    end = 30 - gain * np.log(KS)[None, None, :] + random.normal(0, 0.8, (SEEDS, 1, 1))
    averaged = end + 40 * np.exp(-6 * u) + random.normal(0, 0.5, shape)
    raw = averaged + 6 * (1 - u ** np.array(KS)) + random.normal(0, 0.4, shape)
    return Curves("made", KS, EPOCHS, raw, averaged, "1")


def replayed(curves: Curves) -> tuple[list[Trial], Plan]:
    spec = study_spec(curves, SEEDS, prunes=True)
    study_of_curves = Replay(curves, Scenario((0, 1, 2), 3, (5,)), spec, Ours(spec))
    study_of_curves.run()
    trials = study_of_curves._trials
    return trials, make_plan(spec, trials)


def decisions(trials: list[Trial]) -> list[object]:
    """What was run, in its order, and where it was stopped."""
    return [(t.key, t.k, t.state, t.epochs) for t in trials]


def assert_same(plan: Plan, scaled: Plan, a: float) -> None:
    """The same answer; gains are ``a`` times as large, and probabilities the same to 1e-6."""
    assert scaled.incumbent.ks == plan.incumbent.ks
    for stage, other in zip(plan.stages, scaled.stages, strict=True):
        assert (other.kept, other.progress) == (stage.kept, stage.progress)
        probabilities = [c.probability for c in stage.candidates]
        assert [c.probability for c in other.candidates] == pytest.approx(probabilities, abs=1e-6)
        if stage.smooth_gain is not None and other.smooth_gain is not None:
            given, found = stage.smooth_gain, other.smooth_gain
            expected = [a * value for value in (given.mean, *given.interval)]
            size = a * (given.interval[1] - given.interval[0])
            assert [found.mean, *found.interval] == pytest.approx(expected, abs=1e-6 * size)
            assert found.probability == pytest.approx(given.probability, abs=1e-6)
    assert judge(scaled, "done").outcome == judge(plan, "done").outcome


@settings(deadline=None, max_examples=3)
@given(scale=scales(), key=st.integers(0, 10**6), gain=st.sampled_from([0.0, 1.0, 3.0]))
def test_a_recorded_study_runs_and_stops_alike_on_every_scale(
    scale: tuple[float, float], key: int, gain: float
) -> None:
    a, b = scale
    curves = recorded(key, gain)
    trials, plan = replayed(curves)
    scaled = replace(curves, raw=a * curves.raw + b, averaged=a * curves.averaged + b)
    other_trials, other_plan = replayed(scaled)
    assert decisions(other_trials) == decisions(trials)
    assert_same(plan, other_plan, a)


def simulated_study(noise_seed: int) -> StudySpec:
    noise = {"seed_noise": 0.5, "run_noise": 0.3, "noise_seed": noise_seed}
    keys = search(max_terms=2, k_cap=8.0, seeds=3, min_gain="auto")
    return study(surface={"best_ks": [1.5, 6.0], **noise}, search=keys, pruning={"enabled": True})


@settings(deadline=None, max_examples=10)
@given(scale=scales(), noise_seed=st.integers(0, 10**6))
def test_a_simulated_search_of_two_terms_is_the_same_on_every_scale(
    scale: tuple[float, float], noise_seed: int
) -> None:
    a, b = scale
    spec = simulated_study(noise_seed)
    outcome = simulated(spec)

    def scaled(waiting: Trial) -> Trial:
        error = outcome(waiting).error
        assert error is not None
        return completed(waiting, a * error + b)

    queue, other = played(spec, outcome), played(spec, scaled)
    assert decisions(other.trials) == decisions(queue.trials)
    assert_same(queue.plan(), other.plan(), a)


def test_the_scale_of_a_loss_in_nats_changes_nothing() -> None:
    """A loss of 1.5 nats with a gain of .03 and noise of .004: before, it was kept in no search."""
    kept = [small_loss(noise_seed) for noise_seed in range(20)]
    assert all(plan.incumbent.ks != (1.0,) for plan in kept)
    assert sum(judge(plan, "done").outcome == "better" for plan in kept) == len(kept)


def small_loss(noise_seed: int) -> Plan:
    random = np.random.default_rng(noise_seed)
    spec = study(search=search(max_terms=1, seeds=3, min_gain="auto"), pruning={"enabled": True})
    noise = random.normal(0, 0.004, (100, 3))
    seeds = random.normal(0, 0.01, 3)

    def outcome(waiting: Trial) -> Trial:
        key = waiting.key
        assert waiting.k is not None
        gain = 0.03 * math.log(waiting.k) / math.log(4.0)
        return completed(waiting, 1.5 - gain + seeds[key.seed] + noise[key.candidate, key.seed])

    return played(spec, outcome).plan()


def diverging(spec: StudySpec, k: float, **how: object) -> MemoryQueue:
    """A study in which one candidate diverges on every seed."""
    outcome = simulated(spec)

    def run(waiting: Trial) -> Trial:
        ended = outcome(waiting)
        return replace(ended, **how) if waiting.k == k else ended

    return played(spec, run)


@pytest.mark.parametrize("how", [{"error": math.inf}, {"error": 1e8, "worsened": True}])
@pytest.mark.parametrize("prunes", [True, False])
def test_a_candidate_that_diverges_ranks_worst_and_weakens_nothing(
    how: dict[str, object], prunes: bool
) -> None:
    noise = {"seed_noise": 0.5, "run_noise": 0.1}
    keys = search(max_terms=1, seeds=3, min_gain="auto")
    part = {"enabled": prunes}
    spec = study(surface={"best_ks": [2.5], **noise}, search=keys, pruning=part)
    usual, plan = played(spec).plan(), diverging(spec, 4.0, **how).plan()
    (stage,) = plan.stages
    (diverged,) = [c for c in stage.candidates if c.k == 4.0]
    assert (diverged.errors, diverged.probability) == ({}, 0.0)
    assert diverged.diverged >= 1
    assert plan.incumbent.ks == usual.incumbent.ks
    assert judge(plan, "done").outcome == judge(usual, "done").outcome == "better"
    width, before = (np.ptp(judge(each, "done").interval or (0, 0)) for each in (plan, usual))
    assert width < 2 * before


def test_an_original_that_diverges_is_said_to() -> None:
    spec = study(surface={"best_ks": [2.5], "run_noise": 0.1}, search=search(max_terms=1))
    plan = diverging(spec, 1.0, error=math.inf).plan()
    assert plan.incumbent.ks in [(2.0,), (2.5,), (3.0,)]
    verdict = judge(plan, "done")
    assert verdict.outcome == "too few runs"
    assert "the original, k = 1, has diverged" in verdict.sentence


def test_what_merely_overfits_has_not_diverged() -> None:
    """All runs end worse than they began, as fine-tuning for too long does."""
    spec = study(surface={"best_ks": [2.5], "run_noise": 0.1}, search=search(max_terms=1))
    outcome = simulated(spec)
    queue = played(spec, lambda waiting: replace(outcome(waiting), worsened=True))
    assert all(candidate.diverged == 0 for candidate in queue.plan().stages[0].candidates)


@pytest.mark.parametrize(
    ("metric", "noise", "error", "shown", "difference"),
    [
        (Metric(unit="nats"), 0.004, 2.87, "2.8700 nats", "+0.0123 nats"),
        (Metric(direction="max"), 0.003, -0.912, "0.9120", "+0.0123"),
        (Metric(unit="mAP", direction="max"), 0.6, -41.237, "41.24 mAP", "+0.01 mAP"),
        (Metric(), 3.0, 434.4, "434.4", "+0.01"),
        (Metric(decimals=0), 3.0, 434.4, "434", "+0.01"),
        (Metric(unit="%", decimals=2), 0.001, 3.14159, "3.14 %", "+0.01 points"),
        (Metric(), None, 1234.5, "1234", "+0.01"),
        (Metric(), None, math.inf, "diverged", "+0.0123"),
    ],
)
def test_values_show_the_noise_in_two_digits(
    metric: Metric, noise: float | None, error: float, shown: str, difference: str
) -> None:
    form = MetricFormat.of(metric, noise, [error])
    assert form.value(error) == shown
    assert form.change(0.0123) == difference
