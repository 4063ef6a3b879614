"""``kdecay try``: what one short run shows about a task."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.tasks.simulated import train as simulated
from kdecay_search.user_code.findings import Severity, findings
from kdecay_search.user_code.run import TaskRun
from kdecay_search.user_code.tryout import Tryout, shortened, try_function, try_task
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay
from tests.support.memory_studies import study

TASK = {"kind": "python", "epochs": 2, "entry": "mine:train"}
STEPS = 4


def observed(function: Callable[[TaskRun], object], epochs: int = 2, **table: Any) -> Tryout:
    """Return what a short run of ``function`` showed."""
    seen = Tryout(study(task=TASK | {"epochs": epochs} | table))
    try_function(seen, function, 2.0, "cpu", lambda text: None)
    return seen


def texts(seen: Tryout) -> dict[str, str]:
    """Return the severity of each finding by its text."""
    return {finding.text: str(finding.severity) for finding in findings(seen)}


def complete(run: TaskRun) -> None:
    """A task that does everything that it should, without torch."""
    assert run.purpose == "search"
    assert run.device == "cpu"
    assert run.seed == 0
    run.steps_per_epoch = STEPS
    done = run.resume() or 0
    for number in run.remaining_epochs():
        assert number == done + 1
        rates = [run.schedule(step) for step in range(STEPS)]
        run.report(number, 40.0 / number, averaged_error=30.0 / number, lr=rates[-1])
        run.save(done := number)


def bare(run: TaskRun) -> None:
    """A task that does as little as works."""
    run.steps_per_epoch = STEPS
    for number in range(1, run.epochs + 1):
        run.schedule(0)
        run.report(number, 40.0 / number)


def optimized(run: TaskRun, updates: int = STEPS, factor: float = 1.0) -> None:
    """A task with a torch optimizer, whose LR is ``factor`` times the schedule's."""
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    run.steps_per_epoch = STEPS
    step = 0
    for number in run.remaining_epochs():
        for _ in range(updates):
            optimizer.param_groups[0]["lr"] = factor * run.schedule(step)
            optimizer.step()
            step += 1
        run.report(number, 40.0 / number)


def test_a_complete_task_lacks_nothing() -> None:
    seen = observed(complete)
    assert set(texts(seen).values()) == {Severity.GOOD}
    assert (seen.restored, [epoch.number for epoch in seen.epochs]) == (1, [1, 2])
    assert "interrupted after an epoch, it resumed with the next one" in texts(seen)


def test_a_bare_task_works_and_lacks_five_things() -> None:
    found = texts(observed(bare)).items()
    missing = {text for text, severity in found if severity == Severity.MISSING}
    for words in ("no error of averaged weights was reported, so no run can end early",
                  "no state is saved", "run.seed was", "run.purpose was",
                  "run.device was"):  # fmt: skip
        assert sum(words in text for text in missing) == 1, words
    assert len(missing) == 5


def test_a_task_that_saves_no_state() -> None:
    def train(run: TaskRun) -> None:
        run.resume()
        bare(run)

    seen = observed(train)
    assert any("it started over; call run.save" in text for text in texts(seen))
    assert [epoch.number for epoch in seen.epochs] == [1, 2]


def test_a_task_without_the_schedule_is_wrong() -> None:
    seen = observed(lambda run: 12.0)
    assert texts(seen)[
        "the schedule was never used, so every k trains alike; call run.drive(optimizer)"
    ] == Severity.WRONG  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words", "severity"),
    [
        ({}, "all 8 optimizer updates used the schedule's LR", Severity.GOOD),
        ({"factor": 2.0}, "update 0 used the LR 0.2, but run.schedule(0) is 0.1", Severity.WRONG),
        ({"updates": 3}, "6 updates were made, but run.total_steps is 8", Severity.MISSING),
        ({"updates": 6}, "12 updates were made, but run.total_steps is 8", Severity.MISSING),
    ],
)
def test_a_torch_optimizer_s_rates_are_checked(
    options: dict[str, Any], words: str, severity: Severity
) -> None:
    found = texts(observed(lambda run: optimized(run, **options)))
    assert [found_as for text, found_as in found.items() if words in text] == [severity]


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([50.0, 50.0], "the error never changed: 50 % in every epoch"),
        ([0.5, 0.25], "no error is above 0.5 %: report percent, such as 12.5, and not 0.125"),
        ([40.0, 90.0], "is it an accuracy? error = 100 - accuracy"),
        ([40.0, float("nan")], "the training diverged: lower schedule.lr_max"),
    ],
)
def test_errors_that_look_wrong(errors: list[float], words: str) -> None:
    def train(run: TaskRun) -> None:
        for number, error in enumerate(errors, start=1):
            run.report(number, error)

    assert any(words in text for text in texts(observed(train)))


def test_too_few_epochs() -> None:
    def train(run: TaskRun, result: float | None) -> float | None:
        run.report(1, 40.0)
        return result

    line = "1 of 3 epochs were reported; train run.epochs epochs, and report each"
    assert texts(observed(lambda run: train(run, None), epochs=3))[line] == Severity.WRONG
    assert texts(observed(lambda run: train(run, 40.0), epochs=3))[line] == Severity.MISSING


def test_too_many_epochs_are_refused() -> None:
    def train(run: TaskRun) -> None:
        for number in range(1, 91):
            run.report(number, 40.0 / number)

    with pytest.raises(TaskError, match=r"report\(epoch=3\): the last was 2"):
        observed(train)


def test_a_short_run_shortens_the_warm_up() -> None:
    spec = study(epochs=90, schedule={"warmup_epochs": 9.0})
    short = shortened(spec, 3)
    assert (short.task.epochs, short.schedule.warmup_epochs) == (3, 0.3)
    assert shortened(spec, 90) is spec


def test_a_built_in_task() -> None:
    lines: list[str] = []
    seen = Tryout(study(epochs=3))
    try_task(seen, simulated, 1.0, "cpu", lines.append)
    assert [line.partition(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert not any(finding.severity == Severity.WRONG for finding in findings(seen))


# ---- the command -----------------------------------------------------------------------------

GOOD = """
def train(run):
    run.steps_per_epoch = 5
    for epoch in run.remaining_epochs():
        print("hello from the training")
        run.schedule(0)
        run.report(epoch, 40 / epoch)
"""
RAISES = """
def train(run):
    step(run)
def step(run):
    raise ZeroDivisionError("my own mistake")
"""


def run_try(folder: Path, task: dict[str, Any], source: str, *options: str, code: int = 0) -> str:
    """Run ``kdecay try`` with ``source`` as ``mine.py``, and return what it prints."""
    folder.joinpath("mine.py").write_text(source)
    lines = [f"{key} = {json.dumps(value)}" for key, value in task.items()]
    text = 'name = "mine"\n[task]\n' + "\n".join(lines) + "\n"
    folder.joinpath("study.toml").write_text(text)
    process = Kdecay(folder / "home").start("try", "study.toml", *options, cwd=folder)
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert not (folder / "home").exists(), "it made a data folder"
    return out + err


def test_the_command_prints_what_happened(
    tmp_path: Path,
) -> None:
    out = run_try(tmp_path, TASK | {"epochs": 90}, GOOD)
    assert "2 of 90 epochs, k = 1, seed 0, cpu; the schedule is compressed into them" in out
    assert "hello from the training" in out
    assert "epoch 2: error 20.00 %" in out
    assert "It works, except for what is marked ! (5). Search: kdecay launch study.toml" in out
    assert "epoch 3:" in run_try(tmp_path, TASK | {"epochs": 90}, GOOD, "--epochs", "3")


@pytest.mark.parametrize(
    ("entry", "source", "words"),
    [
        ("mine:train", RAISES, "ZeroDivisionError: my own mistake (mine.py, line 5)"),
        ("mine:train", "def train(run): pass", "reported no epoch and returned no number"),
        ("mine:train", "def train(run): run.report(1, 'low')", "must be a number (mine.py, line 1"),
        ("mine:train", "import nowhere", "nowhere"),
        ("mine:trian", "def train(run): pass", "did you mean train?"),
        ("yours:train", "", "there is no module 'yours'"),
    ],
)
def test_a_task_that_fails_says_where(tmp_path: Path, entry: str, source: str, words: str) -> None:
    out = run_try(tmp_path, TASK | {"entry": entry}, source, code=1)
    assert words in out
    assert "It does not work yet" in out
    assert "kdecay_search" not in out, "the traceback begins in the user's own code"


# ---- programs ----------------------------------------------------------------------------------

PROGRAM = {"kind": "command", "epochs": 4, "command": ["python", "mine.py", "{epochs}", "{k}"]}
PRINTS = """
import sys
print("starting")
for epoch in range(1, int(sys.argv[1]) + 1):
    print(f'{{"epoch": {epoch}, "error": {40 / epoch}}}')
"""


def test_a_program(tmp_path: Path) -> None:
    out = run_try(tmp_path, PROGRAM, PRINTS, "--k", "3")
    assert "running python mine.py 2 3.0" in out
    assert "epoch 2: error 20.00 %" in out
    assert "no run can end early" in out
    assert "print averaged_error, too" in out
    assert "It works, except for what is marked ! (1). Search: kdecay launch study.toml" in out


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise KeyError('mine')", "✗ python ended with exit status 1 after epoch 0: KeyError"),
        ("print('nothing to say')", 'it must print a line such as {"epoch": 1, "error": 12.5}'),
        ('print(\'{"epoch": 2, "error": 1}\')', "epoch = 2: epoch 1 is next"),
    ],
)
def test_a_program_that_fails_shows_its_output(tmp_path: Path, source: str, words: str) -> None:
    out = " ".join(run_try(tmp_path, PROGRAM, source, code=1).split())
    assert words in out
    assert "It does not work yet" in out
    assert "RunFailed" not in out
    assert "kdecay_search" not in out


def test_the_worker_s_log_is_shown(tmp_path: Path) -> None:
    source = "def train(run):\n    run.report(1, 40.0, speed=12.5)\n    return 40.0"
    assert "epoch 1: speed 12.5" in run_try(tmp_path, TASK, source, code=1)
