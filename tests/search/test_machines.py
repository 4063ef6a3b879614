"""Runs that fail on some machines: whether the run is given up, and which machine is named."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.search import Plan, Progress, make_plan
from kdecay_search.search.machines import Machines, failing_places, machine_of
from kdecay_search.search.policy import POLICY
from kdecay_search.study.trials import State, Trial
from tests.search.searches import played, search
from tests.support.memory_studies import (
    MemoryQueue,
    Outcome,
    completed,
    failed,
    simulated,
    study,
)

BROKEN, OTHER_BROKEN = "broken:7-aaaaaaaa:cpu", "bad:8-bbbbbbbb:cpu"
GOOD, BETTER = "good:1-cccccccc:cpu", "better:2-dddddddd:cpu"
SPEC = study(search=search(max_terms=1))


def on(worker: str | None, trial: Trial) -> Trial:
    return replace(trial, worker=worker)


def taken_by(choose: Callable[[Trial], str], broken: set[str], good: Outcome) -> Outcome:
    """What becomes of runs that ``choose`` gives to a worker, if these workers fail every run.

    Such a worker pauses for ever longer, so that it takes no run more than four times.
    """
    taken: Counter[object] = Counter()

    def outcome(waiting: Trial) -> Trial:
        worker = choose(waiting)
        if worker not in broken or taken[waiting.key, worker] == 4:
            return on(GOOD, good(waiting))
        taken[waiting.key, worker] += 1
        return on(worker, failed(waiting))

    return outcome


def by_dice(seed: int, workers: list[str]) -> Callable[[Trial], str]:
    return lambda waiting: random.Random(f"{seed} {waiting.number}").choice(workers)


def errors(plan: Plan) -> dict[float | None, dict[int, float]]:
    return {c.k: dict(c.errors) for stage in plan.stages for c in stage.candidates}


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    broken=st.sampled_from([{BROKEN}, {BROKEN, OTHER_BROKEN}]),
    more=st.integers(1, 3),
    at_once=st.integers(1, 6),
)
def test_machines_that_fail_every_run_change_no_answer_while_another_works(
    seed: int, broken: set[str], more: int, at_once: int
) -> None:
    # A run that fails on as many machines as there are attempts is taken to be at fault, if these
    # machines have not failed other runs before.
    attempts = len(broken) + more
    spec = study(search=search(max_terms=2), workers={"max_attempts": attempts})
    workers = [*sorted(broken), GOOD, BETTER]
    queue = MemoryQueue(spec, taken_by(by_dice(seed, workers), broken, simulated(spec)))
    queue.trials.append(on(GOOD, completed(first_waiting(spec), 50.0)))  # one works from the start
    queue.play(at_once)
    calm = MemoryQueue(spec)
    calm.trials.append(on(GOOD, completed(first_waiting(spec), 50.0)))
    calm.play(at_once)
    assert queue.plan().progress == Progress.DONE
    assert errors(queue.plan()) == errors(calm.plan())


def first_waiting(spec: object) -> Trial:
    queue = MemoryQueue(spec)  # type: ignore[arg-type]
    queue.reconcile()
    first = queue.trials[0]
    assert first.k is not None
    return first


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    workers=st.lists(st.sampled_from([BROKEN, OTHER_BROKEN, GOOD, BETTER]), min_size=1, max_size=4),
    attempts=st.integers(1, 4),
)
def test_a_run_that_is_at_fault_itself_is_given_up_soon_on_any_machines(
    seed: int, workers: list[str], attempts: int
) -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": attempts})
    good, choose = simulated(spec), by_dice(seed, workers)

    def outcome(waiting: Trial) -> Trial:
        return on(choose(waiting), failed(waiting) if waiting.k == 2.0 else good(waiting))

    queue = played(spec, outcome)
    assert queue.plan().progress == Progress.DONE
    counts = [count for key, count in queue.runs().items() if key in at_two(queue)]
    assert len(counts) == 2
    machines = len({machine_of(worker) for worker in workers})
    longest = attempts if machines == 1 else attempts * POLICY.repeats_per_attempt
    assert all(attempts <= count <= longest for count in counts)


def at_two(queue: MemoryQueue) -> set[object]:
    return {trial.key for trial in queue.trials if trial.k == 2.0}


FAILED_ON: list[tuple[list[str], list[str], list[str], int, bool]] = [
    # failures of the run, results of others, running trials of others, max_attempts, is it over?
    ([BROKEN] * 2, [], [], 3, False),
    ([BROKEN] * 3, [], [], 3, True),  # the only machine
    ([BROKEN] * 3, [BROKEN], [], 3, True),
    ([BROKEN] * 3, [GOOD], [], 3, False),  # another may take it
    ([BROKEN], [GOOD], [], 1, False),
    ([BROKEN] * 14, [GOOD], [], 3, False),
    ([BROKEN] * 15, [GOOD], [], 3, True),  # the other has left
    ([BROKEN] * 50, [GOOD], [GOOD], 3, False),  # it has not
    ([BROKEN] * 50, [], [GOOD], 3, False),
    ([BROKEN, GOOD], [GOOD], [], 3, False),
    ([BROKEN, GOOD], [GOOD], [], 2, True),
    ([BROKEN, GOOD, GOOD], [GOOD], [GOOD], 3, True),  # it has failed wherever it could
    ([BROKEN, GOOD], [BETTER], [BETTER], 2, True),
    ([BROKEN, GOOD, GOOD], [BETTER], [BETTER], 3, False),
    ([BROKEN, "broken:9-x:cpu", "broken:10-y:cpu"], [GOOD], [], 3, False),  # of one machine
]


@pytest.mark.parametrize(("failures", "results", "running", "attempts", "is_over"), FAILED_ON)
def test_a_run_s_attempts_are_counted_by_machines(
    failures: list[str], results: list[str], running: list[str], attempts: int, is_over: bool
) -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": attempts})
    run, *others = make_plan(spec, []).enqueue
    states = [(State.FAILED, run, worker) for worker in failures]
    states += [
        (state, request, worker)
        for state, workers in ((State.COMPLETE, results), (State.RUNNING, running))
        for request, worker in zip(
            others if state == State.COMPLETE else others[::-1], workers, strict=False
        )
    ]
    trials = [
        Trial(
            number, request, state, request.k, trial_id=number, worker=worker,
            error=10.0 if state == State.COMPLETE else None,
            reason="error" if state == State.FAILED else None,
        )
        for number, (state, request, worker) in enumerate(states)
    ]  # fmt: skip
    assert (run not in make_plan(spec, trials).enqueue) == is_over


def ended(number: int, run: int, worker: str, is_good: bool, **more: object) -> Trial:
    request = make_plan(SPEC, []).enqueue[run]
    trial = Trial(number, request, State.WAITING, request.k, trial_id=number, worker=worker)
    changed = completed(trial, 10.0) if is_good else failed(trial)
    return replace(changed, **more)  # type: ignore[arg-type]


def test_a_machine_is_named_after_three_failures_of_two_runs_until_it_has_a_result() -> None:
    failures = [ended(number, number % 2, BROKEN, False) for number in range(3)]
    assert failing_places(failures[:2]) == []
    assert failing_places([replace(trial, request=failures[0].request) for trial in failures]) == []
    [place] = failing_places(failures)
    assert (place.name, place.failures) == ("broken", failures)
    assert failing_places([*failures, ended(3, 2, BROKEN, True)]) == []
    [place] = failing_places([ended(-1, 2, BROKEN, True), *failures])
    assert len(place.failures) == 3
    lost = [replace(trial, reason="lost") for trial in failures]
    assert failing_places(lost) == []


def test_of_a_machine_that_works_the_worker_is_named_that_fails() -> None:
    device, sibling = "gpu7:1-a:cuda:0", "gpu7:2-b:cuda:1"
    trials = [ended(number, number, device, False) for number in range(3)]
    trials += [ended(3 + number, 3 + number, sibling, True) for number in range(2)]
    [place] = failing_places(trials)
    assert place.name == device
    known = Machines.of(trials)
    assert known.at_work == {sibling}
    assert (known.place_of(device), known.place_of(sibling)) == (device, "gpu7")
