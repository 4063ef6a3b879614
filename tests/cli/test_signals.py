"""A signal that was ignored when a command started stays ignored, as ``nohup`` wants it."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kdecay_search.storage import Storage
from kdecay_search.storage.records import read_trials
from kdecay_search.study.trials import State
from kdecay_search.worker.signals import DRAIN_SIGNALS
from tests.support.kdecay_command import KDECAY, TIMEOUT_SECONDS, Kdecay, simulated_study
from tests.support.wait import wait_for

IGNORED = [
    (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1),
    (signal.SIGTERM, signal.SIGUSR1),
]
SETTLED_SECONDS = 0.5
"""How long a process that a signal ends may take."""


@pytest.fixture
def study(alone: Kdecay, tmp_path: Path) -> str:
    """The file of a study that takes longer than any test, launched without workers."""
    file = simulated_study(tmp_path, name="long", task__epochs=1000, task__epoch_seconds=0.2)
    alone.run("launch", file, "--detach", "--workers", "0")
    return file


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def end_of_processes() -> Iterator[None]:
    """Kill what a failing test has left running."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def start(
    kdecay: Kdecay, ignored: Sequence[signal.Signals], *arguments: str
) -> subprocess.Popen[str]:
    """Start the command in a shell that ignores signals, as ``nohup`` does."""
    names = " ".join(number.name.removeprefix("SIG") for number in ignored)
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' {names}; exec \"$@\"", "-", *KDECAY, *arguments],
        env=kdecay.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _started.append(process)
    return process


def send_and_end(process: subprocess.Popen[str], ignored: Sequence[signal.Signals]) -> str:
    """Send the ignored signals, then one that is not; return what the process wrote to stderr."""
    for number in ignored:
        process.send_signal(number)
    time.sleep(SETTLED_SECONDS)
    assert process.poll() is None, process.communicate()
    process.send_signal(next(number for number in DRAIN_SIGNALS if number not in ignored))
    return process.communicate(timeout=TIMEOUT_SECONDS)[1]


def is_running(kdecay: Kdecay) -> bool:
    assert kdecay.url is not None
    storage = Storage(kdecay.url)
    try:
        return State.RUNNING in {trial.state for trial in read_trials(storage, "long")}
    finally:
        storage.close()


@pytest.mark.parametrize("ignored", IGNORED[:1], ids=str)
def test_worker(alone: Kdecay, study: str, ignored: Sequence[signal.Signals]) -> None:
    worker = start(alone, ignored, "worker", "--study", "long")
    wait_for(lambda: is_running(alone), "a claim", TIMEOUT_SECONDS)
    log = send_and_end(worker, ignored)
    assert worker.returncode == 0, log
    assert "released" in log


@pytest.mark.parametrize("ignored", IGNORED, ids=str)
def test_launch_and_its_workers(
    alone: Kdecay, study: str, ignored: Sequence[signal.Signals]
) -> None:
    launch = start(alone, ignored, "launch", study, "--workers", "1")
    wait_for(lambda: is_running(alone), "a claim", TIMEOUT_SECONDS)
    children = Path(f"/proc/{launch.pid}/task/{launch.pid}/children").read_text().split()
    for pid in children:
        status = Path(f"/proc/{pid}/status").read_text()
        mask = int(re.findall(r"^SigIgn:\s*(\w+)", status, re.MULTILINE)[0], 16)
        assert all(mask >> (number - 1) & 1 for number in ignored)
    log = send_and_end(launch, ignored)
    assert launch.returncode == 130, log
    assert "their trials go back into the queue" in log
    assert not is_running(alone)


@pytest.mark.parametrize("ignored", IGNORED[:1], ids=str)
def test_dashboard(alone: Kdecay, ignored: Sequence[signal.Signals]) -> None:
    dashboard = start(alone, ignored, "dashboard", "--port", "0")
    assert dashboard.stderr is not None
    assert "Optuna's dashboard" in dashboard.stderr.readline()
    log = send_and_end(dashboard, ignored)
    assert dashboard.returncode == 0, log
