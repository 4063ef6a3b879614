"""The user's own training code as a study file names it: a Python function, or any program.

Nothing here imports or runs that code: :mod:`kdecay_search.user_code` does, in a separate process,
and only if the worker's command line allows it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from kdecay_search.study.base import AVERAGING_SHARE, OMITTED_IF_NONE, Count, Epochs, Settings
from kdecay_search.study.metric import VALIDATION_ERROR, Metric
from kdecay_search.study.own_parameters import is_own_name
from kdecay_search.study.report_source import CHECKPOINT_DIR, OUTPUT_DIR, ReportSource
from kdecay_search.study.training_length import TrainingLength

EPOCH_TIMEOUT_SECONDS = 7200.0
"""Default of ``epoch_timeout``."""
MAX_SCHEDULE_ROWS = 5_000_000
"""Largest number of rows of a schedule that is written to a file for a command."""
MAX_REPORTS = 100_000
"""Largest number of reports of a run."""
SCHEDULE_CSV = "schedule_csv"
TERMS = ("k", "ks")
PURPOSE = "purpose"
NPROC = "nproc"
EPOCHS, STEPS, REPORT_EVERY = "epochs", "steps", "report_every"
TOTAL_STEPS, WARMUP_STEPS = "total_steps", "warmup_steps"
PLACEHOLDERS = (
    SCHEDULE_CSV,
    *TERMS,
    "lr_max",
    "lr_min",
    EPOCHS,
    STEPS,
    TOTAL_STEPS,
    REPORT_EVERY,
    WARMUP_STEPS,
    "seed",
    "device",
    NPROC,
    OUTPUT_DIR,
    CHECKPOINT_DIR,
    PURPOSE,
)
"""Names that may stand in braces in a command's arguments, besides those of parameters of the
user's own; docs/own-code.md lists their values."""

_IDENTIFIER = r"[^\W\d]\w*"
_ENTRY = re.compile(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}(\.{_IDENTIFIER})*")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

EpochTimeout = Annotated[float, Field(gt=0, le=604_800)]


class _UserTask(Settings):
    """What all tasks with code of the user have: a length, a metric and a timeout."""

    kind: str
    """Tag of the kind of task."""
    epochs: Annotated[Epochs | None, OMITTED_IF_NONE] = None
    """Number of epochs of every run, which reports after each; None if ``steps`` counts."""
    steps: Annotated[Count | None, OMITTED_IF_NONE] = None
    """Number of optimizer updates of every run; None if ``epochs`` counts."""
    report_every: Annotated[Count | None, OMITTED_IF_NONE] = None
    """Steps from one report of a run to the next; None if ``epochs`` counts."""
    metric: Metric = Field(VALIDATION_ERROR, exclude_if=lambda metric: metric == VALIDATION_ERROR)
    """What every run reports and the study optimises; left out of what is stored while it is the
    default, which studies of version 0.1.0 have."""

    @field_validator("steps")
    @classmethod
    def _length_is_stated_once(cls, steps: int | None, info: ValidationInfo) -> int | None:
        epochs = info.data.get("epochs")
        if steps is not None and epochs is not None:
            raise ValueError(f"goes without task.epochs = {epochs}; give one of the two")
        return steps

    @field_validator("report_every")
    @classmethod
    def _reports_fit_the_length(cls, every: int | None, info: ValidationInfo) -> int | None:
        steps = info.data.get("steps")
        if every is None:
            return every
        if steps is None:
            if info.data.get("epochs") is not None:
                raise ValueError("goes with task.steps; a run of epochs reports after every epoch")
            return every
        if every > steps:
            raise ValueError(f"must be at most task.steps = {steps}")
        if steps / every > MAX_REPORTS:
            raise ValueError(f"gives more than {MAX_REPORTS:,} reports per run; make it larger")
        return every

    @field_validator("steps_per_epoch", check_fields=False)
    @classmethod
    def _epochs_are_counted(cls, per_epoch: int | None, info: ValidationInfo) -> int | None:
        if per_epoch is not None and info.data.get("steps") is not None:
            raise ValueError("goes with task.epochs; task.steps counts the updates of a run itself")
        return per_epoch

    @model_validator(mode="after")
    def _length_is_stated(self) -> Self:
        if self.epochs is None and self.steps is None:
            raise ValueError("needs epochs, or steps with report_every")
        if self.steps is not None and self.report_every is None:
            raise ValueError(
                f"steps = {self.steps} needs report_every, the steps from one report to the next"
            )
        return self

    @property
    def length(self) -> TrainingLength:
        """How long every run trains, and when it reports."""
        if self.steps is not None and self.report_every is not None:
            return TrainingLength("step", self.steps, self.report_every)
        return TrainingLength("epoch", self.epochs or 1)


class PythonTask(_UserTask):
    """A Python function of the user, called once for every run."""

    kind: Literal["python"]
    """Tag of this kind of task."""
    entry: Annotated[str, Field(max_length=500)]
    """The function as ``package.module:function``; the folder in which the worker was started is
    importable."""
    args: dict[str, JsonValue] = Field({})
    """JSON-serialisable values by name, which the function gets unchanged."""
    steps_per_epoch: Count | None = None
    """Optimizer updates per epoch; None means that the function sets them, or that ``steps``
    counts."""
    averaging_share: Annotated[float, Field(gt=0, le=1)] = AVERAGING_SHARE
    """Half-life, as a share of the training, of the averaged weights of ``run.average``."""
    epoch_timeout: EpochTimeout = EPOCH_TIMEOUT_SECONDS
    """Seconds without a report after which a run has failed."""
    fork: bool = Field(True, exclude_if=lambda fork: fork is True)
    """Whether a worker may import the code's libraries once and fork its runs from there, instead
    of starting Python anew for each."""

    @field_validator("entry")
    @classmethod
    def _entry_is_one(cls, entry: str) -> str:
        if not is_entry(entry):
            raise ValueError("must be module:function, such as 'my_project.train:train'")
        return entry

    @field_validator("args")
    @classmethod
    def _args_can_be_stored(cls, args: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for key, value in args.items():
            if not all(math.isfinite(number) for number in _numbers(value)):
                raise ValueError(f"{key} must not hold nan or inf: JSON has neither")
        return args


class CommandTask(_UserTask):
    """Any program that prints a line of JSON for every report, or reports as ``report`` says."""

    kind: Literal["command"]
    """Tag of this kind of task."""
    command: Annotated[
        tuple[Annotated[str, Field(max_length=10_000)], ...], Field(min_length=1, max_length=1000)
    ]
    """The program and its arguments, with :data:`PLACEHOLDERS` in braces; they are not passed
    through a shell."""
    steps_per_epoch: Count | None = None
    """Optimizer updates per epoch; None means one row per epoch in the schedule's file."""
    epoch_timeout: EpochTimeout = EPOCH_TIMEOUT_SECONDS
    """Seconds without a report after which a run has failed."""
    report: Annotated[ReportSource | None, OMITTED_IF_NONE] = None
    """Where the program's reports are; None means that it prints lines of JSON."""

    @field_validator("command")
    @classmethod
    def _command_takes_the_schedule(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if not command[0] or any("\0" in argument for argument in command):
            raise ValueError("must begin with a program, and hold no NUL character")
        if not {SCHEDULE_CSV, *TERMS} & placeholders(command):
            raise ValueError(
                "must hold {schedule_csv}, {k} or {ks}, so that the program gets the schedule"
            )
        return command

    @field_validator("steps_per_epoch")
    @classmethod
    def _schedule_fits_a_file(cls, steps: int | None, info: ValidationInfo) -> int | None:
        if steps is not None and steps * (info.data.get("epochs") or 1) > MAX_SCHEDULE_ROWS:
            raise ValueError(
                f"gives more than {MAX_SCHEDULE_ROWS:,} rows of {{{SCHEDULE_CSV}}}; "
                "leave it out for one row per epoch"
            )
        return steps

    @field_validator("report")
    @classmethod
    def _reports_belong_to_one_run(
        cls, report: ReportSource | None, info: ValidationInfo
    ) -> ReportSource | None:
        command = info.data.get("command")
        if report is None or command is None:
            return report
        used = placeholders(command)
        if report.folder is not None and report.folder not in used:
            raise ValueError(
                f"file lies in {{{report.folder}}}, so task.command must pass {{{report.folder}}} "
                "to the program: each run writes a file of its own"
            )
        if CHECKPOINT_DIR in used:
            if not report.has_step:
                raise ValueError(
                    "needs step, since a program that resumes in {checkpoint_dir} does not report "
                    "from the start"
                )
            if report.first is None and info.data.get("steps") is None:
                raise ValueError(
                    "needs first: whether the program counts epochs from 0 or from 1 cannot be "
                    "seen when it resumes in {checkpoint_dir}"
                )
        return report

    @model_validator(mode="after")
    def _placeholders_have_values(self) -> Self:
        used, length = self.placeholders, self.length
        if length.counts_steps:
            if SCHEDULE_CSV in used and length.total > MAX_SCHEDULE_ROWS:
                raise ValueError(
                    f"steps = {length.total} gives more than {MAX_SCHEDULE_ROWS:,} rows of "
                    f"{{{SCHEDULE_CSV}}}; use {{k}} or {{ks}}"
                )
            if EPOCHS in used:
                raise ValueError("command holds {epochs}, but task.steps counts; use {steps}")
            return self
        for name in (STEPS, REPORT_EVERY):
            if name in used:
                raise ValueError(f"command holds {{{name}}}, which needs task.{name}")
        for name in (TOTAL_STEPS, WARMUP_STEPS):
            if name in used and self.steps_per_epoch is None:
                raise ValueError(
                    f"command holds {{{name}}}, which needs task.steps_per_epoch or task.steps"
                )
        return self

    @property
    def placeholders(self) -> set[str]:
        """Names in braces that the command uses."""
        return placeholders(self.command)

    @property
    def own_placeholders(self) -> set[str]:
        """Those of them that stand for parameters of the user's own."""
        return self.placeholders - set(PLACEHOLDERS)


UserTask = PythonTask | CommandTask


def is_entry(text: str) -> bool:
    """Whether a text has the form ``module:function``."""
    return _ENTRY.fullmatch(text) is not None


def placeholders(command: Iterable[str]) -> set[str]:
    """The names in braces in a command's arguments.

    Raises:
        ValueError: A name can be neither one of :data:`PLACEHOLDERS` nor that of a parameter of the
            user's own, or a brace is single.
    """
    return {name for argument in command for name in _names(argument)}


def filled(command: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """A command's arguments with values in place of the names in braces.

    Args:
        command: Arguments that :func:`placeholders` accepts.
        values: A value for every name that they use.

    Returns:
        The arguments; doubled braces have become single ones.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return match.group()[0] if name is None else values[name]

    return [_BRACES.sub(value, argument) for argument in command]


def unknown_placeholder(name: str) -> str:
    """What is wrong with a name in braces that stands for nothing."""
    known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
    return f"has an unknown {{{name}}}; known are {known}; write {{{{ for a brace"


def _names(argument: str) -> Iterable[str]:
    """The names in braces in one argument. Raises ValueError for what cannot be filled in."""
    for match in _BRACES.finditer(argument):
        found, name = match.group(), match.group(1)
        if found in ("{", "}"):
            raise ValueError(f"has a single {found} in {argument!r}; write {found * 2} for a brace")
        if name is not None and name not in PLACEHOLDERS and not is_own_name(name):
            raise ValueError(unknown_placeholder(name))
        if name is not None:
            yield name


def _numbers(value: JsonValue) -> Iterable[float]:
    """All floats within a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, float) else []
