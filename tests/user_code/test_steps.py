"""User code that is counted in steps: functions and programs, whole and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Epoch, Released
from kdecay_search.user_code import command, python
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.reports import WrongReport
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun
from tests.user_code.programs import failure, function, numbers, program

TASK = {"kind": "python", "entry": "mine:train", "steps": 100, "report_every": 30}
STEPS = {"epochs": None, "steps": 100, "report_every": 30}
PLANNED = [30, 60, 90, 100]

pytestmark = pytest.mark.usefixtures("own_folder")


def stepped(**run: Any) -> RecordedRun:
    return RecordedRun(task=TASK, schedule={"warmup_steps": 10}, **run)


def used(run: TaskRun, name: str) -> None:
    """Use an attribute or a method."""
    value = getattr(run, name)
    value()


def values(run: RecordedRun) -> list[float]:
    return [epoch.validation_error for epoch in run.epochs]


def test_the_length_of_a_run() -> None:
    run = TaskRun(stepped())
    assert (run.total_steps, run.report_every, run.steps_done) == (100, 30, 0)
    assert [step for step in run.remaining_steps() if run.is_report_due(step)] == PLANNED
    assert not run.is_report_due(0)
    assert run.schedule(10) == 0.1, "the warm-up ends after 10 updates"
    assert run.schedule(5) < 0.1
    assert run.schedule(100) == 0.001
    run.steps_per_epoch = 7  # as code for both kinds of study may do
    assert run.total_steps == 100


@pytest.mark.parametrize("name", ["epochs", "epochs_done", "remaining_epochs"])
def test_epochs_are_refused_in_a_study_of_steps(name: str) -> None:
    run = TaskRun(stepped())
    with pytest.raises(TaskError, match=rf"run\.{name}.*: this study has task\.steps = 100; use"):
        used(run, name)


@pytest.mark.parametrize("name", ["steps_done", "remaining_steps"])
def test_steps_are_refused_in_a_study_of_epochs(name: str) -> None:
    run = TaskRun(RecordedRun())
    with pytest.raises(TaskError, match=rf"run\.{name}.*: this study has task\.epochs = 3; use"):
        used(run, name)


def test_an_epoch_alone_is_refused_and_beside_a_step_it_is_allowed() -> None:
    recorded = stepped()
    with pytest.raises(WrongReport, match=r"has task\.steps = 100; call run\.report\(step=…, val"):
        TaskRun(recorded).report(30, 1.0)
    TaskRun(recorded).report(epoch=1, step=30, value=1.0, averaged_value=0.5)
    assert recorded.epochs == [Epoch(1, None, 1.0, 0.5)]


def test_reports_count_for_the_planned_steps() -> None:
    def train(run: TaskRun) -> None:
        for step in (0, 25, 50, 60, 75, 99):
            run.report(step=step, value=step)

    run = stepped()
    run_function(train, run)
    assert (numbers(run), values(run)) == ([1, 2, 3, 4], [25, 60, 75, 99])


def test_a_returned_number_needs_no_last_report() -> None:
    run = stepped()
    assert run_function(lambda task_run: 12.5, run) == 12.5
    assert run.epochs == [Epoch(1, None, 12.5)]


@pytest.mark.parametrize("ends", [1, 2, 3])
def test_a_resumed_run_ends_with_the_same_reports(tmp_path: Path, ends: int) -> None:
    """Reports at multiples of 20 for planned ones at 30, 60, 90 and 100."""

    def train(run: TaskRun) -> None:
        run.seed_everything()
        model = torch.nn.Linear(1, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        run.drive(optimizer)
        average = run.average(model, optimizer)
        run.keep(model, optimizer, average)
        for step in run.remaining_steps():
            optimizer.zero_grad()
            model(torch.randn(4, 1)).square().mean().backward()
            optimizer.step()
            if step % 20 == 0:
                with average:
                    averaged = model.weight.item()
                run.report(step=step, value=model.weight.item(), averaged_value=averaged)

    whole = stepped(folder=tmp_path / "whole")
    run_function(train, whole)
    first = stepped(folder=tmp_path / "parts", ends={ends: Released})
    with pytest.raises(Released):
        run_function(train, first)
    second = stepped(folder=tmp_path / "parts")
    run_function(train, second)
    assert [*second.restored, *second.epochs] == whole.epochs
    assert numbers(whole) == [1, 2, 3, 4]


def test_the_state_is_saved_as_often_as_reports_are_planned(tmp_path: Path) -> None:
    class Kept:
        saved = 0

        def state_dict(self) -> dict[str, Any]:
            self.saved += 1
            return {}

        def load_state_dict(self, state: Any, /) -> None:
            raise AssertionError("nothing was saved before")

    kept = Kept()

    def train(run: TaskRun) -> None:
        run.keep(kept)
        for step in run.remaining_steps():
            run.report(step=step, value=step)

    run_function(train, stepped(folder=tmp_path))
    assert kept.saved == len(PLANNED)


def test_a_function_in_a_process_of_its_own() -> None:
    body = "for step in run.remaining_steps():\n    if step % 45 == 0 or step == 100: " + (
        "run.report(step=step, value=step)"
    )
    error = failure(python.train, function(body, task=TASK | {"epochs": None}))
    assert "run.report(step=45): there was no report from step 1 to 30" in str(error)
    assert error.is_wrong
    run = function(body.replace("45", "15"), task=TASK | {"epochs": None})
    assert python.train(run) is None
    assert values(run) == PLANNED


def test_a_function_that_ends_early_says_what_was_expected() -> None:
    run = function("run.report(step=30, value=1.0)", task=TASK | {"epochs": None})
    error = failure(python.train, run)
    assert "the last report was after step 30 of task.steps = 100; report once more" in str(error)


# ---- programs ----------------------------------------------------------------------------------


def lines(*steps: int, key: str = "step") -> str:
    return "\n".join(f"echo '{json.dumps({key: s, 'value': s / 2})}'" for s in steps)


def stepped_program(script: str, *arguments: str, **run: Any) -> RecordedRun:
    return program(script, *arguments, task=STEPS, **run)


def test_a_program_s_reports_count_for_the_planned_steps() -> None:
    run = stepped_program(lines(0, 20, 40, 60, 80, 95))
    command.train(run)
    assert (numbers(run), values(run)) == ([1, 2, 3, 4], [10, 30, 40, 47.5])


def test_a_program_gets_the_length_of_its_run() -> None:
    names = ("steps", "total_steps", "report_every", "warmup_steps")
    script = f'printf "%s\\n" "$@" > given\n{lines(*PLANNED)}'
    schedule = {"warmup_steps": 7}
    run = stepped_program(script, *(f"{{{name}}}" for name in names), schedule=schedule)
    command.train(run)
    assert Path("given").read_text().split() == ["2.0", "100", "100", "30", "7"]


def test_the_file_of_the_schedule_has_a_row_for_every_step() -> None:
    run = stepped_program(f'cp "$2" rates.csv\n{lines(*PLANNED)}', "{schedule_csv}")
    command.train(run)
    assert len(Path("rates.csv").read_text().split()) == 1 + 100 + 1


def test_the_updates_of_epochs_are_given_as_well() -> None:
    script = f'printf "%s\\n" "$@" > given\n{lines(1, 2, 3, key="epoch")}'
    task = {"steps_per_epoch": 11}
    command.train(program(script, "{total_steps}", "{warmup_steps}", task=task))
    assert Path("given").read_text().split() == ["2.0", "33", "0"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            lines(30, 60),
            'sh ended after 60 of task.steps = 100; it must print a line such as {"step": 30, "val',
        ),
        (lines(30, 60), "on its standard output every 30 steps, and at the end"),
        (lines(1, 2, key="epoch"), 'lines with "epoch", but this study counts steps'),
        (lines(90), "step = 90: there was no report from step 1 to 30"),
        ("exit 3", "sh ended with exit status 3 after step 0"),
    ],
)
def test_a_program_that_does_not_fit_the_study(script: str, message: str) -> None:
    assert message in str(failure(command.train, stepped_program(script)))


@pytest.mark.parametrize("resumes_at", [40, 50, 61])
def test_a_program_resumes_from_its_own_state(tmp_path: Path, resumes_at: int) -> None:
    script = ". ./mine.sh"
    Path("mine.sh").write_text(f"{lines(20, 40, 60)}\nsleep 60")
    first = stepped_program(script, "{checkpoint_dir}", folder=tmp_path, ends={2: Released})
    with pytest.raises(Released):
        command.train(first)
    rest = (step for step in (40, 50, 61, 70, 90, 100) if step >= resumes_at)
    Path("mine.sh").write_text(lines(*rest))
    second = stepped_program(script, "{checkpoint_dir}", folder=tmp_path)
    command.train(second)
    reports = [*second.restored, *second.epochs]
    assert [epoch.number for epoch in reports] == [1, 2, 3, 4]
    steps = [2 * epoch.validation_error for epoch in reports]
    assert steps == [20, {40: 50, 50: 50, 61: 60}[resumes_at], 90, 100]


def test_a_program_whose_state_is_ahead_starts_over(tmp_path: Path) -> None:
    script = f'[ -e "$2/state" ] && {lines(90)}\n{lines(*PLANNED)}\n'
    run = stepped_program(script, "{checkpoint_dir}", folder=tmp_path)
    assert run.checkpoint is not None
    run.checkpoint.make_folder().joinpath("state").touch()
    error = failure(command.train, run)
    assert "the saved state was removed, and the next attempt starts over" in str(error)
    assert not error.is_wrong
    command.train(stepped_program(script, "{checkpoint_dir}", folder=tmp_path))
