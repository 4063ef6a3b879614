"""``kdecay try``: what one short run shows of a task."""

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
from kdecay_search.user_code.findings import Level, findings
from kdecay_search.user_code.run import TaskRun
from kdecay_search.user_code.tryout import Tried, shortened, try_function, try_task
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay
from tests.support.memory_studies import study

TASK = {"kind": "python", "epochs": 2, "entry": "mine:train"}
STEPS = 4


def tried(function: Callable[[TaskRun], object], epochs: int = 2, **table: Any) -> Tried:
    seen = Tried(study(task=TASK | {"epochs": epochs} | table))
    try_function(seen, function, 2.0, "cpu", lambda text: None)
    return seen


def told(seen: Tried) -> dict[str, str]:
    """Level by the finding's text."""
    return {finding.text: str(finding.level) for finding in findings(seen)}


def complete(run: TaskRun) -> None:
    """Does all that a task should, without torch."""
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
    """As little as works."""
    run.steps_per_epoch = STEPS
    for number in range(1, run.epochs + 1):
        run.schedule(0)
        run.report(number, 40.0 / number)


def optimized(run: TaskRun, updates: int = STEPS, factor: float = 1.0) -> None:
    """A torch optimizer whose LR is the schedule's, times ``factor``."""
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


def test_a_task_that_does_everything_lacks_nothing_and_was_interrupted_once() -> None:
    seen = tried(complete)
    assert set(told(seen).values()) == {Level.GOOD}
    assert (seen.restored, [epoch.number for epoch in seen.epochs]) == (1, [1, 2])
    assert "stopped after an epoch, it went on with the next" in told(seen)


def test_a_bare_task_works_and_is_told_what_it_lacks() -> None:
    lacks = {text for text, level in told(tried(bare)).items() if level == Level.MISSING}
    for words in ("no error of averaged weights: no run ends early", "keeps no state", "run.seed",
                  "run.purpose", "run.device"):  # fmt: skip
        assert sum(words in text for text in lacks) == 1, words
    assert len(lacks) == 5


def test_a_task_that_asks_for_its_state_and_saves_none_is_told() -> None:
    def train(run: TaskRun) -> None:
        run.resume()
        bare(run)

    seen = tried(train)
    assert any("it started over: call run.save" in text for text in told(seen))
    assert [epoch.number for epoch in seen.epochs] == [1, 2]


def test_a_task_that_never_asks_for_the_schedule_is_worthless() -> None:
    seen = tried(lambda run: 12.0)
    assert told(seen)[
        "the schedule was never asked, so every k trains the same: run.drive(optimizer)"
    ] == Level.WRONG  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words", "level"),
    [
        ({}, "the optimizer's 8 updates had the schedule's LRs", Level.GOOD),
        ({"factor": 2.0}, "update 0 had the LR 0.2, and run.schedule(0) is 0.1", Level.WRONG),
        ({"updates": 3}, "6 updates were made, and run.total_steps is 8", Level.MISSING),
        ({"updates": 6}, "12 updates were made, and run.total_steps is 8", Level.MISSING),
    ],
)
def test_the_rates_of_a_torch_optimizer_are_seen(
    options: dict[str, Any], words: str, level: Level
) -> None:
    found = told(tried(lambda run: optimized(run, **options)))
    assert [known for text, known in found.items() if words in text] == [level]


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([50.0, 50.0], "the error never changed: 50 % in every epoch"),
        ([0.5, 0.25], "an error is in percent, 12.5 and not 0.125"),
        ([40.0, 90.0], "is it an accuracy? error = 100 - accuracy"),
        ([40.0, float("nan")], "it diverged"),
    ],
)
def test_errors_that_look_wrong_are_told(errors: list[float], words: str) -> None:
    def train(run: TaskRun) -> None:
        for number, error in enumerate(errors, start=1):
            run.report(number, error)

    assert any(words in text for text in told(tried(train)))


def test_a_task_that_reports_too_few_epochs_is_told_and_fails_unless_it_returns_a_number() -> None:
    def train(run: TaskRun, result: float | None) -> float | None:
        run.report(1, 40.0)
        return result

    line = "1 of 3 epochs were reported; train run.epochs epochs, and report each"
    assert told(tried(lambda run: train(run, None), epochs=3))[line] == Level.WRONG
    assert told(tried(lambda run: train(run, 40.0), epochs=3))[line] == Level.MISSING


def test_a_task_that_reports_too_many_epochs_is_refused() -> None:
    def train(run: TaskRun) -> None:
        for number in range(1, 91):
            run.report(number, 40.0 / number)

    with pytest.raises(TaskError, match=r"report\(epoch=3\): the last was 2"):
        tried(train)


def test_a_short_run_squeezes_the_schedule_and_its_warm_up() -> None:
    spec = study(epochs=90, schedule={"warmup_epochs": 9.0})
    short = shortened(spec, 3)
    assert (short.task.epochs, short.schedule.warmup_epochs) == (3, 0.3)
    assert shortened(spec, 90) is spec


def test_a_built_in_task_is_tried_as_well() -> None:
    lines: list[str] = []
    seen = Tried(study(epochs=3))
    try_task(seen, simulated, 1.0, "cpu", lines.append)
    assert [line.partition(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert not any(finding.level == Level.WRONG for finding in findings(seen))


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
    """What it prints to stdout, where ``mine.py`` is ``source``."""
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


def test_a_task_is_tried_in_this_process_and_the_verdict_says_what_comes_next(
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
def test_a_task_that_fails_says_where_and_does_not_work_yet(
    tmp_path: Path, entry: str, source: str, words: str
) -> None:
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


def test_a_program_is_tried_as_well(tmp_path: Path) -> None:
    out = run_try(tmp_path, PROGRAM, PRINTS, "--k", "3")
    assert "runs python mine.py 2 3.0" in out
    assert "epoch 2: error 20.00 %" in out
    assert "no run ends early" in out
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
def test_a_program_that_fails_says_what_it_said(tmp_path: Path, source: str, words: str) -> None:
    out = " ".join(run_try(tmp_path, PROGRAM, source, code=1).split())
    assert words in out
    assert "It does not work yet" in out
    assert "RunFailed" not in out
    assert "kdecay_search" not in out


def test_what_a_worker_would_log_is_seen(tmp_path: Path) -> None:
    source = "def train(run):\n    run.report(1, 40.0, speed=12.5)\n    return 40.0"
    assert "epoch 1: speed 12.5" in run_try(tmp_path, TASK, source, code=1)
