"""Runs a Python function of the user in a process of its own: ``kind = "python"``.

The process is forked from one that has imported the function's libraries (:mod:`.forked_runs`), or
else is started anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from kdecay_search.errors import TaskError
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.protocol import Epoch, Interruption, Run
from kdecay_search.user_code.channel import Message, encode
from kdecay_search.user_code.environment import device_and_environment, own_devices
from kdecay_search.user_code.failures import user_frames
from kdecay_search.user_code.forked_runs import FORKED_RUNS, ForkedProgram, Unsuitable
from kdecay_search.user_code.monitoring import (
    Hung,
    RunFailed,
    ServedTask,
    hang_text,
    last_output,
    serve,
)
from kdecay_search.user_code.output import ReportLines
from kdecay_search.user_code.process import ROOT, Program
from kdecay_search.user_code.reports import too_few_reports

logger = logging.getLogger(__name__)

CHILD = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kdecay_search.user_code import child; child.main()"
)
"""What the child process executes. With Python's option ``-P``, no module in the user's folder can
take the place of one that our own modules import."""
EXIT_SECONDS = 10.0
"""Time that the process gets to exit after the function has returned: for threads and atexit."""
COOPERATION_SHARE = 0.8
"""Share of the grace period in which the function may end by itself, before SIGTERM is sent."""


class FunctionTask(ServedTask, Protocol):
    """What is asked of the task whose run is trained by a function."""

    @property
    def entry(self) -> str:
        """The function's name."""
        ...


def train(run: Run) -> float | None:
    """Let the function ``task.entry`` train ``run``.

    Returns:
        The final value of the metric that the function returned; None if it returned none.

    Raises:
        RunFailed: The function failed.
        TaskError: No run can succeed on this worker, because the function cannot be imported.
        Interruption: The run is interrupted.
    """
    task = run.spec.task
    if not isinstance(task, PythonTask):
        raise TypeError(f"a task of kind 'python' was expected, not {task.kind!r}")
    _, environment = device_and_environment(run.device)
    devices = own_devices(run.device)
    serve = partial(_serve, run, task, devices)
    if len(devices) == 1:
        with contextlib.suppress(Unsuitable):
            return FORKED_RUNS.train(
                task, environment, run.poll, lambda server: serve(partial(ForkedProgram, server))
            )
        return serve(partial(_started, environment, CHILD))
    return train_together(run, task, CHILD)


def train_together(run: Run, task: FunctionTask, child: str) -> float | None:
    """Let a process for each device of ``run`` train it together with the others.

    Args:
        run: The run.
        task: What to serve, and by what name to call it.
        child: What each of the processes executes.

    Returns:
        What the function returned on rank 0.

    Raises:
        RunFailed: One of the processes failed.
        TaskError: No run can succeed on this worker.
        Interruption: The run is interrupted.
    """
    _, environment = device_and_environment(run.device)
    launcher = (
        "import sys; sys.path.append(sys.argv[1]); "
        f"from kdecay_search.user_code import ranks; ranks.main({child!r})"
    )
    return _serve(run, task, own_devices(run.device), partial(_started, environment, launcher))


def _started(
    environment: Mapping[str, str], code: str, channel: socket.socket, program_end: socket.socket
) -> Program:
    """Start Python anew for a run."""
    command = [sys.executable, "-P", "-c", code, ROOT, str(program_end.fileno())]
    return Program(command, environment, ReportLines(), channel, program_end)


def _serve(
    run: Run,
    task: FunctionTask,
    devices: Sequence[str],
    start: Callable[[socket.socket, socket.socket], Program],
) -> float | None:
    """Start the process of a run, and serve it to its end; return what the function returned."""
    channel, program_end = socket.socketpair()
    with start(channel, program_end) as program:
        return _FunctionRun(run, task, program, channel).result(devices)


class _FunctionRun:
    """The worker's side of one run: a :class:`kdecay_search.user_code.monitoring.Handler`."""

    def __init__(
        self, run: Run, task: FunctionTask, program: Program, channel: socket.socket
    ) -> None:
        self._run, self._task, self._program, self._channel = run, task, program, channel
        self._reports = 0
        self._has_diverged = False
        self._outcome: Message | None = None

    def result(self, devices: Sequence[str]) -> float | None:
        """Serve the process to its end; return what the function returned."""
        self._send(_job(self._run, devices))
        try:
            serve(self._run, self._task, self._program, self)
        except Hung:
            if self._outcome is None:
                output = user_frames(last_output(self._program))
                raise RunFailed(hang_text(self._task, self._reports), output) from None
        return self._checked_outcome()

    def handle(self, line: bytes) -> bool:
        message: Message = json.loads(line)
        if "log" in message:
            logger.log(message["level"], "%s", message["log"])
            return False
        if "restore" in message:
            epochs = [Epoch(*values) for values in message["restore"]]
            self._run.restore(epochs)
            self._reports = len(epochs)
            self._has_diverged = any(epoch.diverged for epoch in epochs)
        elif "report" in message:
            epoch = Epoch(*message["report"])
            self._reports, self._has_diverged = epoch.number, epoch.diverged
            self._run.report(epoch)
        else:
            self._outcome = message
            if not self._program.wait(EXIT_SECONDS):
                self._program.stop(signal.SIGTERM, 0)
            return True
        self._send({"continue": True})
        return True

    def terminate(self, seconds: float, interruption: Interruption) -> None:
        self._send({"interruption": type(interruption).__name__})
        if not self._program.wait(COOPERATION_SHARE * seconds):
            self._program.stop(signal.SIGTERM, (1 - COOPERATION_SHARE) * seconds)

    def _send(self, message: Message) -> None:
        with contextlib.suppress(ConnectionError):  # the supervisor reports the process's end
            self._channel.sendall(encode(message))

    def _checked_outcome(self) -> float | None:
        """Return what the function returned; raise what went wrong."""
        outcome = self._outcome
        if outcome is None:
            text = f"{self._task.entry} {self._program.exit} and returned nothing"
            raise RunFailed(text, last_output(self._program))
        if "unsuitable" in outcome:
            raise Unsuitable(outcome["unsuitable"])
        if "invalid_entry" in outcome:
            raise TaskError(outcome["invalid_entry"])
        if "failed" in outcome:
            output = outcome["traceback"] or last_output(self._program)
            raise RunFailed(outcome["failed"], output, outcome["is_wrong"])
        value: float | None = outcome["returned"]
        length = self._task.length
        if value is None and not self._has_diverged and self._reports < length.reports:
            raise RunFailed(too_few_reports(self._task.entry, length, self._reports))
        return value


def _job(run: Run, devices: Sequence[str]) -> Message:
    """Return the message that tells the child process what to train, or several."""
    return {
        "spec": run.spec.to_json(),
        "ks": run.ks,
        "lr_max": run.lr_max,
        "point": run.point.stated() if run.point else None,
        "comparator": run.comparator,
        "seed": run.seed,
        "device": devices[0],
        "devices": devices,
        "checkpoint": pickle.dumps(run.checkpoint).hex(),
    }
