"""Training code of the user's own, as a study file names it: a Python function, or any program.

Nothing here imports or runs it: :mod:`kdecay_search.user_code` does, in a process of its own, where a
worker's command line allows it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from kdecay_search.study.base import AVERAGING_SHARE, Count, Epochs, Settings

EPOCH_TIMEOUT_SECONDS = 7200.0
MOST_ROWS = 5_000_000
"""Of a schedule that is written to a file."""
SCHEDULE_CSV = "schedule_csv"
TERMS = ("k", "ks")
CHECKPOINT_DIR = "checkpoint_dir"
PURPOSE = "purpose"
PLACEHOLDERS = (
    SCHEDULE_CSV,
    *TERMS,
    "lr_max",
    "lr_min",
    "epochs",
    "seed",
    "device",
    CHECKPOINT_DIR,
    PURPOSE,
)
"""What may stand in braces in a command's arguments; docs/own-code.md says what each becomes."""

_IDENTIFIER = r"[^\W\d]\w*"
_ENTRY = re.compile(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}(\.{_IDENTIFIER})*")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

EpochTimeout = Annotated[float, Field(gt=0, le=604_800)]


class PythonTask(Settings):
    """A function of the user's, called once a run."""

    kind: Literal["python"]
    epochs: Epochs
    """How often a run reports."""
    entry: Annotated[str, Field(max_length=500)]
    """``package.module:function``; the folder in which the worker was started is importable."""
    args: dict[str, JsonValue] = Field({})
    """Whatever the function wants to know, as it stands."""
    steps_per_epoch: Count | None = None
    """Optimizer updates per epoch; None: the function says so."""
    averaging_share: Annotated[float, Field(gt=0, le=1)] = AVERAGING_SHARE
    """Half-life, as a share of the training, of the averaged weights of ``run.average``."""
    epoch_timeout: EpochTimeout = EPOCH_TIMEOUT_SECONDS
    """Seconds; a run that reports nothing for so long has failed."""

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


class CommandTask(Settings):
    """Any program, which prints a line of JSON for every epoch."""

    kind: Literal["command"]
    epochs: Epochs
    """How many epochs a run reports."""
    command: Annotated[
        tuple[Annotated[str, Field(max_length=10_000)], ...], Field(min_length=1, max_length=1000)
    ]
    """The program and its arguments, with :data:`PLACEHOLDERS`; no shell sees them."""
    steps_per_epoch: Count | None = None
    """Optimizer updates per epoch; None: the schedule's file has one rate an epoch."""
    epoch_timeout: EpochTimeout = EPOCH_TIMEOUT_SECONDS
    """Seconds; a run that reports nothing for so long has failed."""

    @field_validator("command")
    @classmethod
    def _command_takes_the_schedule(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if not command[0] or any("\0" in argument for argument in command):
            raise ValueError("must begin with a program, and hold no NUL character")
        if not {SCHEDULE_CSV, *TERMS} & placeholders(command):
            raise ValueError(
                "must hold {schedule_csv}, {k} or {ks}: nothing else tells it the schedule"
            )
        return command

    @field_validator("steps_per_epoch")
    @classmethod
    def _schedule_fits_a_file(cls, steps: int | None, info: ValidationInfo) -> int | None:
        if steps is not None and steps * info.data.get("epochs", 1) > MOST_ROWS:
            raise ValueError(
                f"gives more than {MOST_ROWS:,} rows of {{{SCHEDULE_CSV}}}; "
                "leave it out for one row an epoch"
            )
        return steps

    @property
    def placeholders(self) -> set[str]:
        return placeholders(self.command)


OwnTask = PythonTask | CommandTask


def is_entry(text: str) -> bool:
    """Whether it has the form ``module:function``."""
    return _ENTRY.fullmatch(text) is not None


def placeholders(command: Iterable[str]) -> set[str]:
    """The names in braces. Raises :class:`ValueError` for those that are not known."""
    return {name for argument in command for name in _names(argument)}


def filled(command: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """The arguments with values in the place of names, and single braces for doubled ones."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return match.group()[0] if name is None else values[name]

    return [_BRACES.sub(value, argument) for argument in command]


def _names(argument: str) -> Iterable[str]:
    for match in _BRACES.finditer(argument):
        found, name = match.group(), match.group(1)
        if found in ("{", "}"):
            raise ValueError(f"has a single {found} in {argument!r}; write {found * 2} for a brace")
        if name is not None and name not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise ValueError(f"knows no {found}; there are {known}; write {{{{ for a brace")
        if name is not None:
            yield name


def _numbers(value: JsonValue) -> Iterable[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, float) else []
