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


@dataclass
class Pool:
    """Some ``kdecay worker`` processes and their log files (None: this process's stderr)."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[Path | None] = field(default_factory=list)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        detached: bool = False,
    ) -> None:
        """Start ``kdecay worker ARGUMENTS``; ``detached`` lets it outlive the terminal.

        Each is a process group of its own, so that Ctrl-C reaches it once, from its starter.
        """
        command = [sys.executable, "-m", "kdecay_search", "worker", *arguments]
        with _opened(log) as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **MALLOC_SETTINGS, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=detached,
                process_group=None if detached else 0,
            )
        self.processes.append(process)
        self.logs.append(log)

    @property
    def running(self) -> int:
        return sum(process.poll() is None for process in self.processes)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

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
                process.wait(left)
            except subprocess.TimeoutExpired:
                return False
        return True

    def failure(self) -> str | None:
        """The last line of the log of a worker that ended with an error, if one did."""
        for process, log in zip(self.processes, self.logs, strict=True):
            if process.poll() not in (None, 0, -signal.SIGTERM, -signal.SIGINT):
                lines = log.read_text(errors="replace").strip().splitlines() if log else []
                return lines[-1] if lines else f"a worker ended with code {process.returncode}"
        return None


@contextlib.contextmanager
def _opened(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        yield output
