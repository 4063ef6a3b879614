"""The process in which own Python code runs; :mod:`kdecay_search.user_code.python` starts it."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Sequence
from dataclasses import astuple

from kdecay_search.errors import KEPT_BYTES
from kdecay_search.study import file as study_file
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost, Pruned, Released
from kdecay_search.user_code.channel import Channel, Message
from kdecay_search.user_code.entry import Unfit, imported
from kdecay_search.user_code.failures import described, shown_traceback
from kdecay_search.user_code.run import run_function

ENDS: dict[str, type[Interruption]] = {end.__name__: end for end in (Pruned, Released, Lost)}


def main() -> None:
    """Take the job from the channel, do it, and say what came of it."""
    descriptor = int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    run = DistantRun(channel, channel.receive())
    _log_to(channel)
    sys.path.remove(sys.argv[1])
    sys.path[:0] = [os.getcwd()]
    sys.path.append(sys.argv[1])
    task = run.spec.task
    assert isinstance(task, PythonTask)
    sys.argv = [task.entry]
    outcome = _outcome(task.entry, run)
    sys.stdout.flush()
    channel.send(outcome)


def _outcome(entry: str, run: DistantRun) -> Message:
    try:
        return {"done": run_function(imported(entry), run)}
    except Unfit as error:
        return {"unfit": str(error)}
    except Interruption as error:
        return {"interrupted": type(error).__name__}
    except BaseException as error:  # SystemExit, too
        return {"failed": described(error), "traceback": shown_traceback(error)[-KEPT_BYTES:]}


class DistantRun:
    """A :class:`kdecay_search.tasks.protocol.Run` whose worker is at the other end of a channel."""

    def __init__(self, channel: Channel, job: Message) -> None:
        self._channel = channel
        self._end: type[Interruption] | None = None
        self.spec = study_file.from_json(job["spec"])
        self.ks: tuple[float, ...] = tuple(job["ks"])
        self.lr_max: float | None = job["lr_max"]
        self.comparator: str | None = job["comparator"]
        self.seed: int = job["seed"]
        self.device: str = job["device"]
        self.checkpoint: Checkpoint | None = pickle.loads(bytes.fromhex(job["checkpoint"]))

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self._ask({"restore": [astuple(epoch) for epoch in epochs]})

    def report(self, epoch: Epoch) -> None:
        self._ask({"report": astuple(epoch)})

    def poll(self) -> None:
        if self._end is None and self._channel.is_ready:
            self._hear()
        self._raise_end()

    def _ask(self, message: Message) -> None:
        self._raise_end()
        try:
            self._channel.send(message)
        except ConnectionError:
            self._end = Lost
        else:
            self._hear()
        self._raise_end()

    def _hear(self) -> None:
        """Wait for the worker's word: to go on, or not."""
        try:
            message = self._channel.receive()
        except ConnectionError:
            self._end = Lost
            return
        if "end" in message:
            self._end = ENDS[message["end"]]

    def _raise_end(self) -> None:
        if self._end is not None:
            raise self._end


def _log_to(channel: Channel) -> None:
    """What our own modules log here, the worker logs."""

    class ToWorker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                channel.send({"log": record.getMessage(), "level": record.levelno})
            except ConnectionError:
                return

    logger = logging.getLogger("kdecay_search")
    logger.addHandler(ToWorker())
    logger.setLevel(logging.INFO)
    logger.propagate = False
