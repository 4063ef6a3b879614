"""Where a program's reports are read from, if it prints no lines of JSON: ``[task.report]``.

:mod:`kdecay_search.user_code.report_file` and :mod:`kdecay_search.user_code.report_pattern` read
them.
"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from kdecay_search.study.base import Settings

OUTPUT_DIR, CHECKPOINT_DIR = "output_dir", "checkpoint_dir"
_FOLDERS = {f"{{{name}}}/": name for name in (OUTPUT_DIR, CHECKPOINT_DIR)}
_VALUE, _STEP = "value", "step"
_OPTIONAL = ("averaged", "loss")
_GROUPS = (_STEP, _VALUE, *_OPTIONAL)

Name = Annotated[str, Field(min_length=1, max_length=200)]


class ReportSource(Settings):
    """How the reports of a program are found in a file that it writes, or in its output."""

    file: Annotated[str | None, Field(min_length=1, max_length=1000)] = None
    """A CSV or JSON-lines file that the program writes, in the run's ``{output_dir}`` unless it
    begins with ``{checkpoint_dir}/``. ``*`` and ``**`` stand for names that the program chooses."""
    pattern: Annotated[str | None, Field(min_length=1, max_length=2000)] = None
    """A regular expression that is searched in every line of the program's output. Its named group
    ``value`` is the metric; groups ``step``, ``averaged`` and ``loss`` are optional."""
    step: Name | None = None
    """Column or JSON key of the epoch or step. None means that the reports are counted."""
    value: Name | None = None
    """Column or JSON key of the metric; ``a.b`` is the key ``b`` of the object ``a``."""
    averaged: Name | None = None
    """Column or JSON key of the metric of averaged weights; None if there is none."""
    loss: Name | None = None
    """Column or JSON key of the training loss; None if it is not wanted."""
    first: Annotated[int | None, Field(ge=0, le=1_000_000_000)] = None
    """The number that the program gives its first report; rows with lower numbers are ignored. None
    means that epochs count from 0 if the first one that is seen is 0, and that steps count updates.
    """

    @field_validator("file")
    @classmethod
    def _file_lies_in_a_folder_of_the_run(cls, file: str | None) -> str | None:
        if file is None:
            return None
        inside = next((file[len(key) :] for key in _FOLDERS if file.startswith(key)), file)
        if not inside or inside.startswith("/") or ".." in inside.split("/"):
            raise ValueError(
                "must be a path in {output_dir} or in {checkpoint_dir}, such as "
                "'summary.csv' or '{checkpoint_dir}/*/summary.csv'"
            )
        if {"{", "}", "\0"} & {*inside}:
            raise ValueError("may begin with {output_dir}/ or {checkpoint_dir}/; no other braces")
        if any("**" in part and part != "**" for part in inside.split("/")):
            raise ValueError("** stands for whole folders, as in **/summary.csv")
        return file

    @field_validator("pattern")
    @classmethod
    def _pattern_has_a_value(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groupindex
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        if _VALUE not in groups:
            raise ValueError(r"needs a group for the metric, such as loss (?P<value>[\d.]+)")
        unknown = [name for name in groups if name not in _GROUPS]
        if unknown:
            raise ValueError(f"has a group {unknown[0]!r}; known are {', '.join(_GROUPS)}")
        return pattern

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.file is None) == (self.pattern is None):
            raise ValueError("needs either file or pattern")
        if self.file is not None and self.value is None:
            raise ValueError("needs value: the column or key of the metric in the file")
        if self.pattern is not None:
            named = [name for name in _GROUPS if getattr(self, name) is not None]
            if named:
                raise ValueError(
                    f"{named[0]} belongs to file; in a pattern it is a group (?P<{named[0]}>…)"
                )
        return self

    @property
    def has_step(self) -> bool:
        """Whether the program numbers its reports."""
        return self.step is not None or _STEP in re.compile(self.pattern or "").groupindex

    @property
    def folder(self) -> str | None:
        """Placeholder of the folder that contains the file; None for a pattern."""
        if self.file is None:
            return None
        found = (name for key, name in _FOLDERS.items() if self.file.startswith(key))
        return next(found, OUTPUT_DIR)

    @property
    def path_in_folder(self) -> str:
        """The file's path within :attr:`folder`; it may contain wildcards."""
        file = self.file or ""
        return next((file[len(key) :] for key in _FOLDERS if file.startswith(key)), file)
