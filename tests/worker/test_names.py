"""A worker's name is its own: the trial of one worker is never taken for another's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import LOST, State, Trial
from kdecay_search.worker.names import ID_VARIABLE, name_prefix, new_id, own_prefix
from tests.support.embedded_homes import CONTAINER, needs_containers
from tests.support.kdecay_command import KDECAY, Kdecay, simulated_study
from tests.support.wait import wait_for

LONG = {"task__epochs": 300, "task__epoch_seconds": 0.2, "workers__grace_seconds": 300.0}


def held(storage: Storage, name: str) -> list[Trial]:
    return [t for t in records.read_trials(storage, name) if t.state == State.RUNNING]


def number(trial: Trial) -> int:
    """The id of the process that holds a trial, in its own container."""
    found = re.fullmatch(r"[^:]+:(\d+)-[a-z2-7]{8}:cpu", trial.worker or "")
    assert found, trial.worker
    return int(found[1])


@contextmanager
def container(kdecay: Kdecay, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a container of its own: on the same host name, with its own process ids."""
    process = subprocess.Popen(
        [*CONTAINER, *command], env=kdecay.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()  # and with it everything in the container
        process.wait()


def outside(container: subprocess.Popen[bytes], inside: int) -> int:
    """The process id on this host of a process in a container."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue
        numbers = lines.get("NSpid", "").split()
        if len(numbers) > 1 and int(numbers[-1]) == inside:
            pid = ancestor = int(numbers[0])
            while ancestor > 1 and ancestor != container.pid:
                stat = Path(f"/proc/{ancestor}/stat").read_text()
                ancestor = int(stat.rpartition(")")[2].split()[1])
            if ancestor == container.pid:
                return pid
    raise AssertionError(f"there is no process {inside} in the container")


@needs_containers
def test_killing_a_worker_leaves_its_namesake_in_another_container_alone(
    home: Path, storage_url: str, tmp_path: Path, storage: Storage
) -> None:
    kdecay, name = Kdecay(home, storage_url), "namesakes"
    file = simulated_study(tmp_path, name=name, **LONG)
    with container(kdecay, *KDECAY, "launch", file, "--workers", "1") as first:
        mine = wait_for(lambda: held(storage, name), "a claim")[0]
        alike = f"echo {number(mine) - 1} > /proc/sys/kernel/ns_last_pid; " + '"$@"; true'
        worker = [*KDECAY, "worker", "--study", name, "--device", "cpu"]
        with container(kdecay, "sh", "-c", alike, "sh", *worker):
            wait_for(lambda: len(held(storage, name)) == 2, "the claim of the other")
            [other] = [t for t in held(storage, name) if t.trial_id != mine.trial_id]
            assert number(other) == number(mine), "the test wants equal process ids"
            os.kill(outside(first, number(mine)), signal.SIGKILL)
            wait_for(
                lambda: [t for t in records.read_trials(storage, name) if t.reason], "a lost trial"
            )
            lost = [t for t in records.read_trials(storage, name) if t.state == State.FAILED]
            assert [(t.trial_id, t.reason) for t in lost] == [(mine.trial_id, LOST)]
            assert other.trial_id in [t.trial_id for t in held(storage, name)]


def test_a_process_takes_the_id_that_it_was_started_with_once() -> None:
    given = new_id()
    script = (
        "from kdecay_search.worker.names import own_prefix; import os; "
        f"print(own_prefix(), own_prefix(), {ID_VARIABLE!r} in os.environ)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {ID_VARIABLE: given},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    first, second, is_left = started.communicate()[0].split()
    assert first == name_prefix(started.pid, given)
    assert second != first
    assert is_left == "False"


def test_no_two_workers_of_a_process_have_one_name() -> None:
    names = {own_prefix() for _ in range(1000)}
    assert len(names) == 1000
    assert all(len(name.split(":")) == 3 for name in names)
