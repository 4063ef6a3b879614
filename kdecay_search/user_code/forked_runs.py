"""Forks the runs of a worker from a process that has imported their libraries, where that is safe.

A run that starts Python anew imports its libraries anew, which takes seconds for torch. A forked
run (:mod:`.fork_server`) finds them imported; else it is as a new process.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.user_code.channel import Channel, Message
from kdecay_search.user_code.monitoring import POLL_SECONDS
from kdecay_search.user_code.output import ReportLines
from kdecay_search.user_code.process import ROOT, Program, Supervisor

logger = logging.getLogger(__name__)

SERVER = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kdecay_search.user_code import fork_server; fork_server.main()"
)
"""What the server executes; see :data:`.python.CHILD`."""


IS_LINUX = sys.platform == "linux"
T = TypeVar("T")


class Unsuitable(Exception):
    """A run is not to be forked, for this reason; its function has not been called."""


class ServerDied(Exception):
    """The server is gone, so that the run has not begun."""


class ForkServer:
    """A process that forks runs of one function, each with the same environment variables.

    Args:
        entry: The function, as in ``task.entry``.
        environment: The environment variables of a run.
    """

    def __init__(self, entry: str, environment: Mapping[str, str]) -> None:
        self._connection, theirs = socket.socketpair()
        self._channel = Channel(self._connection)
        command = [sys.executable, "-P", "-c", SERVER, ROOT, str(theirs.fileno()), entry]
        prints_no_reports = ReportLines(lambda line: False)
        self._program = Program(command, environment, prints_no_reports, program_end=theirs)
        self._is_ready = False

    def wait(self, poll: Callable[[], None], seconds: float) -> None:
        """Wait until the libraries are imported.

        Args:
            poll: Called meanwhile; may raise.
            seconds: How long to wait.

        Raises:
            Unsuitable: What they do stands in the way of forking, or they take longer.
        """
        until = time.monotonic() + seconds
        while not self._is_ready:
            poll()
            if select.select([self._channel], [], [], POLL_SECONDS)[0]:
                try:
                    message = self._receive()
                except ServerDied:
                    raise Unsuitable("importing its libraries ends the process") from None
                if "unsuitable" in message:
                    raise Unsuitable(message["unsuitable"])
                self._is_ready = True
            elif time.monotonic() > until:
                raise Unsuitable(f"importing its libraries takes more than {seconds:g} s")

    def fork(self, mark: str, descriptors: Sequence[int]) -> Supervisor:
        """Fork a supervisor with a run.

        Args:
            mark: What marks the processes of the run.
            descriptors: Of its control, its channel, its standard output and its standard error.

        Raises:
            ServerDied: There is no run.
        """
        try:
            socket.send_fds(self._connection, [mark.encode()], descriptors)
        except OSError as error:
            raise ServerDied from error
        return _Forked(self._receive()["pid"])

    def _receive(self) -> Message:
        try:
            return self._channel.receive()
        except ConnectionError as error:
            raise ServerDied from error

    def end(self) -> None:
        """Kill the server, and whatever it has started."""
        self._channel.close()
        with self._program:
            pass


@dataclass
class _Forked:
    """A supervisor that a server has forked; the server waits for it."""

    pid: int

    def wait(self) -> object:
        return None


class ForkedProgram(Program):
    """A run that a server has forked.

    Args:
        server: Forks it.
        channel: The worker's end of the socket over which the run reports.
        program_end: The other end.
    """

    def __init__(
        self, server: ForkServer, channel: socket.socket, program_end: socket.socket
    ) -> None:
        self._server = server
        super().__init__((), {}, ReportLines(), channel, program_end)

    def _start(self, passed: Sequence[int], stdout: int, stderr: int) -> Supervisor:
        return self._server.fork(self._mark, [*passed, stdout, stderr])


Key = tuple[str, str, frozenset[tuple[str, str]]]
"""What a server is started for: the function, the working folder and the environment variables."""


class ForkedRuns:
    """Trains the runs of one process by forks, one at a time; keeps the server of the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: ForkServer | None = None
        self._key: Key | None = None
        self._unsuitable: set[Key] = set()

    def train(
        self,
        task: PythonTask,
        environment: Mapping[str, str],
        poll: Callable[[], None],
        serve: Callable[[ForkServer], T],
    ) -> T:
        """Let a server fork a run, and serve the run to its end.

        Args:
            task: What the run trains.
            environment: Its environment variables.
            poll: Called while the libraries are imported; may raise.
            serve: Serves the run to its end.

        Returns:
            What ``serve`` returns.

        Raises:
            Unsuitable: The run is to be started anew. Why is logged, once for each function.
            Exception: What ``serve`` raises.
        """
        key = (task.entry, os.getcwd(), frozenset(environment.items()))
        if not (IS_LINUX and task.fork) or key in self._unsuitable:
            raise Unsuitable
        if not self._lock.acquire(blocking=False):
            raise Unsuitable
        try:
            if self._server is None or key != self._key:
                self._end()
                self._key, self._server = key, ForkServer(task.entry, environment)
            self._server.wait(poll, task.epoch_timeout)
            return serve(self._server)
        except Unsuitable as error:
            text = "every run of %s starts Python anew, since %s"
            logger.info(text, task.entry, error)
            self._unsuitable.add(key)
            self._end()
            raise
        except ServerDied as error:
            logger.warning("the process that forks the runs of %s has died", task.entry)
            self._end()
            raise Unsuitable from error
        finally:
            self._lock.release()

    def end(self) -> None:
        """End the server, unless a run is trained."""
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None


FORKED_RUNS = ForkedRuns()
"""Those of this process."""
