"""Runs any program that prints a line of JSON for every epoch: ``kind = "command"``."""

from __future__ import annotations

import json
import logging
import shlex
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdecay_search.errors import TaskError
from kdecay_search.schedules.export import schedule_csv
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.comparators import schedule_of
from kdecay_search.study.user_tasks import CHECKPOINT_DIR, SCHEDULE_CSV, CommandTask, filled
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Interruption, Run
from kdecay_search.user_code.environment import device_and_environment
from kdecay_search.user_code.monitoring import Hung, RunFailed, hang_text, last_output, serve
from kdecay_search.user_code.output import ReportLines
from kdecay_search.user_code.process import Program
from kdecay_search.user_code.reports import check_next_epoch, epoch_of

logger = logging.getLogger(__name__)

EPOCH, ERROR, AVERAGED = "epoch", "error", "averaged_error"
"""Keys of a report line. The first two are required; ``loss`` and ``lr`` are optional as well."""
MARK = b'"epoch"'
"""Bytes that every report line contains."""


class _Diverged(Exception):
    """The error is no longer a finite number: there is no point in training on."""


def train(run: Run) -> None:
    """Let the program ``task.command`` train ``run``.

    Raises:
        RunFailed: The program failed.
        TaskError: No run can succeed on this worker: the program cannot be started, or a folder
            cannot be written to.
        Interruption: The run is interrupted.
    """
    task = run.spec.task
    if not isinstance(task, CommandTask):
        raise TypeError(f"a task of kind 'command' was expected, not {task.kind!r}")
    device, environment = device_and_environment(run.device)
    with ExitStack() as stack:
        try:
            made = TemporaryDirectory(prefix="kdecay-run-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
            command = filled(task.command, _placeholder_values(run, task, device, folder))
        except OSError as error:
            raise TaskError(
                f"{error.filename or 'the folder for temporary files'}: {error.strerror}; "
                "this worker cannot prepare a run"
            ) from error
        logger.info("running %s", shlex.join(command))
        program = stack.enter_context(Program(command, environment, ReportLines(is_report, MARK)))
        _ProgramRun(run, task, program).serve()


def is_report(line: bytes) -> bool:
    """Return whether a line of the program's output reports an epoch; all others are its log."""
    report = _parse(line)
    return report is not None and ERROR in report


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line, if it is one and has an epoch."""
    if MARK not in line or not line.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and EPOCH in found else None


class _ProgramRun:
    """The worker's side of one run: a :class:`kdecay_search.user_code.monitoring.Handler`."""

    def __init__(self, run: Run, task: CommandTask, program: Program) -> None:
        self._run, self._task, self._program = run, task, program
        self._name = task.command[0]
        self._curve: list[Epoch] = []
        keeps_state = CHECKPOINT_DIR in task.placeholders
        self._checkpoint: Checkpoint | None = run.checkpoint if keeps_state else None
        """Records the epochs of a program that saves its own state in ``{checkpoint_dir}``."""

    def serve(self) -> None:
        """Serve the program to its end; raise what went wrong."""
        try:
            serve(self._run, self._task, self._program, self)
        except Hung:
            text = hang_text(self._task, len(self._curve))
            raise RunFailed(text, last_output(self._program)) from None
        except _Diverged:
            return
        except TaskError as error:
            raise RunFailed(f"{self._name} printed an invalid report: {error}") from None
        self._check_exit()

    def handle(self, line: bytes) -> bool:
        report = _parse(line)
        assert report is not None  # is_report has accepted the line
        number = report[EPOCH]
        if type(number) is not int:
            raise TaskError(f"epoch = {number!r}: must be a whole number, counted from 1")
        if number > 1 and not self._curve:
            self._resume_at(number)
        check_next_epoch(f"epoch = {number}", number, len(self._curve), self._task.length.reports)
        values = (report[ERROR], report.get(AVERAGED), report.get("loss"), report.get("lr"))
        epoch = epoch_of(number, *values, name=ERROR)
        self._curve.append(epoch)
        if self._checkpoint is not None:
            self._checkpoint.write(json.dumps([astuple(e) for e in self._curve]).encode())
        self._run.report(epoch)
        if epoch.diverged:
            self._program.stop(signal.SIGTERM, 0.0)
            raise _Diverged
        return True

    def terminate(self, seconds: float, interruption: Interruption) -> None:
        self._program.stop(signal.SIGTERM, seconds)

    def _check_exit(self) -> None:
        """Raise what went wrong, if anything did, in a program that has ended by itself."""
        exit_, done, total = self._program.exit, len(self._curve), self._task.length.reports
        assert exit_ is not None
        if exit_.reason:
            raise TaskError(
                f"{self._name}: {exit_.reason}; task.command must begin with a program that can be "
                "started from the folder in which the worker was started"
            )
        if exit_.status != 0:
            last = self._program.stderr.last_line()
            text = f"{self._name} {exit_} after epoch {done}" + (f": {last}" if last else "")
            raise RunFailed(text, last_output(self._program))
        if done < total:
            raise RunFailed(
                f"{self._name} ended after {done} of task.epochs = {total}; it must print a line "
                'such as {"epoch": 1, "error": 12.5} on its standard output after every epoch',
                last_output(self._program),
            )

    def _resume_at(self, number: int) -> None:
        """Take over the epochs before ``number`` from an interrupted attempt at this run.

        A program whose own state is ahead of the recorded epochs fails this attempt; its state is
        removed, so that the next attempt can succeed.
        """
        if self._checkpoint is None:
            return
        payload = self._checkpoint.read()
        recorded = [Epoch(*values) for values in json.loads(payload)] if payload else []
        if len(recorded) < number - 1:
            self._program.stop(signal.SIGTERM, 0.0)
            self._checkpoint.remove()
            raise TaskError(
                f"the first report is epoch = {number}, but epoch {len(recorded) + 1} is next "
                "after those recorded; the saved state was removed, and the next attempt starts "
                "over"
            )
        self._curve = recorded[: number - 1]
        self._run.restore(self._curve)


def _placeholder_values(
    run: Run, task: CommandTask, device: str, folder: Path
) -> Mapping[str, str]:
    """Return the text for each placeholder; ``k`` and ``ks`` are empty for a baseline schedule.

    Args:
        run: The run to train.
        task: The run's task.
        device: The device as the program addresses it.
        folder: Where to write the schedule; it exists until the program has ended.
    """
    schedule = schedule_of(run.spec, run.comparator, run.ks, task.steps_per_epoch or 1, run.lr_max)
    ks = schedule.ks if isinstance(schedule, KDecaySchedule) else ()
    values = {
        "k": repr(ks[-1]) if ks else "",
        "ks": ",".join(map(repr, ks)),
        "lr_max": repr(schedule.lr_max),
        "lr_min": repr(schedule.lr_min),
        "epochs": str(task.epochs or ""),
        "seed": str(run.seed),
        "device": device,
        "purpose": "confirmation" if run.comparator else "search",
    }
    if SCHEDULE_CSV in task.placeholders:
        path = folder / "schedule.csv"
        path.write_text(schedule_csv(schedule, round(task.length.updates(task.steps_per_epoch or 1))))
        values[SCHEDULE_CSV] = str(path)
    if CHECKPOINT_DIR in task.placeholders:
        kept = run.checkpoint.make_folder() if run.checkpoint is not None else folder
        values[CHECKPOINT_DIR] = str(kept)
    return values
