"""What holds for any study, whatever becomes of its runs."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.search import Plan, Progress, make_plan, runs_at_most
from kdecay_search.search.policy import POLICY
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from tests.search.searches import QUARTERS, again, played
from tests.support.memory_studies import MemoryQueue, completed, failed, pruned, study


@st.composite
def specs(draw: st.DrawFn) -> StudySpec:
    """Small searches of every kind, also with ranges that no whole number of steps fills."""
    k_min = draw(QUARTERS)
    k_max = k_min + draw(st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.3, 2.0]))
    sampler = draw(st.sampled_from(["grid", "grid", "grid", "random"]))
    part = {
        "sampler": sampler,
        "k_min": k_min,
        "k_max": k_max,
        "k_step": draw(st.sampled_from([0.25, 0.5, 0.6])),
        "k_cap": draw(st.none() | st.sampled_from([0.0, 0.4, 1.0, 2.5]).map(lambda x: k_max + x)),
        "trials": draw(st.integers(2, 4)),
        "seeds": draw(st.integers(1, 3)),
        "max_terms": draw(st.integers(1, 3)),
        "min_gain": draw(st.sampled_from([0.0, 0.1, 5.0])),
    }
    return study(search=part, workers={"max_attempts": draw(st.integers(1, 3))})


class Weather:
    """Outcomes that follow from a seed alone: any errors, and some runs pruned or failed."""

    def __init__(self, seed: int, trouble: float) -> None:
        self.seed, self.trouble = seed, trouble

    def __call__(self, waiting: Trial) -> Trial:
        key = (self.seed, waiting.key, waiting.request.earlier_ks, waiting.number)
        dice = random.Random(repr(key))
        if dice.random() < self.trouble:
            return failed(waiting, dice.choice(["error", "lost"]))
        if dice.random() < self.trouble and not waiting.request.protected:
            return pruned(waiting)
        return completed(waiting, dice.uniform(0, 100) - 10 * waiting.key.stage + 10)


WEATHER = st.builds(Weather, st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.6, 0.95]))
AT_ONCE = st.none() | st.integers(1, 6)


@settings(deadline=None, max_examples=50)
@given(spec=specs(), weather=WEATHER, at_once=AT_ONCE)
def test_no_study_runs_more_than_was_announced(
    spec: StudySpec, weather: Weather, at_once: int | None
) -> None:
    queue = played(spec, weather, at_once)
    announced = runs_at_most(spec)
    plan = queue.plan()
    assert len(plan.stages) <= len(announced) <= spec.search.max_terms
    for stage, (candidates, runs) in zip(plan.stages, announced, strict=False):
        assert len(stage.candidates) <= candidates
        assert len({t.key for t in queue.trials if t.key.stage == stage.n}) <= runs


def check_soundness(spec: StudySpec, queue: MemoryQueue, plan: Plan) -> None:
    part = spec.search
    for key, count in queue.runs().items():
        states = [t.state for t in queue.trials if t.key == key]
        assert count <= spec.workers.max_attempts * POLICY.losses_per_attempt
        assert sum(state in {State.COMPLETE, State.PRUNED} for state in states) <= 1
    for stage in plan.stages:
        assert stage.n == len(stage.earlier_ks) + 1
        assert all(c.unfinished == 0 for c in stage.candidates)
        grid_ks = [c.k for c in stage.candidates if c.k is not None]
        if part.sampler == "grid":
            assert len(set(grid_ks)) == len(grid_ks)
            assert all(k <= max(part.cap, 1.0) + 1e-9 for k in grid_ks)
        assert all(k > earlier for k in grid_ks for earlier in stage.earlier_ks)
        if stage.kept and stage.gain.mean is not None:
            is_paired = stage.gain.n >= min(POLICY.min_runs_to_win, part.seeds)
            judged = stage.gain if is_paired else stage.smooth_gain
            assert judged is not None
            assert judged.mean is not None
            assert judged.mean > part.min_gain
    kept = tuple(stage.best.k for stage in plan.stages if stage.kept and stage.best)
    assert plan.incumbent.ks == (kept or (1.0,))
    assert all(stage.kept for stage in plan.stages[:-1])


@settings(deadline=None, max_examples=50)
@given(spec=specs(), weather=WEATHER, at_once=AT_ONCE)
def test_every_study_ends_soundly_in_any_weather(
    spec: StudySpec, weather: Weather, at_once: int | None
) -> None:
    queue = played(spec, weather, at_once)
    plan = queue.plan()
    assert plan.progress in {Progress.DONE, Progress.FAILED}
    assert plan.enqueue == plan.withdraw == ()
    assert not queue.waiting
    check_soundness(spec, queue, plan)


def part_way(spec: StudySpec, weather: Weather, ticks: int) -> MemoryQueue:
    queue = MemoryQueue(spec, weather)
    for _ in range(ticks):
        queue.reconcile()
        queue.work(3)
    return queue


@settings(deadline=None, max_examples=40)
@given(spec=specs(), weather=WEATHER, ticks=st.integers(0, 15), shuffling=st.randoms())
def test_order_of_the_records_does_not_matter(
    spec: StudySpec, weather: Weather, ticks: int, shuffling: random.Random
) -> None:
    queue = part_way(spec, weather, ticks)
    for original in list(queue.trials[:2]):
        again(queue, original, state=State.WAITING, error=None)
    shuffled = list(queue.trials)
    shuffling.shuffle(shuffled)
    assert make_plan(spec, shuffled) == queue.plan()


@settings(deadline=None, max_examples=40)
@given(spec=specs(), weather=WEATHER, ticks=st.integers(0, 15))
def test_planning_twice_changes_nothing(spec: StudySpec, weather: Weather, ticks: int) -> None:
    queue = part_way(spec, weather, ticks)
    assert queue.plan() == queue.plan()
    queue.reconcile()
    after = queue.plan()
    assert after.enqueue == after.withdraw == ()
    trials = list(queue.trials)
    queue.reconcile()
    assert queue.trials == trials


@settings(deadline=None, max_examples=40)
@given(spec=specs(), weather=WEATHER)
def test_killed_driver_is_healed_by_the_next_tick(spec: StudySpec, weather: Weather) -> None:
    """A tick that dies after each single enqueue leaves the same runs as one that does not."""
    whole, broken = MemoryQueue(spec, weather), MemoryQueue(spec, weather)
    whole.reconcile()
    while requests := broken.plan().enqueue:
        number = len(broken.trials)
        broken.trials.append(
            Trial(number, requests[0], State.WAITING, requests[0].k, trial_id=number)
        )
    assert broken.trials == whole.trials
