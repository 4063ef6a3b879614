"""Runs of small Python functions and shell scripts, each in a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdecay_search.user_code import monitoring
from kdecay_search.user_code.monitoring import RunFailed
from tests.support.recorded_run import RecordedRun

PYTHON = {"kind": "python", "epochs": 3, "entry": "mine:train"}
LONG = {"epoch_timeout": 600.0}
"""Part of a task whose program is given up only as time is let fly (:func:`let_time_fly`)."""


def function(body: str, **run: Any) -> RecordedRun:
    """Return a run of a function ``train(run)`` with this body."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    Path("mine.py").write_text(f"import os, sys, time\n\n\ndef train(run):\n{lines}")
    task = PYTHON | run.pop("task", {})
    return RecordedRun(task=task, **run)


def program(script: str, *arguments: str, **run: Any) -> RecordedRun:
    """Return a run of a shell script: ``$1`` is k, and ``arguments`` follow, filled in."""
    plain = script.replace("{", "{{").replace("}", "}}")
    task = {"kind": "command", "epochs": 3, "command": ["sh", "-c", plain, "sh", "{k}", *arguments]}
    return RecordedRun(task=task | run.pop("task", {}), **run)


def failure(train: Callable[[Any], Any], run: RecordedRun) -> RunFailed:
    """Train a run that fails, and return its error."""
    with pytest.raises(RunFailed) as caught:
        train(run)
    return caught.value


def let_time_fly(patch: pytest.MonkeyPatch, has_come: Callable[[], object]) -> None:
    """Let an hour pass between two looks at a program's clock, as soon as ``has_come()``. However
    slow this machine is, the program has then come to where it hangs."""
    hours = 0

    def monotonic() -> float:
        nonlocal hours
        hours += bool(has_come())
        return time.monotonic() + 3600 * hours

    patch.setattr(monitoring, "time", SimpleNamespace(monotonic=monotonic))


def numbers(run: RecordedRun) -> list[int]:
    """Return the numbers of the epochs that were reported."""
    return [epoch.number for epoch in run.epochs]


def report_line(number: int, error: object, **more: object) -> str:
    """Return a shell command that reports an epoch."""
    return f"echo '{json.dumps({'epoch': number, 'error': error, **more})}'"


def alive(pid: int) -> bool:
    """Return whether the process runs; one that is a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started() -> list[int]:
    """Return the process ids that a program has written to ``pids``."""
    return [int(line) for line in Path("pids").read_text().split()]


ALL_EPOCHS = "\n".join(report_line(number, 40 / number) for number in (1, 2, 3))
EVERY_EPOCH = "for epoch in run.remaining_epochs(): run.report(epoch, 40 / epoch)"
