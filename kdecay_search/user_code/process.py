"""A program that runs beside the worker, of which nothing is left when it has ended.

A supervisor process (:mod:`kdecay_search.user_code.supervisor`) stands between the worker and the
program. Should the worker be killed, the supervisor kills the program and every process that it has
started. A thread of the worker reads what the program writes, so that the program never blocks.
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
from typing import IO, Protocol, Self

from kdecay_search.user_code.output import LineSplitter, ReportLines, Tail

logger = logging.getLogger(__name__)

ROOT = str(Path(__file__).parents[2])
"""The folder that contains the package ``kdecay_search``."""
SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))
MARK = "KDECAY_PROGRAM"
"""Environment variable that marks a program and, by inheritance, all processes that it starts."""
CHUNK_BYTES = 1 << 16
KILL_SECONDS = 30.0
"""How long a killed process may take to disappear; one that hangs in a driver never does."""


@dataclass(frozen=True)
class ProgramExit:
    """How a program ended; all processes that it started are gone as well."""

    status: int
    """Exit status; negative if a signal ended the program."""
    reason: str = ""
    """Why the program could not be started; empty if it was."""

    def __str__(self) -> str:
        if self.status >= 0:
            return f"ended with exit status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            name = f"signal {-self.status}"
        hint = "; perhaps the machine's memory was full" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"


class Supervisor(Protocol):
    """The process that supervises a program."""

    pid: int

    def wait(self) -> object:
        """Wait until the process is gone."""
        ...


class Program:
    """A running program; a context manager that kills whatever is left of it on exit.

    Args:
        command: The program and its arguments.
        environment: The environment variables of the program.
        report_lines: Which lines :meth:`next_line` returns.
        channel: The worker's end of a socket over which the program reports; without one, it
            reports on its standard output.
        program_end: The other end of ``channel``, which the program inherits.
    """

    stdout: Tail
    """The end of the program's standard output, without report lines."""
    stderr: Tail
    """The end of the program's standard error."""
    exit: ProgramExit | None
    """How the program ended, once :meth:`next_line` has come to its end; None before that."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        report_lines: ReportLines,
        channel: socket.socket | None = None,
        program_end: socket.socket | None = None,
    ) -> None:
        self.stdout, self.stderr = Tail(), Tail()
        self.exit = None
        self._command, self._environment = command, environment
        self._inbox: queue.SimpleQueue[bytes | ProgramExit] = queue.SimpleQueue()
        self._mark = uuid.uuid4().hex
        self._exit_line = bytearray()
        self._control, control = socket.socketpair()
        (read_output, stdout), (read_log, stderr) = os.pipe(), os.pipe()
        output, log = os.fdopen(read_output, "rb", 0), os.fdopen(read_log, "rb", 0)
        passed = [control] if program_end is None else [control, program_end]
        try:
            self._supervisor = self._start([end.fileno() for end in passed], stdout, stderr)
        except BaseException:
            for source in (self._control, output, log, channel):
                if source is not None:
                    source.close()
            raise
        finally:
            os.close(stdout)
            os.close(stderr)
            for end in passed:
                end.close()
        self._feeds: dict[IO[bytes] | socket.socket, Callable[[bytes], None]] = {
            output: self.stdout.feed,
            log: self.stderr.feed,
            self._control: self._exit_line.extend,
        }
        tails: dict[IO[bytes] | socket.socket, Tail]
        tails = {channel: Tail()} if channel else {output: self.stdout}
        if report_lines.is_free_text:
            tails[log] = self.stderr
        self._splitters = {
            source: LineSplitter(report_lines, self._inbox.put, tail)
            for source, tail in tails.items()
        }
        self._feeds |= {source: lines.feed for source, lines in self._splitters.items()}
        self._thread = threading.Thread(target=self._read_all, name="program", daemon=True)
        self._thread.start()

    def _start(self, passed: Sequence[int], stdout: int, stderr: int) -> Supervisor:
        """Start the supervisor, and by it the program.

        Args:
            passed: File descriptors: of the socket that controls the supervisor and, if there is
                one, of that over which the program reports.
            stdout: File descriptor of the program's standard output.
            stderr: File descriptor of its standard error.
        """
        return subprocess.Popen(
            [sys.executable, "-I", "-S", SUPERVISOR, str(passed[0]), "--", *self._command],
            env={**self._environment, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=passed,
            start_new_session=True,
        )

    def next_line(self, seconds: float) -> bytes | None:
        """Wait up to ``seconds`` for the next report line.

        Returns:
            The line; None if none came in time or if the program has ended, which sets ``exit``.
        """
        if self.exit is not None:
            return None
        try:
            item = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(item, ProgramExit):
            self.exit = item
            return None
        return item

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program; SIGKILL goes to all processes that it has started, too."""
        with contextlib.suppress(OSError):
            self._control.send(bytes([number]))

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the end, dropping report lines; return whether it came."""
        until = time.monotonic() + seconds
        while self.exit is None and (left := until - time.monotonic()) > 0:
            self.next_line(left)
        return self.exit is not None

    def stop(self, number: signal.Signals, seconds: float) -> None:
        """Send a signal, wait up to ``seconds``, and kill what is left by then."""
        self.send_signal(number)
        if not self.wait(seconds):
            self.send_signal(signal.SIGKILL)
            if not self.wait(KILL_SECONDS):
                logger.warning("process %d could not be killed", self._supervisor.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.exit is None:
            self.stop(signal.SIGKILL, KILL_SECONDS)
        self._control.close()  # a supervisor that is still alive keeps killing
        if self.exit is not None:
            for source in self._feeds:
                source.close()

    def _read_all(self) -> None:
        """Read all sources until every process that could write to them is gone."""
        with selectors.DefaultSelector() as selector:
            for source in self._feeds:
                selector.register(source, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._read_once(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                        if key.fileobj in self._splitters:
                            self._splitters[key.fileobj].finish()
        self._supervisor.wait()
        status, _, reason = self._exit_line.decode(errors="replace").strip().partition(" ")
        self._inbox.put(ProgramExit(int(status or -signal.SIGKILL), reason))

    def _read_once(self, source: IO[bytes] | socket.socket) -> bool:
        """Read one chunk; return whether there may be more."""
        try:
            chunk = os.read(source.fileno(), CHUNK_BYTES)
        except ConnectionError:
            chunk = b""
        if chunk:
            self._feeds[source](chunk)
        elif source is self._control and not self._exit_line:
            kill_marked(self._mark)  # the supervisor itself was killed
        return bool(chunk)


def kill_marked(mark: str) -> None:
    """Kill every process that has inherited ``mark``: those whose supervisor was killed."""
    while found := _marked_processes(mark):
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _marked_processes(mark: str) -> list[int]:
    """Return the ids of the processes that have inherited ``mark``; none where /proc is missing."""
    variable, found = f"{MARK}={mark}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found
