"""A program that runs beside the worker: its output, its end, and that nothing of it is left.

Between the worker and the program stands a supervisor (:mod:`kdecay_search.user_code.supervisor`), which
outlives a worker that is killed for just as long as it takes to kill the program and all that this
has started. A thread of the worker's takes what the program writes, so that it never waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from kdecay_search.user_code.output import Lines, Tail, Wanted

logger = logging.getLogger(__name__)

SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))
MARK = "KDECAY_FAMILY"
"""In the environment of a program, and so of all that it starts."""
CHUNK_BYTES = 1 << 16
KILL_SECONDS = 30.0
"""How long a killed process may take to be gone; one that hangs in a driver never is."""


@dataclass(frozen=True)
class Ended:
    """The program and its family are gone."""

    status: int
    """Exit status; negative: the signal that ended it."""
    reason: str = ""
    """Why it could not be started, if so."""

    def __str__(self) -> str:
        if self.status >= 0:
            return f"ended with exit status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            name = f"signal {-self.status}"
        hint = "; perhaps the machine's memory was full" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"


class Program:
    """A running program; a context manager, which leaves nothing of it behind.

    ``wants``: which lines of what it reports are handed on by :meth:`next`; it reports over
    ``channel``, a socket whose other end, ``theirs``, the program inherits, or without one on its
    standard output. All else that it writes is kept in ``stdout`` and ``stderr``, at its end.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        wants: Wanted,
        channel: socket.socket | None = None,
        theirs: socket.socket | None = None,
    ) -> None:
        self.stdout, self.stderr = Tail(), Tail()
        self.ended: Ended | None = None
        self._inbox: queue.SimpleQueue[bytes | Ended] = queue.SimpleQueue()
        self._mark = uuid.uuid4().hex
        self._last_word = b""
        self._leash, leash = socket.socketpair()
        passed = [end.fileno() for end in (leash, theirs) if end is not None]
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", SUPERVISOR, str(leash.fileno()), "--", *command],
            env={**environment, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=passed,
            start_new_session=True,
        )
        for end in (leash, theirs):
            if end is not None:
                end.close()
        lines = Lines(wants, self._inbox.put, Tail() if channel else self.stdout)
        self._feeds: dict[IO[bytes] | socket.socket, Callable[[bytes], None]] = {
            _pipe(self._keeper.stdout): self.stdout.feed if channel else lines.feed,
            _pipe(self._keeper.stderr): self.stderr.feed,
            self._leash: self._hear_supervisor,
        }
        if channel is not None:
            self._feeds[channel] = lines.feed
        self._thread = threading.Thread(target=self._attend, name="program", daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> bytes | None:
        """The next line that is wanted; None if there is none for so long, or none any more:
        ``ended`` is set then."""
        if self.ended is not None:
            return None
        try:
            item = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(item, Ended):
            self.ended = item
            return None
        return item

    def send(self, number: signal.Signals) -> None:
        """A signal to the program; SIGKILL to all of its family."""
        with contextlib.suppress(OSError):
            self._leash.send(bytes([number]))

    def wait(self, seconds: float) -> bool:
        """Wait for the end, whatever it still reports; whether it came."""
        until = time.monotonic() + seconds
        while self.ended is None and (left := until - time.monotonic()) > 0:
            self.next(left)
        return self.ended is not None

    def stop(self, number: signal.Signals, seconds: float) -> None:
        """Send a signal, and kill what is left after ``seconds``."""
        self.send(number)
        if not self.wait(seconds):
            self.send(signal.SIGKILL)
            if not self.wait(KILL_SECONDS):
                logger.warning("process %d could not be killed", self._keeper.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.ended is None:
            self.stop(signal.SIGKILL, KILL_SECONDS)
        self._leash.close()  # a supervisor that is still there goes on killing
        if self.ended is not None:
            for source in self._feeds:
                source.close()

    def _attend(self) -> None:
        """Take what comes, until everybody who could write is gone."""
        with selectors.DefaultSelector() as selector:
            for source in self._feeds:
                selector.register(source, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._take(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
        self._keeper.wait()
        status, _, reason = self._last_word.decode(errors="replace").strip().partition(" ")
        self._inbox.put(Ended(int(status or -signal.SIGKILL), reason))

    def _take(self, source: IO[bytes] | socket.socket) -> bool:
        """Read once; whether there may be more."""
        try:
            chunk = os.read(source.fileno(), CHUNK_BYTES)
        except ConnectionError:
            chunk = b""
        if chunk:
            self._feeds[source](chunk)
        elif source is self._leash and not self._last_word:
            kill_marked(self._mark)  # the supervisor was killed
        return bool(chunk)

    def _hear_supervisor(self, chunk: bytes) -> None:
        self._last_word += chunk


def kill_marked(mark: str) -> None:
    """Kill all processes that have inherited ``mark``: of a program whose supervisor was killed."""
    wanted = f"{MARK}={mark}".encode()
    while found := [pid for pid in _processes() if wanted in _environment(pid)]:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return []


def _environment(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # it was asked for
    return stream
