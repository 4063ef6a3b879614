"""Runs any program, which prints a line of JSON for every epoch: ``kind = "command"``."""

from __future__ import annotations

import json
import logging
import shlex
import signal
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdecay_search.errors import TaskError
from kdecay_search.schedules.export import schedule_csv
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.comparators import schedule_of
from kdecay_search.study.user_tasks import CHECKPOINT_DIR, SCHEDULE_CSV, CommandTask, filled
from kdecay_search.tasks.protocol import Epoch, Interruption, Run
from kdecay_search.user_code.environment import of_program
from kdecay_search.user_code.monitoring import Hung, RunFailed, hang_text, last_words, serve
from kdecay_search.user_code.numbers import epoch_of
from kdecay_search.user_code.output import Wanted
from kdecay_search.user_code.process import Program

logger = logging.getLogger(__name__)

EPOCH, ERROR, AVERAGED = "epoch", "error", "averaged_error"
"""Of a line that reports: the first two make it one. ``loss`` and ``lr`` may stand there, too."""
MARK = b'"epoch"'


class Diverged(Exception):
    """The error is no longer a number: training on is pointless."""


def train(run: Run) -> None:
    """Let ``task.command`` train ``run``.

    Raises :class:`RunFailed`; :class:`TaskError` where no run can succeed on this worker.
    """
    task = run.spec.task
    if not isinstance(task, CommandTask):
        raise TypeError(f"a task of kind 'command' was expected, not {task.kind!r}")
    device, environment = of_program(run.device)
    with TemporaryDirectory(prefix="kdecay-run-", ignore_cleanup_errors=True) as folder:
        command = filled(task.command, _values(run, task, device, Path(folder)))
        logger.info("runs %s", shlex.join(command))
        with Program(command, environment, Wanted(is_report, MARK)) as program:
            _Watch(run, task, program).until_the_end()


def is_report(line: bytes) -> bool:
    """Whether a line of the program's output reports an epoch; all others are its log."""
    report = _parsed(line)
    return report is not None and ERROR in report


def _parsed(line: bytes) -> dict[str, Any] | None:
    if MARK not in line or not line.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and EPOCH in found else None


class _Watch:
    """What the program has told of its run."""

    def __init__(self, run: Run, task: CommandTask, program: Program) -> None:
        self._run, self._task, self._program = run, task, program
        self._name = task.command[0]
        self._curve: list[Epoch] = []

    def until_the_end(self) -> None:
        try:
            serve(self._run, self._task, self._program, self._take, self._leave)
        except Hung:
            text = hang_text(self._task, len(self._curve))
            raise RunFailed(text, last_words(self._program)) from None
        except Diverged:
            return
        except TaskError as error:
            raise RunFailed(f"{self._name} printed a report that is none: {error}") from None
        self._settle()

    def _take(self, line: bytes) -> bool:
        report = _parsed(line)
        assert report is not None  # is_report has seen it
        number = report[EPOCH]
        if type(number) is not int:
            raise TaskError(f"epoch = {number!r}: must be a whole number, 1 for the first")
        if number > 1 and not self._curve:
            self._go_on(number)
        due = len(self._curve) + 1
        if number != due or due > self._task.epochs:
            last = f"epoch {due} is next" if due <= self._task.epochs else f"{due - 1} was the last"
            raise TaskError(f"epoch = {number}: {last}; every epoch once, in order, from 1")
        values = (report[ERROR], report.get(AVERAGED), report.get("loss"), report.get("lr"))
        epoch = epoch_of(number, *values, name=ERROR)
        self._curve.append(epoch)
        self._keep()
        self._run.report(epoch)
        if epoch.diverged:
            self._program.stop(signal.SIGTERM, 0.0)
            raise Diverged
        return True

    def _leave(self, seconds: float, wish: Interruption) -> None:
        self._program.stop(signal.SIGTERM, seconds)

    def _settle(self) -> None:
        ended, done, total = self._program.ended, len(self._curve), self._task.epochs
        assert ended is not None
        if ended.reason:
            raise TaskError(
                f"{self._name}: {ended.reason}; task.command must begin with a program that can be "
                "started from the folder in which the worker was"
            )
        if ended.status != 0:
            last = self._program.stderr.last_line()
            text = f"{self._name} {ended} after epoch {done}" + (f": {last}" if last else "")
            raise RunFailed(text, last_words(self._program))
        if done < total:
            raise RunFailed(
                f"{self._name} ended after {done} of task.epochs = {total}; it must print a line "
                'such as {"epoch": 1, "error": 12.5} on its standard output after every epoch',
                last_words(self._program),
            )

    # ---- a program that keeps its state in {checkpoint_dir} goes on where it stood -------------

    def _keep(self) -> None:
        if self._run.checkpoint is not None and CHECKPOINT_DIR in self._task.placeholders:
            self._run.checkpoint.write(json.dumps([astuple(e) for e in self._curve]).encode())

    def _go_on(self, number: int) -> None:
        """Take over the epochs before ``number`` from an interrupted attempt at this run.

        A state that is ahead of what was recorded fails this attempt, and not the next.
        """
        checkpoint = self._run.checkpoint
        if checkpoint is None or CHECKPOINT_DIR not in self._task.placeholders:
            return
        payload = checkpoint.read()
        known = [Epoch(*values) for values in json.loads(payload)] if payload else []
        if len(known) < number - 1:
            self._program.stop(signal.SIGTERM, 0.0)
            checkpoint.remove()
            raise TaskError(
                f"epoch = {number} is its first, and epoch {len(known) + 1} is next by what was "
                "recorded; its state was removed, and the next attempt starts over"
            )
        self._curve = known[: number - 1]
        self._run.restore(self._curve)


def _values(run: Run, task: CommandTask, device: str, folder: Path) -> Mapping[str, str]:
    """What the names in braces become. A rival schedule has no k: it is in the file alone."""
    schedule = schedule_of(run.spec, run.comparator, run.ks, task.steps_per_epoch or 1, run.lr_max)
    ks = schedule.ks if isinstance(schedule, KDecaySchedule) else ()
    values = {
        "k": repr(ks[-1]) if ks else "",
        "ks": ",".join(map(repr, ks)),
        "lr_max": repr(schedule.lr_max),
        "lr_min": repr(schedule.lr_min),
        "epochs": str(task.epochs),
        "seed": str(run.seed),
        "device": device,
        "purpose": "confirmation" if run.comparator else "search",
    }
    if SCHEDULE_CSV in task.placeholders:
        path = folder / "schedule.csv"
        path.write_text(schedule_csv(schedule, task.epochs * (task.steps_per_epoch or 1)))
        values[SCHEDULE_CSV] = str(path)
    if CHECKPOINT_DIR in task.placeholders:
        kept = run.checkpoint.folder if run.checkpoint is not None else folder
        kept.mkdir(parents=True, exist_ok=True)
        values[CHECKPOINT_DIR] = str(kept)
    return values
