"""What workers store of runs on any metric: values, steps, runs that diverged, wrong values."""

from __future__ import annotations

import logging
import math
from typing import Any

import optuna
import pytest

from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage, records
from kdecay_search.storage.curves import read_kept
from kdecay_search.study.trials import State, Trial
from tests.user_code.test_workers import ONE_RUN, SEARCH, command_study, python_study, trained

pytestmark = pytest.mark.usefixtures("own_folder")

HIGHER = {"name": "accuracy", "direction": "max"}
STEPS = {"epochs": None, "steps": 100, "report_every": 30}


def trained_trials(storage: Storage, spec: Any) -> tuple[StudySnapshot, list[Trial]]:
    return trained(storage, spec), records.read_trials(storage, spec.name)


def stored_values(storage: Storage, name: str) -> list[float]:
    study = optuna.load_study(study_name=f"{name}/k1", storage=storage.optuna)
    assert all(trial.value is not None for trial in study.trials)
    return [trial.value for trial in study.trials if trial.value is not None]


ACCURACY = """
def train(run):
    run.steps_per_epoch = 1
    for epoch in run.remaining_epochs():
        run.report(epoch, 0.5 + epoch / 10 + run.schedule(1))
"""


def test_values_are_stored_as_they_are_reported(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    spec = python_study("stored-accuracy", ACCURACY, task={"metric": HIGHER})
    with caplog.at_level(logging.INFO, "kdecay_search"):
        snapshot, trials = trained_trials(storage, spec)
    assert snapshot.state == "done"
    values = stored_values(storage, "stored-accuracy")
    assert all(0.8 < value < 1.0 for value in values)
    assert [trial.error for trial in trials] == [-value for value in values]
    assert not any(trial.worsened for trial in trials)
    assert f": {values[0]:.4f}" in caplog.text
    assert "%" not in caplog.text
    study = optuna.load_study(study_name="stored-accuracy/k1", storage=storage.optuna)
    assert study.best_value == max(values)


WORSENS = """
def train(run):
    for epoch in run.remaining_epochs():
        run.report(epoch, 0.5 + epoch / 10)
"""


@pytest.mark.parametrize(("metric", "worsened"), [({}, True), (HIGHER, False)])
def test_a_run_that_ends_worse_than_it_began_says_so(
    storage: Storage, metric: dict[str, Any], worsened: bool
) -> None:
    name = f"worsens-{worsened}"
    spec = python_study(name, WORSENS, search=ONE_RUN, task={"metric": metric or {"name": "loss"}})
    _, trials = trained_trials(storage, spec)
    assert [trial.worsened for trial in trials] == [worsened]


DIVERGES = """
def train(run):
    run.steps_per_epoch = 1
    run.report(1, -3.0, -3.0)
    bad = run.schedule(1) > 0.08  # k = 2
    if bad and run.args:
        return float("nan")
    for epoch in run.remaining_epochs():
        run.report(epoch, float("nan") if bad else -1.0, -1.0)
"""


@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_run_that_diverges_is_complete_with_the_worst_value(
    storage: Storage, caplog: pytest.LogCaptureFixture, direction: str, returned: bool
) -> None:
    name, worst = f"diverges-{direction}-{returned}", math.inf if direction == "min" else -math.inf
    task = {"metric": {"direction": direction}, "args": {"returned": True} if returned else {}}
    spec = python_study(name, DIVERGES, task=task)
    with caplog.at_level(logging.INFO, "kdecay_search"):
        snapshot, trials = trained_trials(storage, spec)
    assert snapshot.state == "done"
    assert {(trial.k, trial.state, trial.diverged) for trial in trials} == {
        (1.0, State.COMPLETE, False),
        (2.0, State.COMPLETE, True),
    }
    assert sorted(stored_values(storage, name)) == sorted([-1.0, worst])
    assert [candidate.diverged for candidate in snapshot.plan.stages[0].candidates] == [0, 1]
    assert snapshot.plan.leader.ks == (1.0,)
    assert caplog.text.count(": diverged") == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def train(run):\n    run.report(1, 'low')", "value = 'low': must be a number"),
        ("def train(run):\n    run.report(step=1, value=1.0)", "this study has task.epochs = 3"),
    ],
)
def test_a_wrong_value_fails_a_run_once(storage: Storage, source: str, message: str) -> None:
    name = f"wrong-{len(message)}"
    spec = python_study(name, source, search=ONE_RUN, workers={"max_attempts": 3})
    snapshot, trials = trained_trials(storage, spec)
    assert snapshot.state == "failed"
    assert [(trial.state, trial.reason) for trial in trials] == [(State.FAILED, "wrong")]
    assert message in str(trials[0].message)


def test_a_program_s_wrong_value_fails_a_run_once(storage: Storage) -> None:
    script = """echo '{"epoch": 1, "error": null}'"""
    snapshot, trials = trained_trials(storage, command_study("null", script, search=ONE_RUN))
    assert snapshot.state == "failed"
    assert [trial.reason for trial in trials] == ["wrong"]


STEPPED = """
def train(run):
    for step in run.remaining_steps():
        if step % 20 == 0:
            run.report(step=step, value=run.schedule(step), averaged_value=run.schedule(step))
"""


def test_a_study_of_steps_is_searched(storage: Storage) -> None:
    spec = python_study("steps", STEPPED, task=STEPS, search=SEARCH, schedule={"warmup_steps": 5})
    snapshot, trials = trained_trials(storage, spec)
    assert snapshot.state == "done"
    assert [(trial.state, trial.epochs) for trial in trials] == 2 * [(State.COMPLETE, 4)]
    assert (snapshot.epochs_trained, snapshot.epochs_planned) == (200, 200)
    curves = read_kept(storage, [t.trial_id for t in trials], ("validation_error",))
    schedule = spec.schedule_for((1.0,))
    assert curves[trials[0].trial_id]["validation_error"] == pytest.approx(
        [schedule(step, 100) for step in (20, 60, 80, 100)]
    )


ANY_SCALE = """
def train(run):
    run.steps_per_epoch = 5
    distance = (sum(run.schedule(step) for step in range(15)) - 0.9) ** 2
    for epoch in run.remaining_epochs():
        error = 5 + 40 * distance / epoch + run.seed / 50
        value = 1 - error / 100 if run.metric.direction == "max" else error
        run.report(epoch, value, value)
"""


def test_an_accuracy_is_searched_as_its_error_is(storage: Storage) -> None:
    search = SEARCH | {"k_max": 2.0, "seeds": 2}
    found = []
    for name, metric in [("as-error", {"name": "error", "unit": "%"}), ("as-accuracy", HIGHER)]:
        spec = python_study(name, ANY_SCALE, task={"metric": metric}, search=search)
        snapshot, trials = trained_trials(storage, spec)
        found.append((snapshot, [(trial.key, trial.k, trial.state) for trial in trials]))
    (error, of_error), (accuracy, of_accuracy) = found
    assert of_error == of_accuracy
    assert error.plan.leader.ks == accuracy.plan.leader.ks
    assert error.verdict.outcome == accuracy.verdict.outcome
    (stage,), (other,) = error.plan.stages, accuracy.plan.stages
    assert (stage.kept, stage.best and stage.best.k) == (other.kept, other.best and other.best.k)
    assert [c.probability for c in stage.candidates] == pytest.approx(
        [c.probability for c in other.candidates], abs=1e-6
    )
