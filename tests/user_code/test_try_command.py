"""The command ``kdecay try``, on functions and on programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.support.kdecay_command import Kdecay
from tests.user_code.test_try import NATS, TASK

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
    text = tomli_w.dumps({"name": "mine", "task": task})
    folder.joinpath("study.toml").write_text(text)
    done = Kdecay(folder / "home").run("try", "study.toml", *options, code=code, cwd=folder)
    assert not (folder / "home").exists(), "it made a data folder"
    return done.stdout + done.stderr


def test_the_command_prints_what_happened(
    tmp_path: Path,
) -> None:
    out = run_try(tmp_path, TASK | {"epochs": 90}, GOOD)
    assert "2 of 90 epochs, k = 1, seed 0, cpu; the schedule is compressed into them" in out
    assert "hello from the training" in out
    assert "epoch 2: validation error 20.00 %" in out
    assert "once more with seed 1, until the reports differ" in out
    assert "another seed changes nothing" in out
    assert "It works, except for what is marked ! (6). Search: kdecay launch study.toml" in out
    assert "epoch 3:" in run_try(tmp_path, TASK | {"epochs": 90}, GOOD, "--epochs", "3")


@pytest.mark.parametrize(
    ("entry", "source", "words"),
    [
        ("mine:train", RAISES, "ZeroDivisionError: my own mistake (mine.py, line 5)"),
        ("mine:train", "def train(run): pass", "reported nothing and returned no number"),
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
    assert "epoch 2: validation error 20.00 %" in out
    assert "no run can be paused or end early" in " ".join(out.split())
    assert "print averaged_error, too" in out
    assert (
        "another seed changes nothing, so more seeds say nothing about the noise; pass {seed}"
        in (" ".join(out.split()))
    )
    assert "It works, except for what is marked ! (3). Search: kdecay launch study.toml" in out


ACCURACIES = """
def train(run):
    run.steps_per_epoch = 5
    for epoch in run.remaining_epochs():
        run.report(epoch, run.schedule(0) * epoch / 2 + run.seed, run.schedule(0) * epoch / 2)
"""


def test_an_accuracy_is_not_taken_for_an_error_without_a_word(tmp_path: Path) -> None:
    task = TASK | {"metric": {"name": "accuracy"}}
    out = " ".join(run_try(tmp_path, task, ACCURACIES).split())
    assert (
        "! the metric is accuracy, where lower is better; but it rose from 0.0500 to 0.1000" in out
    )
    assert 'if higher is better, set direction = "max" under [task.metric]' in out
    assert "It works, except for what is marked !" in out


STEPPED = """
def train(run):
    for step in run.remaining_steps():
        if run.is_report_due(step):
            run.report(step=step, value=run.schedule(step) + run.seed)
"""


def test_a_study_of_steps(tmp_path: Path) -> None:
    task = {"kind": "python", "entry": "mine:train", "steps": 2000, "report_every": 300}
    task["metric"] = NATS
    out = run_try(tmp_path, task, STEPPED)
    assert "600 of 2,000 steps, k = 1, seed 0, cpu; the schedule is compressed into them" in out
    assert "step 300: loss 0.05050 nats" in out
    assert "is_report_due" not in out, "it is called for every update"
    assert "✓ 600 of 600 steps were reported" in out
    assert "✓ another seed gives other values" in out
    assert "%" not in out.replace("a half-life near 8 %", "")
    assert "all 2,000 steps" in run_try(tmp_path, task, STEPPED, "--steps", "5000")
    refused = run_try(tmp_path, task, STEPPED, "--epochs", "3", code=2)
    assert "--epochs: the study has task.steps = 2000; use --steps" in refused


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
