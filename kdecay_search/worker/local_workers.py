"""Worker processes on this machine, started by ``launch`` or by a ``worker`` of many devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc then keeps large tensors' memory instead of faulting it in again at every step."""


MOST_RESTARTS = 20
"""Of a worker that is killed again and again."""


@dataclass
class WorkerProcess:
    """A worker process, and what it was started with."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    """None: this process's stderr."""
    detached: bool
    popen: subprocess.Popen[bytes]
    restarts: int = 0

    @property
    def ended_badly(self) -> bool:
        return self.popen.poll() not in (None, 0, -signal.SIGTERM, -signal.SIGINT)

    @property
    def was_killed(self) -> bool:
        code = self.popen.poll()
        return self.ended_badly and code is not None and code < 0


@dataclass
class LocalWorkers:
    """Some ``kdecay worker`` processes and their log files."""

    processes: list[WorkerProcess] = field(default_factory=list)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        detached: bool = False,
    ) -> WorkerProcess:
        """Start ``kdecay worker ARGUMENTS``; ``detached`` lets it outlive the terminal.

        Each is a process group of its own, so that Ctrl-C reaches it once, from its starter.
        """
        popen = _spawn(arguments, environment, log, detached)
        process = WorkerProcess(arguments, environment, log, detached, popen)
        self.processes.append(process)
        return process

    def restart_killed(self) -> list[int]:
        """Start those anew that a signal killed (for want of memory, say), unless that happens
        again and again; return the process ids of the dead."""
        killed = [p for p in self.processes if p.was_killed and p.restarts < MOST_RESTARTS]
        dead = [process.popen.pid for process in killed]
        for process in killed:
            process.popen = _spawn(
                process.arguments, process.environment, process.log, process.detached
            )
            process.restarts += 1
        return dead

    @property
    def running(self) -> int:
        return sum(process.popen.poll() is None for process in self.processes)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.send_signal(number)

    def drain(self, seconds: float | None) -> None:
        """Ask all to put their trials back and end; kill those that take longer than ``seconds``,
        or all when the user is impatient (a second Ctrl-C)."""
        self.signal(signal.SIGTERM)
        try:
            if self.wait(seconds):
                return
        except KeyboardInterrupt:
            pass
        self.signal(signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for all to end, at most ``seconds``; return whether they did."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for process in self.processes:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                process.popen.wait(left)
            except subprocess.TimeoutExpired:
                return False
        return True

    def failure(self) -> str | None:
        """The last line of the log of a worker that ended with an error, if one did."""
        for process in self.processes:
            if process.ended_badly:
                text = process.log.read_text(errors="replace") if process.log else ""
                lines = text.strip().splitlines()
                return lines[-1] if lines else f"it ended with code {process.popen.returncode}"
        return None


def _spawn(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path | None, detached: bool
) -> subprocess.Popen[bytes]:
    with _opened(log) as output:
        return subprocess.Popen(
            [sys.executable, "-m", "kdecay_search", "worker", *arguments],
            env={**os.environ, **MALLOC_SETTINGS, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=detached,
            process_group=None if detached else 0,
        )


@contextlib.contextmanager
def _opened(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        yield output
