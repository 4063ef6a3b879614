"""The length of a run: epochs, or steps with reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.comparators import AREA_MATCHED, schedule_of
from kdecay_search.study.file import differences, from_json, load, to_toml
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.training_length import TrainingLength
from tests.study.files import refused, written

EPOCHS = {"kind": "python", "entry": "mine:train", "epochs": 8}
STEPS = {"kind": "python", "entry": "mine:train", "steps": 2000, "report_every": 300}
PROGRAM = {"kind": "command", "command": ["train", "{k}"]}


def table(task: dict[str, Any], **schedule: Any) -> dict[str, Any]:
    return {"name": "study", "task": task, "schedule": schedule}


def spec_of(tmp_path: Path, task: dict[str, Any], **schedule: Any) -> StudySpec:
    return load(written(tmp_path, table(task, **schedule)))


def test_epochs_have_a_report_each() -> None:
    length = TrainingLength("epoch", 8)
    assert (str(length), length.reports, length.setting) == ("8 epochs", 8, "task.epochs = 8")
    assert length.positions() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (length.place(3), length.updates(391)) == ("epoch 3", 8 * 391)


def test_steps_have_a_report_at_the_end_as_well() -> None:
    length = TrainingLength("step", 2000, 300)
    assert (str(length), length.reports, length.setting) == ("2,000 steps", 7, "task.steps = 2000")
    assert length.positions() == [300, 600, 900, 1200, 1500, 1800, 2000]
    assert (length.place(6), length.updates(391)) == ("step 1,800", 2000)


@given(st.integers(1, 10**9), st.data())
def test_reports_end_with_the_training(total: int, data: st.DataObject) -> None:
    every = data.draw(st.integers(1, total))
    length = TrainingLength("step", total, every)
    assert length.position(length.reports) == total
    assert length.position(length.reports - 1) < total
    assert length.position(0) == 0


@pytest.mark.parametrize(
    ("task", "length"),
    [
        (EPOCHS, TrainingLength("epoch", 8)),
        (STEPS, TrainingLength("step", 2000, 300)),
        (PROGRAM | {"steps": 10, "report_every": 10}, TrainingLength("step", 10, 10)),
        ({"kind": "simulated", "epochs": 3}, TrainingLength("epoch", 3)),
        (
            {"kind": "images", "epochs": 5, "data": {"name": "digits"}},
            TrainingLength("epoch", 5),
        ),
    ],
)
def test_every_task_has_a_length(
    tmp_path: Path, task: dict[str, Any], length: TrainingLength
) -> None:
    spec = spec_of(tmp_path, task)
    assert spec.task.length == length
    assert from_json(spec.to_json()) == spec
    (tmp_path / "again.toml").write_text(to_toml(spec))
    assert load(tmp_path / "again.toml") == spec


@pytest.mark.parametrize(
    ("task", "schedule", "message"),
    [
        (EPOCHS | {"epochs": None}, {}, "task: needs epochs, or steps with report_every"),
        (STEPS | {"epochs": 8}, {}, "task.steps = 2000: goes without task.epochs = 8; give one"),
        (STEPS | {"report_every": None}, {}, "task: steps = 2000 needs report_every"),
        (EPOCHS | {"report_every": 3}, {}, "task.report_every = 3: goes with task.steps"),
        (STEPS | {"report_every": 3000}, {}, "must be at most task.steps = 2000"),
        (STEPS | {"report_every": 0}, {}, "task.report_every = 0: must be greater"),
        (STEPS | {"steps": 10**9, "report_every": 1}, {}, "more than 100,000 reports per run"),
        (STEPS | {"steps_per_epoch": 391}, {}, "task.steps_per_epoch = 391: goes with task.epochs"),
        (STEPS, {"warmup_epochs": 1.5}, "warmup_epochs = 1.5 goes with task.epochs; use warmup_st"),
        (STEPS, {"warmup_steps": 2000}, "warmup_steps = 2000 must be below task.steps = 2000"),
        (EPOCHS, {"warmup_steps": 5}, "warmup_steps = 5 goes with task.steps; use warmup_epochs"),
        (EPOCHS, {"warmup_epochs": 8}, "warmup_epochs = 8.0 must be below task.epochs = 8"),
        (
            PROGRAM | {"steps": 9, "report_every": 3, "command": ["t", "{k}", "{epochs}"]},
            {},
            "task: command holds {epochs}, but task.steps counts; use {steps}",
        ),
        (
            PROGRAM | {"epochs": 9, "command": ["t", "{k}", "{report_every}"]},
            {},
            "task: command holds {report_every}, which needs task.report_every",
        ),
        (
            PROGRAM | {"epochs": 9, "command": ["t", "{k}", "{total_steps}"]},
            {},
            "command holds {total_steps}, which needs task.steps_per_epoch or task.steps",
        ),
        (
            PROGRAM | {"steps": 6_000_000, "report_every": 1000, "command": ["{schedule_csv}"]},
            {},
            "gives more than 5,000,000 rows of {schedule_csv}; use {k} or {ks}",
        ),
    ],
)
def test_a_length_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, task: dict[str, Any], schedule: dict[str, Any], message: str
) -> None:
    stated = {key: value for key, value in task.items() if value is not None}
    assert message in refused(tmp_path, table(stated, **schedule))


def test_warm_up_is_counted_as_the_training_is(tmp_path: Path) -> None:
    by_steps = spec_of(tmp_path, STEPS, warmup_steps=200)
    assert by_steps.warmup_steps() == by_steps.warmup_steps(391) == 200
    by_epochs = spec_of(tmp_path, EPOCHS, warmup_epochs=0.5)
    assert by_epochs.warmup_steps(391) == 196
    schedule = by_steps.schedule_for((2.0,), 391)
    assert schedule.warmup_steps == 200
    assert schedule(200, 2000) == by_steps.schedule.lr_max
    assert schedule(2000, 2000) == by_steps.schedule.lr_min


def test_all_comparators_train_as_many_steps(tmp_path: Path) -> None:
    """The mean rate of the area-matched schedule is that of the found one over the whole run."""
    spec = spec_of(tmp_path, STEPS, warmup_steps=200)
    matched = schedule_of(spec, AREA_MATCHED, (3.0,), 391)
    assert isinstance(matched, KDecaySchedule)
    assert matched.warmup_steps == 200
    found = spec.schedule_for((3.0,))
    assert matched.area(2000) == pytest.approx(found.area(2000))


def test_a_study_of_epochs_is_stored_as_before(tmp_path: Path) -> None:
    stored = spec_of(tmp_path, EPOCHS).to_json()
    assert not any(key in stored for key in ('"steps"', "report_every", "warmup_steps", "metric"))


def test_another_length_is_a_difference(tmp_path: Path) -> None:
    one = spec_of(tmp_path, STEPS)
    other = spec_of(tmp_path, STEPS | {"report_every": 500})
    assert differences(one, other) == ["task.report_every: 300 -> 500"]
    assert one.fingerprint() != other.fingerprint()


def test_the_fingerprint_of_a_study_of_steps_never_changes(tmp_path: Path) -> None:
    task = PROGRAM | {"steps": 2000, "report_every": 300}
    spec = spec_of(tmp_path, task, warmup_steps=100)
    assert spec.fingerprint().hex()[:16] == "6b9ffce941790944"
    assert spec.fingerprint((1.0, 3.5), 2).hex()[:16] == "40b33bc6b4789907"
