"""Runs any program that prints a line of JSON for every report: ``kind = "command"``."""

from __future__ import annotations

import json
import logging
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdecay_search.errors import TaskError
from kdecay_search.schedules.export import schedule_csv
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.comparators import schedule_of
from kdecay_search.study.own_parameters import own_text
from kdecay_search.study.report_source import CHECKPOINT_DIR, OUTPUT_DIR
from kdecay_search.study.training_length import TrainingLength, Unit
from kdecay_search.study.user_tasks import (
    EPOCHS,
    NPROC,
    PURPOSE,
    REPORT_EVERY,
    SCHEDULE_CSV,
    STEPS,
    TOTAL_STEPS,
    WARMUP_STEPS,
    CommandTask,
    filled,
)
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.device_names import devices_of
from kdecay_search.tasks.protocol import Epoch, Interruption, Run
from kdecay_search.user_code.environment import device_and_environment
from kdecay_search.user_code.monitoring import Hung, RunFailed, hang_text, last_output, serve
from kdecay_search.user_code.output import ReportLines
from kdecay_search.user_code.process import Program
from kdecay_search.user_code.progress import Progress
from kdecay_search.user_code.reporting_program import problem_of, reporting_program
from kdecay_search.user_code.reports import WrongReport, as_count, report_of

logger = logging.getLogger(__name__)

VALUES, AVERAGED = ("error", "value"), ("averaged_error", "averaged_value")
"""Keys of a report line for the two values of the metric; each has two names. ``loss``
and ``lr`` are optional as well."""


class _Diverged(Exception):
    """The metric is no longer a finite number: there is no point in training on."""


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
            values = _placeholder_values(run, task, device, folder)
            command = filled(task.command, values)
        except OSError as error:
            raise TaskError(
                f"{error.filename or 'the folder for temporary files'}: {error.strerror}; "
                "this worker cannot prepare a run"
            ) from error
        logger.info("running %s", shlex.join(command))
        if task.report is None:
            program = Program(command, environment, report_lines(task.length.unit))
        else:
            program = reporting_program(command, environment, task.report, task.length, values)
        stack.enter_context(program)
        _ProgramRun(run, task, program).serve()


def report_lines(unit: Unit) -> ReportLines:
    """Return which lines of a program's output are reports: JSON with the study's unit and a value.

    All others are its log.
    """
    return ReportLines(lambda line: _parse(line, unit) is not None, f'"{unit}"'.encode())


def _parse(line: bytes, unit: Unit) -> dict[str, Any] | None:
    """Return the JSON object in a line, if it is a report."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_report = isinstance(found, dict) and unit in found and any(v in found for v in VALUES)
    return found if is_report else None


class _ProgramRun:
    """The worker's side of one run: a :class:`kdecay_search.user_code.monitoring.Handler`."""

    def __init__(self, run: Run, task: CommandTask, program: Program) -> None:
        self._run, self._task, self._program = run, task, program
        self._name = task.command[0]
        self._progress = Progress(task.length)
        self._has_begun = False
        keeps_state = CHECKPOINT_DIR in task.placeholders
        self._checkpoint: Checkpoint | None = run.checkpoint if keeps_state else None
        """Records the reports of a program that saves its own state in ``{checkpoint_dir}``."""

    def serve(self) -> None:
        """Serve the program to its end; raise what went wrong."""
        try:
            serve(self._run, self._task, self._program, self)
        except Hung:
            text = hang_text(self._task, len(self._progress.curve))
            problem = problem_of(self._program)
            text += f"; {problem}" if problem else ""
            raise RunFailed(text, last_output(self._program)) from None
        except _Diverged:
            return
        except TaskError as error:
            place = "" if self._task.report else " printed an invalid report"
            is_wrong = isinstance(error, WrongReport)
            raise RunFailed(f"{self._name}{place}: {error}", is_wrong=is_wrong) from None
        self._check_exit()

    def handle(self, line: bytes) -> bool:
        """Handle one report line; it always shows that the run made progress.

        A program whose own state is ahead of the recorded reports fails this attempt; its state is
        removed, so that the next attempt can succeed.
        """
        report = _parse(line, self._task.length.unit)
        assert report is not None
        unit, metric = self._task.length.unit, self._run.spec.task.metric
        name = f"{unit} = {_shown(report[unit])}"
        position, is_first = as_count(unit, report[unit]), not self._has_begun
        if is_first:
            self._resume_at(position)
        names = _name_in(report, VALUES), _name_in(report, AVERAGED)
        values = (report.get(names[0]), report.get(names[1]), report.get("loss"), report.get("lr"))
        reported = report_of(metric, *values, names=names)
        try:
            planned = self._progress.take(name, position, reported)
        except TaskError as error:
            if not (is_first and self._checkpoint is not None):
                raise
            self._program.stop(signal.SIGTERM, 0.0)
            self._checkpoint.remove()
            removed = "the saved state was removed, and the next attempt starts over"
            raise TaskError(f"{error}; {removed}") from None
        self._pass_on(planned)
        if reported.diverged:
            self._program.stop(signal.SIGTERM, 0.0)
            raise _Diverged
        return True

    def _pass_on(self, reports: Sequence[Epoch]) -> None:
        """Hand planned reports to the worker; a program that saves its own state can resume."""
        if self._checkpoint is not None:
            self._checkpoint.write(_to_bytes(self._progress))
        for report in reports:
            self._run.report(report)

    def terminate(self, seconds: float, interruption: Interruption) -> None:
        self._program.stop(signal.SIGTERM, seconds)

    def _check_exit(self) -> None:
        """Raise what went wrong, if anything did, in a program that has ended by itself."""
        exit_, length = self._program.exit, self._task.length
        assert exit_ is not None
        if exit_.reason:
            raise TaskError(
                f"{self._name}: {exit_.reason}; task.command must begin with a program that can be "
                "started from the folder in which the worker was started"
            )
        if exit_.status != 0:
            last = self._program.stderr.last_line()
            place = f"{length.unit} {self._progress.position}"
            text = f"{self._name} {exit_} after {place}" + (f": {last}" if last else "")
            raise RunFailed(text, last_output(self._program))
        self._pass_on(self._progress.finish(is_required=False))
        if self._progress.is_complete:
            return
        if problem := problem_of(self._program):
            raise RunFailed(problem, last_output(self._program), is_wrong=True)
        done = f"{self._name} ended after {self._progress.position} of {length.setting}"
        if self._task.report is None:
            done += f"; it must print a line such as {self._example()}"
        raise RunFailed(done, last_output(self._program))

    def _example(self) -> str:
        """What a report line looks like, and how often it is to be printed."""
        length = self._task.length
        if not length.counts_steps:
            text = '{"epoch": 1, "error": 12.5} on its standard output after every epoch'
        else:
            text = (
                f'{{"step": {length.report_every}, "value": 12.5}} on its standard output every '
                f"{length.count(length.report_every)}, and at the end"
            )
        other: Unit = "epoch" if length.counts_steps else "step"
        if any(_parse(line.encode(), other) for line in self._program.stdout.text().splitlines()):
            text += f'; there are lines with "{other}", but this study counts {length.unit}s'
        return text

    def _resume_at(self, position: int) -> None:
        """Take over the reports before ``position`` from an interrupted attempt at this run."""
        self._has_begun = True
        length = self._task.length
        if self._checkpoint is None or position <= 1:
            return
        payload = self._checkpoint.read()
        found = _from_bytes(length, payload) if payload else Progress(length)
        found = found.before(position)
        if found.position:
            self._progress = found
            self._run.restore(found.curve)


def _to_bytes(progress: Progress) -> bytes:
    """The reports of a program that saves its own state, as they are kept between attempts."""
    curve = [astuple(report) for report in progress.curve]
    plain = {"curve": curve, **progress.to_plain()} if progress.length.counts_steps else curve
    return json.dumps(plain).encode()


def _from_bytes(length: TrainingLength, payload: bytes) -> Progress:
    plain = json.loads(payload)
    curve = plain["curve"] if length.counts_steps else plain
    reports = [Epoch(*values) for values in curve]
    return Progress.restored(length, reports, plain if length.counts_steps else None)


def _name_in(report: Mapping[str, Any], names: tuple[str, str]) -> str:
    """The name that a report line uses of two."""
    return next((name for name in names if name in report), names[0])


def _shown(value: object) -> str:
    return repr(value)[:60]


def _placeholder_values(
    run: Run, task: CommandTask, device: str, folder: Path
) -> Mapping[str, str]:
    """Return the text for each placeholder; ``k`` and ``ks`` are empty for a schedule
    without terms, such as a cooldown.

    Args:
        run: The run to train.
        task: The run's task.
        device: The device as the program addresses it.
        folder: Where to write the schedule; it exists until the program has ended.
    """
    per_epoch = task.steps_per_epoch or 1
    schedule = schedule_of(run.spec, run.comparator, run.ks, per_epoch, run.lr_max, run.point)
    ks = schedule.ks if isinstance(schedule, KDecaySchedule) else ()
    length, total = task.length, round(task.length.updates(per_epoch))
    values = {
        "k": repr(ks[-1]) if ks else "",
        "ks": ",".join(map(repr, ks)),
        "lr_max": repr(schedule.lr_max),
        "lr_min": repr(schedule.lr_min),
        EPOCHS: str(task.epochs or ""),
        STEPS: str(task.steps or ""),
        TOTAL_STEPS: str(total),
        REPORT_EVERY: str(length.report_every),
        WARMUP_STEPS: str(schedule.warmup_steps),
        "seed": str(run.seed),
        "device": device,
        NPROC: str(len(devices_of(run.device))),
        PURPOSE: "confirmation" if run.comparator else "search",
    }
    if run.point is not None:
        values |= {name: own_text(value) for name, value in run.point.args}
    if SCHEDULE_CSV in task.placeholders:
        path = folder / "schedule.csv"
        path.write_text(schedule_csv(schedule, total))
        values[SCHEDULE_CSV] = str(path)
    if OUTPUT_DIR in task.placeholders:
        output = folder / "output"
        output.mkdir()
        values[OUTPUT_DIR] = str(output)
    if CHECKPOINT_DIR in task.placeholders:
        kept = run.checkpoint.make_folder() if run.checkpoint is not None else folder
        values[CHECKPOINT_DIR] = str(kept)
    return values
