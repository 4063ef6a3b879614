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
class Member:
    """A worker process, and what it was started with."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    """None: this process's stderr."""
    detached: bool
    process: subprocess.Popen[bytes]
    restarts: int = 0

    @property
    def ended_badly(self) -> bool:
        return self.process.poll() not in (None, 0, -signal.SIGTERM, -signal.SIGINT)

    @property
    def was_killed(self) -> bool:
        code = self.process.poll()
        return self.ended_badly and code is not None and code < 0


@dataclass
class Pool:
    """Some ``kdecay worker`` processes and their log files."""

    members: list[Member] = field(default_factory=list)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        detached: bool = False,
    ) -> Member:
        """Start ``kdecay worker ARGUMENTS``; ``detached`` lets it outlive the terminal.

        Each is a process group of its own, so that Ctrl-C reaches it once, from its starter.
        """
        process = _spawn(arguments, environment, log, detached)
        member = Member(arguments, environment, log, detached, process)
        self.members.append(member)
        return member

    def restart_killed(self) -> list[int]:
        """Start those anew that a signal killed (for want of memory, say), unless that happens
        again and again; return the process ids of the dead."""
        killed = [m for m in self.members if m.was_killed and m.restarts < MOST_RESTARTS]
        dead = [member.process.pid for member in killed]
        for member in killed:
            member.process = _spawn(
                member.arguments, member.environment, member.log, member.detached
            )
            member.restarts += 1
        return dead

    @property
    def running(self) -> int:
        return sum(member.process.poll() is None for member in self.members)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        for member in self.members:
            if member.process.poll() is None:
                member.process.send_signal(number)

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
        for member in self.members:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                member.process.wait(left)
            except subprocess.TimeoutExpired:
                return False
        return True

    def failure(self) -> str | None:
        """The last line of the log of a worker that ended with an error, if one did."""
        for member in self.members:
            if member.ended_badly:
                text = member.log.read_text(errors="replace") if member.log else ""
                lines = text.strip().splitlines()
                return lines[-1] if lines else f"it ended with code {member.process.returncode}"
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
