"""The process in which a Python function of the user runs.

:mod:`kdecay_search.user_code.python` starts it.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple

from kdecay_search.errors import KEPT_BYTES, KDecayError
from kdecay_search.study import file as study_file
from kdecay_search.study.candidate import read_candidate
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost, Paused, Released
from kdecay_search.training.decoder_processes import keep_sockets_short
from kdecay_search.user_code.board import Board
from kdecay_search.user_code.channel import Channel, Message
from kdecay_search.user_code.entry import InvalidEntry, import_function
from kdecay_search.user_code.failures import describe, user_traceback
from kdecay_search.user_code.function import follow, run_function
from kdecay_search.user_code.reports import WrongReport
from kdecay_search.user_code.run import Diverged

INTERRUPTIONS: dict[str, type[Interruption]] = {
    kind.__name__: kind for kind in (Paused, Released, Lost)
}


def main() -> None:
    """Receive a job over the channel, do it, and send back the outcome."""
    descriptor = int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    search_working_folder(sys.argv[1])
    do_job(Channel(socket.socket(fileno=descriptor)))


def search_working_folder(root: str) -> None:
    """Let modules be imported from the working folder, and from the folder ``root`` at last."""
    sys.path.remove(root)
    sys.path[:0] = [os.getcwd()]
    sys.path.append(root)


def do_job(channel: Channel, is_forked: bool = False) -> None:
    """Receive a job, do it, and send back the outcome.

    Args:
        channel: The connection to the worker, or to the launcher of several processes.
        is_forked: Whether the libraries were imported before this process came to be. If the
            user's module sets environment variables, they would come too late for the libraries:
            the job is given back.
    """
    job = channel.receive()
    run = RankRun(channel, job) if "rank" in job else RemoteRun(channel, job)
    forward_log(channel, logging.WARNING if run.rank else logging.INFO)
    with suppress(KDecayError, OSError):  # user code may need no sockets
        keep_sockets_short()
    task = run.spec.task
    assert isinstance(task, PythonTask)
    sys.argv = [task.entry]
    outcome = _outcome(task.entry, run, is_forked)
    sys.stdout.flush()
    channel.send(outcome)


def _outcome(entry: str, run: RemoteRun, is_forked: bool) -> Message:
    """Call the user's function; return the message that says what came of it."""
    before = dict(os.environ)
    try:
        function = import_function(entry)
        if is_forked and (changed := before.items() ^ os.environ.items()):
            names = ", ".join(sorted({name for name, _ in changed}))
            return {"unsuitable": f"importing {entry.partition(':')[0]} sets {names}"}
        if not run.rank:
            return {"returned": run_function(function, run)}
        follow(function, run)
        return {"returned": None}
    except InvalidEntry as error:
        return {"invalid_entry": str(error)}
    except Interruption as error:
        return {"interrupted": type(error).__name__}
    except BaseException as error:  # SystemExit, too
        return failure(error)


def failure(error: BaseException) -> Message:
    """The message that says that the training raised ``error``."""
    return {
        "failed": describe(error),
        "traceback": user_traceback(error)[-KEPT_BYTES:],
        "is_wrong": isinstance(error, WrongReport),
    }


class RemoteRun:
    """A :class:`kdecay_search.tasks.protocol.Run` whose worker is at the other end of a channel."""

    rank, world_size = 0, 1

    def __init__(self, channel: Channel, job: Message) -> None:
        self._channel = channel
        self._interruption: type[Interruption] | None = None
        self.spec = study_file.from_json(job["spec"])
        self.ks: tuple[float, ...] = tuple(job["ks"])
        self.lr_max: float | None = job["lr_max"]
        self.point = read_candidate(job["point"])
        self.comparator: str | None = job["comparator"]
        self.seed: int = job["seed"]
        self.device: str = job["device"]
        self.checkpoint: Checkpoint | None = pickle.loads(bytes.fromhex(job["checkpoint"]))

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self._request({"restore": [astuple(epoch) for epoch in epochs]})

    def report(self, epoch: Epoch) -> None:
        self._request({"report": astuple(epoch)})

    def poll(self) -> None:
        if self._interruption is None and self._channel.is_ready:
            self._receive_answer()
        self._raise_if_interrupted()

    def _request(self, message: Message) -> None:
        self._raise_if_interrupted()
        try:
            self._channel.send(message)
        except ConnectionError:
            self._interruption = Lost
        else:
            self._receive_answer()
        self._raise_if_interrupted()

    def _receive_answer(self) -> None:
        """Wait for the worker's answer: to continue, or that the run is interrupted."""
        try:
            message = self._channel.receive()
        except ConnectionError:
            self._interruption = Lost
            return
        if "interruption" in message:
            self._interruption = INTERRUPTIONS[message["interruption"]]

    def _raise_if_interrupted(self) -> None:
        if self._interruption is not None:
            raise self._interruption


class RankRun(RemoteRun):
    """The run as one of several processes sees it, which a launcher (:mod:`.ranks`) has started.

    Rank 0 alone reports. Interruptions come at polls only, and at the same one on every rank.
    """

    def __init__(self, channel: Channel, job: Message) -> None:
        super().__init__(channel, job)
        self.rank: int = job["rank"]
        self.world_size: int = job["world_size"]
        self.is_lost = False
        """Whether another worker may hold the run, so that nothing may be saved any more."""
        self._board = Board(job["board"], self.world_size)
        os.set_inheritable(job["board"], False)
        self._polls = 0

    def restore(self, epochs: Sequence[Epoch]) -> None:
        if not self.rank:
            super().restore(epochs)

    def report(self, epoch: Epoch) -> None:
        if self.rank:
            return
        super().report(epoch)
        if epoch.diverged:
            self._board.end(Diverged.__name__)

    def poll(self) -> None:
        self._raise_if_interrupted()
        self._polls += 1
        name = self._board.announce(self.rank, self._polls)
        if name is not None:
            self._interruption = {**INTERRUPTIONS, Diverged.__name__: Diverged}[name]
            self._raise_if_interrupted()

    def _receive_answer(self) -> None:
        try:
            ending = self._channel.receive()["ending"]
        except ConnectionError:
            ending = Lost.__name__
        self.is_lost = self.is_lost or ending == Lost.__name__


def forward_log(channel: Channel, level: int) -> None:
    """Send what our own modules log in this process to the worker's log."""

    class ChannelHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                channel.send({"log": record.getMessage(), "level": record.levelno})
            except ConnectionError:
                return

    logger = logging.getLogger("kdecay_search")
    logger.addHandler(ChannelHandler())
    logger.setLevel(level)
    logger.propagate = False
