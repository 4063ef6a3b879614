"""Worker processes on this machine, started by ``launch`` or by ``worker`` on several devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from kdecay_search.errors import KDecayError
from kdecay_search.paths import home_folder
from kdecay_search.study.spec import StudySpec, Task
from kdecay_search.tasks.device_names import devices_of
from kdecay_search.user_code.allowance import Allowance
from kdecay_search.worker.devices import usable_cores, worker_options
from kdecay_search.worker.names import ID_VARIABLE, name_prefix, new_id
from kdecay_search.worker.signals import DRAIN_SIGNALS, drain_signal

MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Environment variables with which glibc keeps the memory of large tensors, instead of faulting it
in at every step."""

MAX_RESTARTS = 20
"""Restarts of one worker that is killed again and again."""
SHORT_LIFE_SECONDS = 60.0
"""A worker that is killed sooner after its start than this has had a short life."""
FIRST_RESTART_SECONDS = 1.0
"""Pause before the restart of a worker that has had two short lives in succession. It doubles with
each further one; before that, a killed worker is restarted at once."""
MAX_RESTART_SECONDS = 60.0
"""Longest pause before the restart of a worker."""


@dataclass
class WorkerProcess:
    """A worker process, and what it was started with."""

    arguments: Sequence[str]
    """Arguments after ``kdecay worker``."""
    environment: Mapping[str, str]
    """Environment variables that are added to this process's own."""
    log: Path | None
    """File that the worker's output is appended to; None for this process's stderr."""
    detached: bool
    """Whether the worker outlives the terminal."""
    popen: subprocess.Popen[bytes]
    """The process, or the latest one if it was restarted."""
    name_prefix: str
    """What the worker's name begins with: everything but its device. A restarted worker has
    another one."""
    started: float
    """Time (s) at which the process was started."""
    restarts: int = 0
    """How often the worker was restarted."""
    short_lives: int = 0
    """How often in succession the worker was killed soon after its start."""
    restart_at: float | None = None
    """Time (s) at which a killed worker is to be restarted; None if it is not."""

    @property
    def ended_badly(self) -> bool:
        """Whether the process has ended with an error or by a signal other than a request to
        end."""
        return self.popen.poll() not in (None, 0, *(-number for number in DRAIN_SIGNALS))

    @property
    def was_killed(self) -> bool:
        """Whether the process was ended by a signal, such as the kernel's when memory is full."""
        code = self.popen.poll()
        return self.ended_badly and code is not None and code < 0


@dataclass
class LocalWorkers:
    """A group of ``kdecay worker`` processes."""

    processes: list[WorkerProcess] = field(default_factory=list)
    """All processes that were started, including those that have ended."""
    dead: list[str] = field(default_factory=list)
    """The :attr:`WorkerProcess.name_prefix` of each process that was found killed, and whose trials
    are not back in the queue yet."""
    clock: Callable[[], float] = time.monotonic
    """Returns the time in seconds."""

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        detached: bool = False,
    ) -> WorkerProcess:
        """Start ``kdecay worker ARGUMENTS`` in a process group of its own.

        Ctrl-C in a terminal therefore reaches a worker once, through the process that started it.
        With Python's option ``-P``, a worker imports nothing from the working folder; user code
        that is allowed runs in processes of its own, which do.

        Args:
            arguments: Arguments after ``kdecay worker``.
            environment: Environment variables to add.
            log: File to append the worker's output to; None for this process's stderr.
            detached: Whether the worker outlives the terminal.
        """
        popen, prefix = _spawn(arguments, environment, log, detached)
        process = WorkerProcess(arguments, environment, log, detached, popen, prefix, self.clock())
        self.processes.append(process)
        return process

    def restart_killed(self, reap: Callable[[str], object]) -> None:
        """Restart the workers that a signal killed, at most :data:`MAX_RESTARTS` times each.

        A worker that is killed again soon after its start is restarted after a pause, which grows:
        what kills it, such as a lack of memory, may pass.

        Args:
            reap: Puts the trials of a killed process back into the queue, given what its name
                begins with. What it does not do, because it raises an error, is repeated by the
                next call.
        """
        now = self.clock()
        for process in self.processes:
            if not process.was_killed or process.restarts >= MAX_RESTARTS:
                continue
            if process.restart_at is None:
                self.dead.append(process.name_prefix)
                is_short = now - process.started < SHORT_LIFE_SECONDS
                process.short_lives = process.short_lives + 1 if is_short else 0
                process.restart_at = now + restart_pause(process.short_lives)
            if process.restart_at <= now:
                process.popen, process.name_prefix = _spawn(
                    process.arguments, process.environment, process.log, process.detached
                )
                process.started, process.restart_at = now, None
                process.restarts += 1
        while self.dead:
            reap(self.dead[-1])
            self.dead.pop()

    @property
    def running(self) -> int:
        """How many of the processes are running, or are about to be restarted."""
        return sum(
            process.popen.poll() is None or process.restart_at is not None
            for process in self.processes
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every running process."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.send_signal(number)

    def drain(self, seconds: float | None) -> None:
        """Ask all workers to release their trials and end.

        Workers that take longer than ``seconds`` are killed; a second Ctrl-C kills them at once.
        """
        self.signal(drain_signal())
        try:
            if self.wait(seconds):
                return
        except KeyboardInterrupt:
            pass
        self.signal(signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for all workers to end; return False if that takes longer than ``seconds``."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for process in self.processes:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                process.popen.wait(left)
            except subprocess.TimeoutExpired:
                return False
        return True

    def failure(self) -> str | None:
        """The last log line of a worker that ended with an error; None if none did."""
        for process in self.processes:
            if process.ended_badly:
                text = process.log.read_text(errors="replace") if process.log else ""
                lines = text.strip().splitlines()
                return lines[-1] if lines else f"it ended with code {process.popen.returncode}"
        return None

    def none_left(self) -> KDecayError:
        """The error that a study has lost all its local workers."""
        reason = self.failure() or "they ended before the study did"
        return KDecayError(f"no local worker is left: {reason} (log: {self.processes[0].log})")


def start_workers(
    spec: StudySpec,
    count: int,
    devices: Sequence[str],
    allowance: Allowance,
    environment: Mapping[str, str],
    detached: bool = False,
    fuse: int = 1,
) -> LocalWorkers:
    """Start workers that train a study's runs on this machine, and end with it.

    Args:
        spec: The study.
        count: How many workers.
        devices: The devices of each worker; further workers begin again with the first.
        allowance: The training code that they may run.
        environment: Environment variables to add.
        detached: Whether they outlive the terminal.
        fuse: How many runs each of them trains at once.
    """
    processes = count * len(devices_of(devices[0]))
    given = {**environment, **thread_limit(spec.task, processes)}
    workers = LocalWorkers()
    for index in range(count):
        options = worker_options(devices[index % len(devices)], fuse)
        arguments = ["--study", spec.name, "--drain", *options, *allowance.options]
        log = home_folder("logs", spec.name) / f"worker-{index}.log"
        workers.start(arguments, given, log, detached)
    return workers


def restart_pause(short_lives: int) -> float:
    """Return the pause (s) before the restart of a worker after so many short lives."""
    if short_lives < 2:  # noqa: PLR2004 - once may be an accident
        return 0.0
    doublings = min(short_lives - 2, 32)  # more would overflow
    return min(FIRST_RESTART_SECONDS * 2.0**doublings, MAX_RESTART_SECONDS)


def thread_limit(task: Task, workers: int) -> dict[str, str]:
    """Return the variable that divides the cores among the workers, each of which would otherwise
    use all of them; empty if the user has set it, or the study sets its threads."""
    if task.kind == "images":
        is_needed = task.threads == 0
    else:
        is_needed = task.kind != "simulated" and workers > 1 and "OMP_NUM_THREADS" not in os.environ
    if not is_needed:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // max(1, workers)))}


def _opened_log(path: Path) -> BinaryIO:
    """Open a log to append to it; only its user can read it, and no link is followed.

    Raises:
        KDecayError: It cannot be opened.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(os.open(path, flags, 0o600), "ab")
    except OSError as error:
        raise KDecayError(f"log {path}: {error.strerror}; KDECAY_HOME must be yours") from error


def _spawn(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path | None, detached: bool
) -> tuple[subprocess.Popen[bytes], str]:
    """Start a worker process; return it, and what the worker's name begins with."""
    worker_id = new_id()
    with contextlib.ExitStack() as stack:
        output = None
        if log is not None:
            output = stack.enter_context(_opened_log(log))
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "kdecay_search", "worker", *arguments],
            env={**os.environ, **MALLOC_SETTINGS, **environment, ID_VARIABLE: worker_id},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=detached,
            process_group=None if detached else 0,
        )
    return popen, name_prefix(popen.pid, worker_id)
