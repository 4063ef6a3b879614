"""Seeds as a race: who gets a further seed, and what becomes of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.search import Progress, make_plan
from kdecay_search.search.allocation import (
    Remaining,
    batch_size,
    possible_runs,
    worthiest,
)
from kdecay_search.search.knowledge_gradient import Posterior
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State
from kdecay_search.tasks.simulated import final_error
from tests.search.searches import played
from tests.support.memory_studies import MemoryQueue, failed, left_by_a_race, stated, study


def raced(
    seeds: int = 4,
    best: float = 3.0,
    noise: float = 0.1,
    curvature: float = 30.0,
    noise_seed: int = 0,
    best_ks: Sequence[float] = (),
    **search: object,
) -> StudySpec:
    surface = {
        "best_ks": best_ks or [best],
        "run_noise": noise,
        "seed_noise": 1.0,
        "curvature": curvature,
        "noise_seed": noise_seed,
    }
    return study(
        surface=surface,
        search={"k_max": 5.0, "k_cap": 5.0, "seeds": seeds, "max_terms": 1, **search},
        pruning={"enabled": True},
    )


def test_every_run_is_accounted_for_exactly_once() -> None:
    queue = played(raced())
    runs = Counter((t.key.candidate, t.key.seed) for t in queue.trials)
    assert runs == {(candidate, seed): 1 for candidate in range(9) for seed in range(4)}
    assert queue.plan().progress == Progress.DONE


def seeds_of(queue: MemoryQueue, k: float) -> set[int]:
    return {t.key.seed for t in queue.trials if t.k == k and t.state == State.COMPLETE}


def test_the_baseline_runs_twice_where_it_is_clearly_beaten() -> None:
    queue = played(raced(curvature=60.0))
    (found,) = queue.plan().incumbent.ks
    assert seeds_of(queue, 1.0) == {0, 1}
    assert seeds_of(queue, found) >= {0, 1}


def test_the_baseline_runs_on_while_a_likely_gain_on_it_is_open() -> None:
    runs = [
        len(seeds_of(played(raced(best=1.5, noise=0.5, curvature=8.0, noise_seed=seed)), 1.0))
        for seed in range(4)
    ]
    assert max(runs) > 2


def test_a_baseline_without_a_rival_left_is_not_trained_on() -> None:
    queue = played(raced(best=0.5, curvature=60.0))
    assert queue.plan().incumbent.ks == (1.0,)
    assert seeds_of(queue, 1.0) == {0, 1}
    assert any(len(seeds_of(queue, c.k)) > 1 for c in queue.plan().stages[0].candidates if c.index)


@pytest.mark.parametrize("k_max", [3.0, 5.0, 12.0])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_race_trains_half_of_the_grid_at_most(k_max: float, seeds: int) -> None:
    """However noisy the runs are; but for small grids."""
    for noise in (0.0, 3.0):
        queue = played(raced(seeds, noise=noise, k_max=k_max, k_cap=k_max))
        count = len(queue.plan().stages[0].candidates)
        trained = sum(t.state == State.COMPLETE for t in queue.trials)
        assert trained <= max(count * seeds // 2, count + 4)
    assert queue.plan().progress == Progress.DONE


def test_further_runs_find_the_best() -> None:
    queue = played(raced())
    assert queue.plan().incumbent.ks in {(2.5,), (3.0,), (3.5,)}


def test_no_further_run_is_decided_while_another_is_under_way() -> None:
    """What is decided does not depend on which of several ends first."""
    queue = MemoryQueue(raced())
    plan = queue.reconcile()
    assert len([t for t in plan.enqueue if t.key.seed == 0]) == 6
    assert {t.k for t in plan.enqueue if t.key.seed > 0} == {1.0}
    while queue.waiting:
        for left in range(len(queue.waiting) - 1, -1, -1):
            plan = queue.reconcile()
            assert plan.enqueue == plan.skip == ()
            queue.work(1)
            assert len(queue.waiting) == left
        plan = queue.reconcile()
        assert len(plan.enqueue) <= batch_size(9) + 1
    assert queue.plan().progress == Progress.DONE


def test_the_order_in_which_runs_end_makes_no_difference() -> None:
    found = set()
    for order in range(5):
        queue = MemoryQueue(raced(noise=0.5), seed=order)
        queue.play()
        ran = frozenset((t.k, t.key.seed) for t in queue.trials if t.state == State.COMPLETE)
        found.add((queue.plan().incumbent.ks, ran))
    assert len(found) == 1


def test_a_failed_attempt_is_repeated_before_anything_is_decided() -> None:
    queue = MemoryQueue(raced())
    queue.reconcile()
    first = queue.waiting[0]
    queue.put(failed(first))
    queue.work(len(queue.waiting))
    plan = queue.reconcile()
    assert [request.key for request in plan.enqueue] == [first.key]
    assert plan.skip == ()


def posterior(
    means: dict[float, float],
    doubt: float = 0.5,
    noise: float = 0.25,
    ran: Mapping[int, Sequence[float]] | None = None,
    **doubts: float,
) -> Posterior:
    """Of candidates whose errors are independent. ``doubt``: their standard deviation, or of
    single ones by ``k3=``. ``ran``: ks by seed, by default all of them on the first."""
    points = tuple(map(Candidate, means))
    sizes = [doubts.get(f"k{k:g}", doubt) for k in means]
    there = {seed: frozenset(map(Candidate, ks)) for seed, ks in (ran or {0: list(means)}).items()}
    variance = np.diag(np.square(sizes))
    return Posterior(points, np.array(list(means.values())), variance, noise, there)


def next_runs(
    known: Posterior, size: int = 2, seeds: int = 2, left: int = 99, able: Sequence[float] = ()
) -> list[tuple[float, int]]:
    """``able``: who may run, by default everybody."""
    missing = {
        point: [s for s in range(seeds) if point not in known.ran.get(s, ())]
        for point in known.points
        if not able or point.k in able
    }
    runs = worthiest(known, Remaining(missing, seeds, left, left), size)
    return [(point.k, seed) for point, seed in runs]


def test_the_leader_runs_and_with_it_who_may_well_be_better() -> None:
    known = posterior({1.0: 9.0, 2.0: 5.1, 3.0: 5.0, 4.0: 8.0})
    assert sorted(next_runs(known)) == [(2.0, 1), (3.0, 1)]


def test_who_is_known_for_certain_needs_no_run() -> None:
    """Where others are that it may be compared with."""
    even = {1.0: 9.0, 2.0: 5.2, 3.0: 5.0, 4.0: 5.2}
    known = posterior(even, k2=0.01, k3=0.4, k4=0.4, ran={0: [1.0, 2.0, 3.0], 1: [2.0]})
    assert (2.0, 1) not in next_runs(known)
    assert next_runs(known)[0][0] in {3.0, 4.0}


def test_a_candidate_that_the_first_seed_left_out_may_run_on_it() -> None:
    known = posterior({1.0: 5.3, 2.0: 5.2, 3.0: 5.0}, k3=1.0, ran={0: [1.0, 2.0]})
    assert next_runs(known, size=1) == [(3.0, 0)]


def test_nobody_runs_for_less_than_it_is_worth() -> None:
    even = {1.0: 5.0, 2.0: 5.0, 3.0: 5.0}
    assert len(next_runs(posterior(even, doubt=0.5))) == 2
    assert next_runs(posterior(even, doubt=0.001)) == []
    assert next_runs(posterior(even, doubt=0.5, noise=1e6)) == []
    assert next_runs(posterior({1.0: 9.0, 2.0: 8.0, 3.0: 5.0})) == []


def test_no_more_run_than_are_left() -> None:
    known = posterior({float(k): 5.0 + 0.01 * k for k in range(1, 12)}, doubt=5.0)
    assert [len(next_runs(known, 4, left=left)) for left in (0, 1, 2, 3, 4, 9)] == [
        0, 0, 2, 3, 4, 4,
    ]  # fmt: skip


def test_who_may_not_run_is_still_compared_with() -> None:
    known = posterior({1.0: 5.1, 2.0: 5.0}, ran={0: [1.0, 2.0], 1: [1.0]})
    assert next_runs(known, able=[2.0]) == [(2.0, 1)]
    assert next_runs(replace(known, ran={0: frozenset(known.points)}), able=[2.0]) == []


def test_a_thousand_seeds_are_looked_at_by_who_has_run_on_them() -> None:
    ran = {seed: [1.0, 2.0] if seed % 2 else [1.0] for seed in range(1000)}
    known = posterior({1.0: 5.0, 2.0: 5.0, 3.0: 5.0}, ran=ran)
    remaining = Remaining(
        {Candidate(3.0): range(1000), Candidate(2.0): range(0, 1000, 2)}, 1000, 99, 99
    )
    assert set(possible_runs(known, remaining, [])) == {
        ((Candidate(3.0), 0),), ((Candidate(3.0), 1),), ((Candidate(2.0), 0),),
    }  # fmt: skip


def first_seed(spec: StudySpec) -> set[float]:
    return {
        request.k for request in make_plan(spec, []).enqueue if request.key.seed == 0 and request.k
    }


def test_the_first_seed_begins_with_a_part_of_the_grid_and_neighbours_stand_for_the_rest() -> None:
    begun = first_seed(raced())
    assert {1.0, 3.0, 5.0} < begun
    left = {float(k) for k in np.arange(1.0, 5.5, 0.5)} - begun
    assert len(left) == 3
    assert {k + step for k in left for step in (-0.5, 0.5)} <= begun


def test_races_of_two_seeds_begin_with_every_candidate() -> None:
    assert len(first_seed(raced(k_step=1.0))) == 4
    assert len(first_seed(raced(seeds=2))) == 9
    assert len(first_seed(raced(seeds=1))) == 9


def test_a_candidate_that_the_first_seed_left_out_may_win() -> None:
    spec = raced()
    grid = np.arange(1.0, 5.5, 0.5).tolist()
    for k in sorted(set(grid) - first_seed(spec)):
        queue = MemoryQueue(spec, stated({c: 10.0 + 2.0 * abs(c - k) for c in grid}))
        queue.play()
        assert len(seeds_of(queue, k)) >= 2
        assert queue.plan().incumbent.ks == (k,)


def test_what_is_found_has_met_k_1_on_two_seeds() -> None:
    """Unless it came to lead by the last runs."""
    found, met = 0, 0
    for noise_seed in range(20):
        spec = raced(3, noise=1.0, noise_seed=noise_seed, k_max=8.0, k_cap=8.0)
        plan = played(spec).plan()
        best = plan.stages[0].best
        assert best is not None
        if best.k != 1.0 and plan.stages[0].leads:
            found += 1
            met += len(best.errors.keys() & plan.baseline.errors.keys()) >= 2
    assert found > 10
    assert met >= found - 1


@pytest.mark.parametrize(("min_gain", "kept"), [(0.2, True), (2.0, False)])
def test_a_gain_of_one_pair_is_judged_by_the_smooth_curve(min_gain: float, kept: bool) -> None:
    """The pair says 2.7 points, and all runs together 0.7."""
    one_pair = {
        1.0: [10.0, 10.2, None],
        2.0: [9.2, None, 9.3],
        3.0: [None, 7.5, 9.4],
        4.0: [9.5, 9.6, None],
    }
    spec = raced(3, k_max=4.0, k_cap=4.0, k_step=1.0, max_terms=1, min_gain=min_gain)
    stage = make_plan(spec, left_by_a_race(one_pair)).stages[0]
    assert stage.smooth_gain is not None
    assert (stage.gain.n, stage.gain.mean) == (1, pytest.approx(2.7))
    assert 0.2 < stage.smooth_gain.mean < 2.0
    assert stage.kept == kept


def test_the_most_probable_of_a_small_grid_is_the_one_that_is_chosen() -> None:
    """Half of so small a grid may be trained before the one that leads then has run twice."""
    found = 0
    for noise_seed in range(20):
        spec = raced(3, noise=1.5, noise_seed=noise_seed, k_step=1.0, curvature=8.0)
        stage = played(spec).plan().stages[0]
        assert stage.best is not None
        likely = max(stage.candidates, key=lambda c: c.probability or 0)
        found += likely.index == stage.best.index
    assert found >= 17


def test_a_gain_without_a_common_seed_is_told_by_the_smooth_curve() -> None:
    """A study of another version may hold such results."""
    spec = raced(4, k_max=3.0, k_cap=3.0, k_step=1.0)
    errors = {
        1.0: (12.0, 12.1, None, None),
        3.0: (None, None, 9.0, 9.1),
        2.0: (11.0, 11.1, 10.0, 10.1),
    }
    stage = make_plan(spec, left_by_a_race(errors)).stages[0]
    assert stage.best is not None
    assert (stage.best.k, stage.gain.mean, stage.kept) == (3.0, None, True)


def test_what_a_second_stage_finds_has_met_the_first_term_on_two_seeds() -> None:
    for noise_seed in range(10):
        spec = raced(3, noise=0.2, noise_seed=noise_seed, max_terms=2, best_ks=[2.0, 4.0])
        first, second = played(spec).plan().stages
        assert first.best is not None
        assert second.best is not None
        assert len(second.best.errors.keys() & first.best.errors.keys()) >= 2


def test_paused_runs_go_on_if_they_are_worth_it_and_else_end_as_pruned_with_the_stage() -> None:
    spec = raced()
    queue = MemoryQueue(spec)
    queue.reconcile()
    for waiting in queue.waiting:
        if not waiting.request.protected:
            queue.put(replace(waiting, state=State.PAUSED, epochs=2, looks={2: 10.0}))
    paused = {t.key for t in queue.trials if t.state == State.PAUSED}
    queue.play()
    ended = {t.key: t.state for t in queue.trials}
    assert {ended[key] for key in paused} == {State.COMPLETE, State.PRUNED}
    (only_paused, *_) = [t for t in queue.trials if t.state == State.PRUNED and t.epochs]
    assert only_paused.epochs == 2


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_samplers_race_too_and_keep_their_number_of_trials(sampler: str) -> None:
    queue = played(raced(sampler=sampler, trials=6))
    assert len(queue.trials) == 6 * 4


def test_without_pruning_there_is_no_race() -> None:
    spec = study(search={"k_max": 3.0, "k_cap": 3.0, "seeds": 3}, pruning={"enabled": False})
    plan = make_plan(spec, [])
    assert len(plan.enqueue) == 5 * 3
    assert plan.skip == ()


@settings(deadline=None, max_examples=25)
@given(
    best=st.floats(0.5, 8.0),
    seeds=st.integers(1, 5),
    noise=st.sampled_from([0.0, 0.1, 0.5]),
    terms=st.integers(1, 2),
)
def test_any_race_ends_with_every_run_accounted_for(
    best: float, seeds: int, noise: float, terms: int
) -> None:
    spec = raced(seeds, best, noise, max_terms=terms)
    queue = played(spec)
    assert set(Counter(t.key for t in queue.trials).values()) == {1}
    for stage in queue.plan().stages:
        assert all(candidate.unfinished == 0 for candidate in stage.candidates)


def test_the_race_finds_what_the_full_grid_finds_on_average() -> None:
    """Over 30 noisy studies, in points of the true error; the full grid is the yardstick."""
    lost = {True: 0.0, False: 0.0}
    for noise_seed in range(30):
        for races in lost:
            spec = study(
                surface={"best_ks": [3.0], "curvature": 60.0, "run_noise": 0.3,
                         "seed_noise": 0.5, "noise_seed": noise_seed},
                search={"k_max": 5.0, "k_cap": 5.0, "max_terms": 1, "min_gain": 0.0},
                pruning={"enabled": races},
            )  # fmt: skip
            assert isinstance(spec.task, SimulatedTask)
            found = played(spec).plan().incumbent.ks
            lost[races] += (final_error(spec.task.surface, found) - 8.0) / 30
    assert lost[True] < lost[False] + 0.05
