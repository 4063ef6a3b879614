"""The level of the learning rate, searched jointly with the first term, as a pure function."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.search import Progress, make_plan, runs_at_most
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import Trial
from tests.search.levels import LEVELS, joint, tried, true_error
from tests.search.searches import played
from tests.support.memory_studies import MemoryQueue, failed, simulated, study

# ---- what is tried and found ------------------------------------------------------------------


def test_candidates_are_pairs_and_k_1_is_among_them_at_every_level() -> None:
    plan = make_plan(joint(k_min=2.0, k_max=3.0, k_cap=3.0), [])
    points = [candidate.point for candidate in plan.stages[0].candidates]
    assert sorted(p for p in points if p) == [
        Candidate(k, v) for k in (1.0, 2.0, 3.0) for v in LEVELS
    ]
    assert {p.k for p in points[:3] if p} == {1.0}
    assert plan.stages[0].levels == LEVELS


@pytest.mark.parametrize("prunes", [False, True])
def test_the_best_pair_and_the_baseline_s_own_best_level_are_found(prunes: bool) -> None:
    """k = 1 is at its best at 1.35 times the level of the best schedule."""
    spec = joint((0.05, 0.1, 0.135, 0.2), prunes=prunes)
    plan = played(spec).plan()
    assert (plan.incumbent.ks, plan.incumbent.lr_max) == ((3.0,), 0.1)
    assert (plan.baseline.ks, plan.baseline.lr_max) == ((1.0,), 0.135)
    truth = true_error(spec, Candidate(1.0, 0.135)) - true_error(spec, Candidate(3.0, 0.1))
    assert plan.stages[0].gain.mean == pytest.approx(truth)
    assert plan.stages[0].smooth_gain is not None
    assert plan.stages[0].smooth_gain.mean == pytest.approx(truth, abs=0.2)


def test_a_gain_that_a_higher_level_alone_would_give_is_none() -> None:
    """At lr_max 0.1 k = 2 is better than k = 1; but that is better still at 0.2."""
    spec = joint((0.1, 0.2), best=1.0, best_lr_max=0.2)
    assert true_error(spec, Candidate(2.0, 0.1)) < true_error(spec, Candidate(1.0, 0.1))
    plan = played(spec).plan()
    assert (plan.incumbent.ks, plan.incumbent.lr_max) == ((1.0,), 0.2)
    assert not plan.stages[0].kept
    assert plan.leader == plan.baseline


def test_later_stages_keep_the_level_that_was_found() -> None:
    queue = played(joint(best=2.0, max_terms=2, min_gain=0.0, k_step=0.5))
    later = [trial for trial in queue.trials if trial.key.stage == 2]
    assert later
    found = queue.plan().stages[0].best
    assert found is not None
    assert {(t.lr_max, t.request.levels) for t in later} == {(found.lr_max, ())}
    stage = queue.plan().stages[1]
    assert (stage.lr_max, stage.levels) == (found.lr_max, ())
    assert Counter(t.key for t in later) == {t.key: 1 for t in later}


def test_a_grown_grid_tries_the_new_ks_at_every_level_and_keeps_its_numbers() -> None:
    queue = MemoryQueue(joint(best=6.0, k_max=3.0, k_cap=6.0))
    before = [c.point for c in queue.reconcile().stages[0].candidates]
    queue.play()
    after = [c.point for c in queue.plan().stages[0].candidates]
    assert after[: len(before)] == before
    assert sorted(p for p in after if p) == [
        Candidate(float(k), level) for k in range(1, 7) for level in LEVELS
    ]
    assert queue.plan().incumbent.ks == (6.0,)


def test_stated_ks_are_tried_at_every_level() -> None:
    plan = make_plan(joint(ks=[1.0, 2.0, 8.0], k_max=8.0, k_cap=8.0), [])
    assert {c.k for c in plan.stages[0].candidates} == {1.0, 2.0, 8.0}
    assert len(plan.stages[0].candidates) == 9


@pytest.mark.parametrize("prunes", [False, True])
def test_samplers_try_k_1_at_every_level_and_choose_the_rest(prunes: bool) -> None:
    queue = played(joint(sampler="random", trials=8, prunes=prunes))
    assert len(queue.trials) == 8 * 3
    candidates = queue.plan().stages[0].candidates
    assert [c.point for c in candidates if c.k == 1.0] == [
        Candidate(1.0, v) for v in (0.05, 0.2, 0.1)
    ]
    assert all(c.lr_max in LEVELS for c in candidates)
    for candidate in candidates:
        of = {t.point for t in queue.trials if t.key.candidate == candidate.index}
        assert of == {candidate.point}


def test_a_baseline_level_that_always_fails_leaves_the_others() -> None:
    spec = joint()
    works = simulated(spec)

    def run(waiting: Trial) -> Trial:
        return failed(waiting) if waiting.point == Candidate(1.0, 0.1) else works(waiting)

    plan = played(spec, run).plan()
    assert plan.progress == Progress.DONE
    assert plan.baseline.lr_max == 0.2
    assert plan.incumbent.ks == (3.0,)


def test_the_number_of_runs_is_told_beforehand() -> None:
    spec = joint(max_terms=2)
    assert runs_at_most(spec) == [(4 * 3, 4 * 3 * 3), (3, 3 * 3)]
    assert len(played(joint()).trials) == 4 * 3 * 3


# ---- the race ---------------------------------------------------------------------------------


def test_k_1_runs_the_first_seed_at_every_level_and_no_further_one_at_levels_that_lost() -> None:
    queue = played(joint(noise=0.05, prunes=True))
    ran = tried(queue)
    assert all(0 in ran[Candidate(1.0, level)] for level in LEVELS)
    assert ran[Candidate(1.0, 0.1)] == {0, 1}
    assert ran[Candidate(1.0, 0.05)] == ran[Candidate(1.0, 0.2)] == {0}
    assert all(t.request.protected == (t.k == 1.0) for t in queue.trials)


def test_levels_of_the_baseline_that_nobody_can_tell_apart_go_on_together() -> None:
    """By the truth the level makes no difference."""
    together = 0
    for noise_seed in range(12):
        surface = {"best_ks": [3.0], "run_noise": 0.5, "noise_seed": noise_seed}
        spec = study(
            surface=surface,
            search={"k_max": 4.0, "k_cap": 4.0, "k_step": 1.0, "max_terms": 1, "lr_max": LEVELS},
            pruning={"enabled": True},
        )
        ran = tried(played(spec))
        together += sum(1 in ran[Candidate(1.0, level)] for level in LEVELS) > 1
    assert together >= 2


def test_half_of_the_grid_of_pairs_is_trained_at_most() -> None:
    for noise in (0.05, 0.3, 2.0):
        ran = tried(played(joint(noise=noise, prunes=True, k_step=0.5)))
        assert sum(map(len, ran.values())) <= 7 * 3 * 3 / 2


def test_nothing_of_a_further_seed_is_queued_while_it_is_open_at_which_levels() -> None:
    queue = MemoryQueue(joint(prunes=True))
    assert {request.key.seed for request in queue.reconcile().enqueue} == {0}
    queue.work(3)
    assert {request.key.seed for request in queue.reconcile().enqueue} <= {0}


def test_the_baseline_is_the_best_of_its_levels_by_the_model_that_judges_all() -> None:
    plan = played(joint((0.05, 0.1, 0.135, 0.2), noise=0.1, prunes=True)).plan()
    stage = plan.stages[0]
    twice = [c for c in stage.candidates if c.k == 1.0 and len(c.errors) > 1]
    assert plan.baseline.lr_max in {c.lr_max for c in twice}
    assert plan.baseline.errors == next(c.errors for c in twice if c.lr_max == plan.baseline.lr_max)


@settings(deadline=None, max_examples=25)
@given(
    levels=st.lists(st.sampled_from([0.02, 0.05, 0.1, 0.15, 0.3]), min_size=2, max_size=3,
                    unique=True).map(lambda each: tuple(sorted(each))),
    best=st.floats(0.5, 8.0),
    best_lr_max=st.sampled_from([None, 0.05, 0.1, 0.25]),
    seeds=st.integers(1, 4),
    noise=st.sampled_from([0.0, 0.3]),
    terms=st.integers(1, 2),
    prunes=st.booleans(),
    sampler=st.sampled_from(["grid", "random"]),
)  # fmt: skip
def test_any_search_over_levels_accounts_for_every_run_and_compares_with_the_tuned_baseline(
    levels: tuple[float, ...],
    best: float,
    best_lr_max: float | None,
    seeds: int,
    noise: float,
    terms: int,
    prunes: bool,
    sampler: str,
) -> None:
    spec = joint(levels, best, best_lr_max, noise, prunes, seeds, max_terms=terms,
                 sampler=sampler, trials=6)  # fmt: skip
    queue = played(spec)
    plan = queue.plan()
    assert set(Counter(t.key for t in queue.trials).values()) == {1}
    assert all(c.unfinished == 0 for stage in plan.stages for c in stage.candidates)
    assert plan.baseline.lr_max in levels
    assert plan.incumbent.lr_max in levels
    of_baseline = {c.lr_max: c for c in plan.stages[0].candidates if c.k == 1.0}
    assert plan.baseline.errors == of_baseline[plan.baseline.lr_max].errors
    if not prunes and not noise and sampler == "grid":
        lowest = min(true_error(spec, Candidate(1.0, level)) for level in levels)
        assert true_error(spec, Candidate(1.0, plan.baseline.lr_max)) == pytest.approx(lowest)
    if plan.incumbent.ks == (1.0,):
        assert plan.incumbent == plan.baseline
