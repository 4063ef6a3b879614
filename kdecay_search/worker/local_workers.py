"""Worker processes on this machine, started by ``launch`` or by ``worker`` on several devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    restarts: int = 0
    """How often the worker was restarted."""

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

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        detached: bool = False,
    ) -> WorkerProcess:
        """Start ``kdecay worker ARGUMENTS`` in a process group of its own.

        Ctrl-C in a terminal therefore reaches a worker once, through the process that started it.

        Args:
            arguments: Arguments after ``kdecay worker``.
            environment: Environment variables to add.
            log: File to append the worker's output to; None for this process's stderr.
            detached: Whether the worker outlives the terminal.
        """
        popen = _spawn(arguments, environment, log, detached)
        process = WorkerProcess(arguments, environment, log, detached, popen)
        self.processes.append(process)
        return process

    def restart_killed(self) -> list[int]:
        """Restart the workers that a signal killed, at most :data:`MAX_RESTARTS` times each.

        Returns:
            The process ids of the killed processes.
        """
        killed = [p for p in self.processes if p.was_killed and p.restarts < MAX_RESTARTS]
        dead = [process.popen.pid for process in killed]
        for process in killed:
            process.popen = _spawn(
                process.arguments, process.environment, process.log, process.detached
            )
            process.restarts += 1
        return dead

    @property
    def running(self) -> int:
        """How many of the processes are running."""
        return sum(process.popen.poll() is None for process in self.processes)

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


def _spawn(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path | None, detached: bool
) -> subprocess.Popen[bytes]:
    with contextlib.ExitStack() as stack:
        output = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(log.open("ab"))
        return subprocess.Popen(
            [sys.executable, "-m", "kdecay_search", "worker", *arguments],
            env={**os.environ, **MALLOC_SETTINGS, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=detached,
            process_group=None if detached else 0,
        )
