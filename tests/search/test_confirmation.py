"""The comparison that a study ends with, as a pure function, and its schedules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.errors import InvalidSpec
from kdecay_search.report.summary import summarise
from kdecay_search.schedules.baselines import BASELINES
from kdecay_search.schedules.kdecay import FAMILIES
from kdecay_search.search import Plan, Progress
from kdecay_search.search.verdict import judge_confirmation
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.comparators import (
    AREA_MATCHED,
    COMPARATORS,
    FOUND,
    ORIGINAL,
    comparators_of,
    schedule_of,
)
from kdecay_search.study.file import changed, differences, from_json
from kdecay_search.study.spec import FIRST_CONFIRMATION_SEED, StudySpec
from kdecay_search.study.trials import CONFIRMATION, State, Trial, Trials
from kdecay_search.tasks.simulated import comparator_shape, final_error, shape_error
from tests.support.memory_studies import MemoryQueue, completed, failed, simulated, stated, study

NOISE = {"seed_noise": 0.5, "run_noise": 0.1, "epoch_noise": 0.3}


def confirmed_study(surface: dict[str, Any] | None = None, **confirm: Any) -> StudySpec:
    return study(
        surface={"best_ks": [3.0], **NOISE} | (surface or {}),
        search={"k_min": 1.0, "k_max": 4.0, "k_cap": 4.0, "k_step": 1.0, "seeds": 2}
        | {"max_terms": 1},
        confirm={"seeds": 4} | confirm,
    )


def played(spec: StudySpec, outcome: Any = None) -> tuple[MemoryQueue, Plan]:
    queue = MemoryQueue(spec, outcome)
    return queue, queue.play()


def begun(spec: StudySpec) -> MemoryQueue:
    """The search is over, and the confirmation's runs are waiting."""
    queue = MemoryQueue(spec)
    while not of_confirmation(queue):
        queue.work()
        queue.reconcile()
    return queue


def of_confirmation(queue: MemoryQueue) -> list[Trial]:
    return [trial for trial in queue.trials if trial.key.stage == CONFIRMATION]


def view_of(queue: MemoryQueue) -> StudySnapshot:
    return StudySnapshot(queue.spec, Trials.of(queue.trials), stopped=False)


# ---- which runs -----------------------------------------------------------------------------


def test_a_study_without_confirm_ends_with_its_search() -> None:
    queue, plan = played(confirmed_study(seeds=0))
    assert plan.confirmation is None
    assert not of_confirmation(queue)


def test_every_schedule_runs_once_on_every_fresh_seed() -> None:
    queue, plan = played(confirmed_study(baselines=["cosine", "htd"]))
    runs = [(t.request.comparator, t.key.seed) for t in of_confirmation(queue)]
    names = [FOUND, ORIGINAL, AREA_MATCHED, "cosine", "htd"]
    assert sorted(runs) == sorted(
        (name, FIRST_CONFIRMATION_SEED + i) for name in names for i in range(4)
    )
    searched = {t.key.seed for t in queue.trials if t.key.stage != CONFIRMATION}
    assert not searched & {seed for _, seed in runs}
    assert plan.progress == Progress.DONE


def test_pairs_come_before_further_seeds() -> None:
    queue, _ = played(confirmed_study())
    assert [t.key.seed for t in of_confirmation(queue)] == [
        FIRST_CONFIRMATION_SEED + i for i in range(4) for _ in range(3)
    ]


def test_the_confirmation_begins_when_the_search_is_over() -> None:
    queue = MemoryQueue(confirmed_study())
    while not of_confirmation(queue):
        queue.reconcile()
        open_before = [t for t in queue.trials if t.open and t.key.stage != CONFIRMATION]
        assert not (of_confirmation(queue) and open_before)
        queue.work(1)
    assert queue.plan().progress == Progress.RUNNING


def test_runs_of_a_confirmation_are_never_pruned() -> None:
    queue, _ = played(confirmed_study())
    assert all(trial.request.protected for trial in of_confirmation(queue))


def test_where_nothing_was_found_nothing_is_confirmed() -> None:
    queue, plan = played(confirmed_study({"best_ks": [1.0], "seed_noise": 0.0, "run_noise": 0.0}))
    assert plan.incumbent.ks == (1.0,)
    assert not of_confirmation(queue)
    assert plan.progress == Progress.DONE
    assert plan.confirmation is not None
    assert plan.confirmation.comparison.verdict == "no detectable difference"
    assert "nothing to confirm" in judge_confirmation(plan.confirmation, plan.format).sentence


def test_a_run_that_fails_is_tried_again_and_then_left_out_of_the_pairs() -> None:
    spec = confirmed_study()
    works = simulated(spec)

    def outcome(waiting: Trial) -> Trial:
        bad = waiting.request.comparator == FOUND and waiting.key.seed == FIRST_CONFIRMATION_SEED
        return failed(waiting) if bad else works(waiting)

    queue, plan = played(spec, outcome)
    tried = [t for t in of_confirmation(queue) if t.state == State.FAILED]
    assert len(tried) == spec.workers.max_attempts
    assert plan.progress == Progress.DONE
    assert plan.confirmation is not None
    assert plan.confirmation.comparison.n == 3
    assert plan.confirmation.rows[0].failed == 1


def test_a_confirmation_of_failures_alone_fails_the_study_and_says_so() -> None:
    spec = confirmed_study()
    works = simulated(spec)
    queue, plan = played(spec, lambda t: failed(t) if t.key.stage == CONFIRMATION else works(t))
    assert plan.progress == Progress.FAILED
    assert plan.confirmation is not None
    assert "failed" in judge_confirmation(plan.confirmation, plan.format).sentence
    assert len(view_of(queue).given_up) == 12


def test_another_first_seed_repeats_it_and_other_baselines_add_their_runs_alone() -> None:
    queue, _ = played(confirmed_study())
    before = len(of_confirmation(queue))
    queue.spec = changed(queue.spec, "confirm", {"baselines": ["linear"]}, "test")
    queue.play()
    assert len(of_confirmation(queue)) == before + 4
    queue.spec = changed(queue.spec, "confirm", {"first_seed": 2000}, "test")
    plan = queue.play()
    assert len(of_confirmation(queue)) == before + 4 + 16
    assert plan.confirmation is not None
    assert set(plan.confirmation.rows[0].errors) == {2000, 2001, 2002, 2003}


def test_waiting_runs_of_a_confirmation_that_was_changed_are_withdrawn() -> None:
    queue = begun(confirmed_study(baselines=["linear"]))
    queue.spec = changed(queue.spec, "confirm", {"baselines": [], "seeds": 2}, "test")
    withdrawn = queue.plan().withdraw
    waiting = [t for t in queue.waiting if t.key.stage == CONFIRMATION]
    assert {(t.request.comparator, t.key.seed) for t in withdrawn} == {
        (t.request.comparator, t.key.seed)
        for t in waiting
        if t.request.comparator == "linear" or t.key.seed >= FIRST_CONFIRMATION_SEED + 2
    }


# ---- what it says ---------------------------------------------------------------------------


def errors_by_control(**errors: list[float]) -> Any:
    """Search: k = 3 is found; confirmation: these errors by schedule."""
    search = stated({1.0: 10.0, 2.0: 9.0, 3.0: 8.0, 4.0: 9.0})
    table = {name.replace("_", "-"): values for name, values in errors.items()}

    def outcome(waiting: Trial) -> Trial:
        if waiting.request.comparator is None:
            return search(waiting)
        value = table[waiting.request.comparator][waiting.key.seed - FIRST_CONFIRMATION_SEED]
        return completed(waiting, value)

    return outcome


FOUR = [10.0, 12.0, 11.0, 13.0]


@pytest.mark.parametrize(
    ("found", "verdict", "begins"),
    [
        (
            [9.0, 11.2, 9.9, 12.1],
            "better",
            "Confirmed: on the test set, 4 fresh seeds, better than k = 1 by 0.95 points (95 %",
        ),
        (
            [11.0, 12.8, 12.1, 13.9],
            "worse",
            "Refuted: on the test set, 4 fresh seeds, worse than k = 1 by 0.95 points (95 %",
        ),
        (
            [10.5, 11.4, 11.6, 12.7],
            "no detectable difference",
            "Not confirmed: on the test set, 4 fresh seeds, no detectable difference to k = 1",
        ),
    ],
)
def test_the_verdict_is_that_of_the_pairs_with_the_original(
    found: list[float], verdict: str, begins: str
) -> None:
    outcome = errors_by_control(found=found, original=FOUR, area_matched=FOUR)
    queue, plan = played(confirmed_study(), outcome)
    said = summarise(view_of(queue))["confirm"]
    assert said["verdict"] == verdict
    assert said["n"] == 4
    assert said["rows"][0]["errors"] == found
    assert said["rows"][1]["schedule"] == "original"
    assert said["rows"][1]["mean"] == pytest.approx(11.5)
    if verdict == "better":
        assert said["difference"] == pytest.approx(0.95)
        assert said["interval"][0] > 0
    assert plan.confirmation is not None
    assert judge_confirmation(plan.confirmation, plan.format).sentence.startswith(begins)


def test_the_shape_is_told_from_the_amount() -> None:
    found = [9.0, 11.2, 9.9, 12.1]
    same = errors_by_control(found=found, original=FOUR, area_matched=[9.1, 11.0, 10.0, 12.0])
    _, plan = played(confirmed_study(), same)
    assert plan.confirmation is not None
    assert (
        "There is no detectable difference to k = 1 at the same mean rate (-0.02 points"
        in judge_confirmation(plan.confirmation, plan.format).sentence
    )
    worse = errors_by_control(found=found, original=FOUR, area_matched=FOUR)
    _, plan = played(confirmed_study(), worse)
    assert plan.confirmation is not None
    assert "Its shape matters" in judge_confirmation(plan.confirmation, plan.format).sentence


def test_there_is_no_verdict_before_the_last_run() -> None:
    queue = begun(confirmed_study())
    queue.work(9)
    said = summarise(view_of(queue))["confirm"]
    assert (said["verdict"], said["state"], said["n"]) == (None, "running", 3)


# ---- its schedules --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("warmup_epochs", [0.0, 1.5])
@given(
    ks=st.lists(st.floats(0.3, 12.0), min_size=1, max_size=3, unique=True).map(sorted),
    steps=st.integers(2, 500),
)
def test_the_area_matched_control_has_the_found_schedule_s_mean_rate(
    family: str, warmup_epochs: float, ks: list[float], steps: int
) -> None:
    part = {"family": family, "lr_max": 0.1, "lr_min": 0.001, "warmup_epochs": warmup_epochs}
    spec = study(epochs=10, schedule=part)
    found = schedule_of(spec, FOUND, ks, steps)
    matched = schedule_of(spec, AREA_MATCHED, ks, steps)
    total = 10 * steps
    assert matched.area(total) == pytest.approx(found.area(total), rel=1e-9)
    assert matched.weight(0.3) == schedule_of(spec, ORIGINAL, ks, steps).weight(0.3)
    assert matched.warmup_steps == found.warmup_steps


@pytest.mark.parametrize("comparator", COMPARATORS[:-1])
def test_every_control_goes_between_the_study_s_rates(comparator: str) -> None:
    part = {"lr_max": 0.2, "lr_min": 0.002, "warmup_epochs": 1.0}
    spec = study(epochs=10, schedule=part, confirm={"seeds": 2, "baselines": list(BASELINES)})
    assert comparator in comparators_of(spec)
    schedule = schedule_of(spec, comparator, (3.0,), 20)
    assert schedule.lr_min == 0.002
    rates = [schedule(step, 200) for step in range(201)]
    assert all(0 < rate <= schedule.lr_max for rate in rates)
    if comparator != AREA_MATCHED:
        assert schedule.lr_max == 0.2


def test_simulated_controls_lie_on_the_study_s_surface() -> None:
    spec = confirmed_study(baselines=["linear", "cosine"])
    assert isinstance(spec.task, SimulatedTask)
    surface = spec.task.surface
    for comparator, ks in ((FOUND, (3.0,)), (ORIGINAL, (1.0,)), ("linear", (1.0,))):
        shape = comparator_shape(spec, comparator, (3.0,))
        assert shape_error(surface, shape) == pytest.approx(final_error(surface, ks), abs=1e-9)
    cosine = shape_error(surface, comparator_shape(spec, "cosine", (3.0,)))
    assert cosine > surface.best_error


# ---- how it is asked for --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"seeds": 1}, "must be 2 or more"),
        ({"baselines": ["cosin"]}, "must hold names among linear, "),
        ({"baselines": ["linear", "linear"]}, "must name each schedule once"),
        ({"first_seed": 5}, "must be greater than or equal to 1000"),
    ],
)
def test_a_wrong_confirm_is_one_line_with_its_rule(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidSpec, match=rule) as caught:
        changed(confirmed_study(), "confirm", values, "study.toml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"study.toml: confirm.{next(iter(values))}")


def test_a_confirmation_may_be_changed_without_mixing_results() -> None:
    old = confirmed_study()
    new = changed(old, "confirm", {"seeds": 8, "baselines": ["sgdr"]}, "test")
    assert differences(old, new) == []
    assert from_json(new.to_json()) == new
