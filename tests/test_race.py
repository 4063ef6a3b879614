"""Seeds as a race: who gets a further seed, and what becomes of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from builders import MemoryQueue, stated, study
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search import race
from kdecay_search.belief import Belief
from kdecay_search.builtin import SimulatedTask
from kdecay_search.point import Point
from kdecay_search.procedure import Progress, make_plan
from kdecay_search.runs import State
from kdecay_search.simulation import final_error
from kdecay_search.spec import StudySpec


def raced(
    seeds: int = 4,
    best: float = 3.0,
    noise: float = 0.1,
    curvature: float = 30.0,
    **search: object,
) -> StudySpec:
    surface = {"best_ks": [best], "run_noise": noise, "seed_noise": 1.0, "curvature": curvature}
    return study(
        surface=surface,
        search={"k_max": 5.0, "k_cap": 5.0, "seeds": seeds, "max_terms": 1, **search},
        pruning={"enabled": True},
    )


def played(spec: StudySpec) -> MemoryQueue:
    queue = MemoryQueue(spec)
    queue.play()
    return queue


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
    assert seeds_of(queue, found) == {0, 1, 2, 3}


def test_the_baseline_runs_on_while_a_gain_on_it_is_open() -> None:
    queue = played(raced(best=1.5, noise=0.5, curvature=8.0, min_gain=0.0))
    assert len(seeds_of(queue, 1.0)) > 2


def test_a_baseline_without_a_rival_left_is_not_trained_on() -> None:
    queue = played(raced(best=0.5, curvature=60.0))
    assert queue.plan().incumbent.ks == (1.0,)
    assert seeds_of(queue, 1.0) == {0, 1}


def test_further_seeds_are_given_to_few_and_the_best_is_among_them() -> None:
    queue = played(raced())
    for seed in range(1, 4):
        ran = {t.k for t in queue.trials if t.key.seed == seed and t.state == State.COMPLETE}
        assert len(ran - {1.0}) <= race.MOST
    assert queue.plan().incumbent.ks in {(2.5,), (3.0,), (3.5,)}


def test_nobody_s_further_seed_is_decided_while_the_seed_before_runs() -> None:
    queue = MemoryQueue(raced())
    plan = queue.tick()
    first = [t for t in plan.enqueue if t.key.seed == 0]
    assert len(first) == 7
    assert {t.k for t in plan.enqueue if t.key.seed > 0} == {1.0}
    assert {t.key.seed for t in plan.skip} == {0}


def belief(
    means: dict[float, float], doubt: float = 0.5, noise: float = 0.25, **doubts: float
) -> Belief:
    """Of candidates whose errors are independent. ``doubt``: their standard deviation, or of
    single ones by ``k3=``."""
    points = tuple(map(Point, means))
    sizes = [doubts.get(f"k{k:g}", doubt) for k in means]
    return Belief(points, np.array(list(means.values())), np.diag(np.square(sizes)), noise)


def winners(believed: Belief, seed: int, certain: Sequence[float] = ()) -> list[float]:
    rival, *points = believed.points
    given = [Point(k) for k in certain]
    return [point.k for point in race.winners(believed, rival, points, given, seed)]


def test_the_leader_runs_and_with_it_those_that_may_well_be_better() -> None:
    believed = belief({1.0: 9.0, 2.0: 5.1, 3.0: 5.0, 4.0: 5.1, 5.0: 8.0})
    assert winners(believed, 2) == [3.0, 2.0, 4.0]


def test_who_is_known_for_certain_needs_no_run() -> None:
    believed = belief({1.0: 9.0, 2.0: 5.2, 3.0: 5.0, 4.0: 5.2}, k2=0.01, k3=0.4, k4=0.4)
    assert winners(believed, 2) == [3.0, 4.0]


def test_a_leader_that_nobody_may_beat_runs_alone() -> None:
    believed = belief({1.0: 9.0, 2.0: 8.0, 3.0: 5.0, 4.0: 8.0})
    assert winners(believed, 1) == winners(believed, 2) == [3.0]


def test_nobody_runs_for_less_than_it_is_worth() -> None:
    even = {1.0: 5.0, 2.0: 5.0, 3.0: 5.0}
    assert len(winners(belief(even, doubt=0.5), 2)) == 2
    assert winners(belief(even, doubt=0.005), 2) == []
    assert winners(belief(even, doubt=0.5, noise=1e6), 2) == []


def test_at_most_so_many_run_however_open_the_race_is() -> None:
    believed = belief({float(k): 5.0 + 0.01 * k for k in range(1, 12)}, doubt=5.0)
    assert len(winners(believed, 2)) == race.MOST


def test_the_second_seed_has_a_runner_even_where_the_baseline_leads() -> None:
    believed = belief({1.0: 3.0, 2.0: 9.0, 3.0: 9.5})
    assert winners(believed, 1, certain=[1.0]) == [2.0]
    assert winners(believed, 2) == []


def test_a_rival_that_runs_in_any_case_makes_one_runner_worth_it() -> None:
    """Alone on its seed a run tells nothing, beside another it does."""
    believed = belief({1.0: 5.1, 2.0: 5.0}, k2=0.02)
    assert believed.worth([Point(2.0)]) == 0.0
    assert believed.worth(believed.points) > race.WORTH


def test_a_loser_of_one_seed_may_come_back_on_a_later_one() -> None:
    """On the first seed k = 3 looks best by luck; on the second it falls back."""
    errors = {1.0: 12.0, 1.5: 11.5, 2.0: 11.0, 2.5: 10.4, 3.5: 9.6, 4.0: 9.2, 4.5: 9.3, 5.0: 9.4}
    lucky = {k: [e + n for n in (0.0, 0.1, 0.0, 0.1)] for k, e in errors.items()}
    lucky[3.0] = [7.0, 11.0, 10.9, 11.0]
    queue = MemoryQueue(raced(), stated(dict(lucky)))
    queue.play()
    absent = {k for k in lucky if 1 not in seeds_of(queue, k)}
    assert any(2 in seeds_of(queue, k) or 3 in seeds_of(queue, k) for k in absent)


def first_seed(spec: StudySpec) -> set[float]:
    return {token.k for token in make_plan(spec, []).enqueue if token.key.seed == 0 and token.k}


def test_the_first_seed_begins_with_a_part_of_the_grid_and_neighbours_stand_for_the_rest() -> None:
    plan = make_plan(raced(), [])
    begun = first_seed(raced())
    assert {1.0, 3.0, 5.0} < begun
    left = sorted(token.k for token in plan.skip if token.k)
    assert len(left) == 2
    assert {k + step for k in left for step in (-0.5, 0.5)} <= begun


def test_small_grids_and_races_of_two_seeds_begin_with_every_candidate() -> None:
    assert len(first_seed(raced(k_step=1.0))) == 5
    assert len(first_seed(raced(seeds=2))) == 9
    assert len(first_seed(raced(seeds=1))) == 9


def test_a_candidate_that_the_first_seed_left_out_may_win() -> None:
    spec = raced()
    (k, *_) = sorted(token.k for token in make_plan(spec, []).skip if token.k)
    errors = {c: 10.0 + 2.0 * abs(c - k) for c in np.arange(1.0, 5.5, 0.5).tolist()}
    queue = MemoryQueue(spec, stated(dict(errors)))
    queue.play()
    assert seeds_of(queue, k) == {1, 2, 3}
    assert queue.plan().incumbent.ks == (k,)


def test_nobody_begins_on_a_seed_from_which_it_can_no_longer_be_chosen() -> None:
    """What is chosen has run twice."""
    for noise_seed in range(20):
        surface = {"best_ks": [3.0], "run_noise": 1.0, "noise_seed": noise_seed}
        spec = study(
            surface=surface,
            search={"k_max": 8.0, "k_cap": 8.0, "seeds": 3, "max_terms": 1},
            pruning={"enabled": True},
        )
        queue = played(spec)
        assert not any(
            seeds_of(queue, c.k or 0.0) == {2} for c in queue.plan().stages[0].candidates
        )


def test_a_candidate_pruned_on_the_first_seed_gets_no_other() -> None:
    spec = raced()
    queue = MemoryQueue(spec)
    queue.tick()
    for waiting in [t for t in queue.waiting if t.k == 5.0]:
        queue.put(type(waiting)(**{**waiting.__dict__, "state": State.PRUNED, "epochs": 2}))
    queue.play()
    states = {t.key.seed: t.state for t in queue.trials if t.k == 5.0}
    assert states == dict.fromkeys(range(4), State.PRUNED)
    (candidate,) = [c for c in queue.plan().stages[0].candidates if c.k == 5.0]
    assert (candidate.pruned, candidate.skipped) == (4, 3)


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
