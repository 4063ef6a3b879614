"""When a run has ended, however it ended, no process that it started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdecay_search.tasks.protocol import Lost
from kdecay_search.user_code import command, python
from tests.support.wait import wait_for
from tests.user_code.programs import (
    ALL_EPOCHS,
    EVERY_EPOCH,
    LONG,
    alive,
    failure,
    function,
    let_time_fly,
    numbers,
    program,
    report_line,
    started,
)

pytestmark = pytest.mark.usefixtures("own_folder")
CHILDREN = """
sleep 600 &
echo $! >> pids
setsid sh -c 'sleep 600 & echo $! >> pids'
(trap '' TERM HUP INT; env -i setsid sh -c 'sleep 600 & echo $! >> pids; wait' &)
while [ $(wc -l < pids) -lt 3 ]; do sleep 0.01; done
"""
"""Starts a child, one with a session of its own, and one that ignores signals as well."""


@pytest.fixture
def no_orphans(own_folder: Path) -> Iterator[None]:
    """When the test is over, three processes were started, and none is alive."""
    yield
    assert [alive(pid) for pid in started()] == [False, False, False]


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.parametrize("end", ["exit 0", "exit 1", "kill -9 $$"])
def test_a_program_that_ends(end: str) -> None:
    run = program(f"{CHILDREN}\n{ALL_EPOCHS}\n{end}")
    if end == "exit 0":
        command.train(run)
    else:
        failure(command.train, run)
    assert numbers(run) == [1, 2, 3]


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.parametrize("end", [EVERY_EPOCH, "raise ValueError", "os._exit(1)"])
def test_a_function_that_ends(end: str) -> None:
    run = function(f"import subprocess\nsubprocess.run({CHILDREN!r}, shell=True)\n{end}")
    if end == EVERY_EPOCH:
        python.train(run)
    else:
        failure(python.train, run)


@pytest.mark.usefixtures("no_orphans")
def test_a_program_that_is_lost() -> None:
    run = program(f"{CHILDREN}\n{report_line(1, 40)}; sleep 600", ends={1: Lost})
    with pytest.raises(Lost):
        command.train(run)


@pytest.mark.usefixtures("no_orphans")
def test_a_function_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"import subprocess\nsubprocess.run({CHILDREN!r}, shell=True)"
    let_time_fly(monkeypatch, Path("hangs").exists)
    failure(python.train, function(f"{body}\nopen('hangs', 'w')\ntime.sleep(6000)", task=LONG))


WORKER = """
import json, sys
sys.path.append(sys.argv[1])
from tests.support.recorded_run import RecordedRun
from kdecay_search.user_code import command, python
task = json.loads(sys.argv[2])
(command if task["kind"] == "command" else python).train(RecordedRun(task=task))
"""


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.parametrize("kind", ["command", "python"])
def test_a_worker_that_is_killed(kind: str) -> None:
    own = program(f"echo $$ > program; {CHILDREN}\nsleep 600")
    if kind == "python":
        body = f"import subprocess\nsubprocess.run({CHILDREN!r}, shell=True)"
        own = function(f"{body}\nopen('program', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    arguments = [str(Path(__file__).parents[2]), own.spec.task.model_dump_json(exclude_none=True)]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *arguments])
    wait_for(lambda: Path("program").exists() and Path("program").read_text(), "the program")
    wait_for(lambda: Path("pids").exists() and len(started()) == 3, "the children")
    worker.kill()
    worker.wait()
    family = [int(Path("program").read_text()), *started()]
    wait_for(lambda: not any(map(alive, family)), "the end of all processes")


def test_a_supervisor_that_is_killed() -> None:
    children = "sleep 600 & echo $! >> pids; setsid sh -c 'sleep 600 & echo $! >> pids'"
    run = program(f"echo $PPID > supervisor; {children}; echo $$ >> pids; sleep 600")

    def kill() -> None:
        wait_for(lambda: Path("pids").exists() and len(started()) == 3, "the children")
        os.kill(int(Path("supervisor").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert "was killed by SIGKILL" in str(failure(command.train, run))
    killer.join()
    wait_for(lambda: not any(map(alive, started())), "the end of all processes")


def test_signals_that_the_worker_ignores_stay_ignored() -> None:
    """As under ``nohup``; except SIGTERM, by which a worker asks a program to end."""
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGTERM)]
    try:
        run = program(f"grep SigIgn /proc/self/status > mask\n{ALL_EPOCHS}")
        command.train(run)
    finally:
        for number, handler in zip((signal.SIGHUP, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    mask = int(Path("mask").read_text().split()[1], 16)
    ignored = [number for number in signal.Signals if mask >> (number - 1) & 1]
    assert ignored == [signal.SIGHUP]
