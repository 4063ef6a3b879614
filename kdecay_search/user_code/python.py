"""Runs a function of the user's in a process of its own: ``kind = "python"``."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import signal
import socket
import sys
from pathlib import Path

import kdecay_search
from kdecay_search.errors import TaskError
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.protocol import Epoch, Interruption, Run
from kdecay_search.user_code.channel import Message, encoded
from kdecay_search.user_code.environment import of_program
from kdecay_search.user_code.failures import without_our_frames
from kdecay_search.user_code.monitoring import Hung, RunFailed, hang_text, last_words, serve
from kdecay_search.user_code.output import Wanted
from kdecay_search.user_code.process import Program

logger = logging.getLogger(__name__)

ROOT = str(Path(kdecay_search.__file__).parent.parent)
CHILD = "import sys; sys.path.append(sys.argv[1]); from kdecay_search.user_code import child; child.main()"
"""-P and this: until our own modules are imported, none of the user's can take their place."""
ENDING_SECONDS = 10.0
"""For what goes on after the function has returned: threads, and what is done at an exit."""
COOPERATION_SHARE = 0.8
"""Of the time to leave, for the function to look up by itself; then comes SIGTERM."""


def train(run: Run) -> float | None:
    """Let ``task.entry`` train ``run``; the number that it returned, if it did.

    Raises :class:`RunFailed`; :class:`TaskError` where no run can succeed on this worker.
    """
    task = run.spec.task
    if not isinstance(task, PythonTask):
        raise TypeError(f"a task of kind 'python' was expected, not {task.kind!r}")
    device, environment = of_program(run.device)
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-c", CHILD, ROOT, str(theirs.fileno())]
    with Program(command, environment, Wanted(), ours, theirs) as program:
        return _Conversation(run, task, program, ours).result(device)


class _Conversation:
    """What the worker and the process tell each other."""

    def __init__(
        self, run: Run, task: PythonTask, program: Program, channel: socket.socket
    ) -> None:
        self._run, self._task, self._program, self._channel = run, task, program, channel
        self._epochs = 0
        self._has_diverged = False
        self._outcome: Message | None = None

    def result(self, device: str) -> float | None:
        self._tell(_job(self._run, device))
        try:
            serve(self._run, self._task, self._program, self._take, self._leave)
        except Hung:
            if self._outcome is None:
                text = hang_text(self._task, self._epochs)
                said = without_our_frames(last_words(self._program))
                raise RunFailed(text, said) from None
        return self._settled()

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(ConnectionError):  # its end is told by the supervisor
            self._channel.sendall(encoded(message))

    def _take(self, line: bytes) -> bool:
        message: Message = json.loads(line)
        if "log" in message:
            logger.log(message["level"], "%s", message["log"])
            return False
        if "restore" in message:
            self._run.restore([Epoch(*values) for values in message["restore"]])
            self._epochs = len(message["restore"])
        elif "report" in message:
            self._report(Epoch(*message["report"]))
        else:
            self._outcome = message
            if not self._program.wait(ENDING_SECONDS):
                self._program.stop(signal.SIGTERM, 0)
            return True
        self._tell({"go": True})
        return True

    def _report(self, epoch: Epoch) -> None:
        self._epochs, self._has_diverged = epoch.number, epoch.diverged
        self._run.report(epoch)

    def _leave(self, seconds: float, wish: Interruption) -> None:
        self._tell({"end": type(wish).__name__})
        if not self._program.wait(COOPERATION_SHARE * seconds):
            self._program.stop(signal.SIGTERM, (1 - COOPERATION_SHARE) * seconds)

    def _settled(self) -> float | None:
        outcome = self._outcome
        if outcome is None:
            text = f"{self._task.entry} {self._program.ended} and returned nothing"
            raise RunFailed(text, last_words(self._program))
        if "unfit" in outcome:
            raise TaskError(outcome["unfit"])
        if "failed" in outcome:
            raise RunFailed(outcome["failed"], outcome["traceback"])
        error: float | None = outcome["done"]
        if error is None and not self._has_diverged and self._epochs < self._task.epochs:
            raise RunFailed(
                f"{self._task.entry} returned after {self._epochs} of task.epochs = "
                f"{self._task.epochs}; report every epoch, or set as many as there are"
            )
        return error


def _job(run: Run, device: str) -> Message:
    return {
        "spec": run.spec.to_json(),
        "ks": run.ks,
        "lr_max": run.lr_max,
        "comparator": run.comparator,
        "seed": run.seed,
        "device": device,
        "checkpoint": pickle.dumps(run.checkpoint).hex(),
    }
