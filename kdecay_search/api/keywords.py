"""The keys of a study file as keywords of a function.

Every key of a study file is one keyword. A key of ``[task]``, ``[task.metric]``, ``[schedule]`` or
``[search]`` is a keyword of its own name; a key of another table is preceded by the table's name,
such as ``space_k``, ``confirm_seeds`` and ``pruning_enabled``. Where two tables would share a
keyword, :data:`OWN_NAMES` has another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdecay_search.errors import InvalidSpec
from kdecay_search.study import file as study_file
from kdecay_search.study.metric import Metric
from kdecay_search.study.search_spec import SearchSpec
from kdecay_search.study.space import SpaceSpec
from kdecay_search.study.spec import (
    ConfirmSpec,
    PruningSpec,
    ScheduleSpec,
    StudySpec,
    WorkersSpec,
)
from kdecay_search.study.user_tasks import PythonTask

TABLES: Mapping[str, tuple[type[BaseModel], str]] = {
    "": (StudySpec, ""),
    "task": (PythonTask, ""),
    "task.metric": (Metric, ""),
    "schedule": (ScheduleSpec, ""),
    "search": (SearchSpec, ""),
    "search.space": (SpaceSpec, "space_"),
    "pruning": (PruningSpec, "pruning_"),
    "confirm": (ConfirmSpec, "confirm_"),
    "workers": (WorkersSpec, "workers_"),
}
"""Each table of a study file of own Python code: its model, and what its keywords begin with."""
OWN_NAMES = {"task.metric.name": "metric", "search.lr_max": "search_lr_max"}
"""Keys whose keyword would otherwise be that of another key, and their keywords."""
UNSTATED = ("task.kind", "task.entry")
"""Keys that follow from the function that is given."""
DIRECTIONS = {"minimize": "min", "maximize": "max"}
"""Optuna's names of the directions, which are accepted as well."""
SPACE = "space"
"""Keyword of the whole table ``search.space``, which takes parameters of the user's own."""
DEFAULT_NAME = "study"
"""Name of a study whose name is not stated."""
FLOOR_SHARE = 0.01
"""``lr_min`` as a share of ``lr_max`` where only the latter is stated, as in a study file's
defaults."""
DIGITS = 3
"""Significant digits of the middle of a range of ``lr_max``."""


def keywords() -> dict[str, str]:
    """The dotted key of each keyword, table by table."""
    return {
        OWN_NAMES.get(dotted, f"{prefix}{key}"): dotted
        for table, (model, prefix) in TABLES.items()
        for key, dotted in _keys(table, model)
    }


def _keys(table: str, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for key in model.model_fields:
        dotted = f"{table}.{key}" if table else key
        if dotted not in TABLES and dotted not in UNSTATED:
            yield key, dotted


def spec_of(
    stated: Mapping[str, Any], study_file_path: str | Path | None, entry: str | None
) -> StudySpec:
    """The study that keywords describe, together with a study file if there is one.

    Args:
        stated: Values by keyword; None counts as not stated.
        study_file_path: A study file, whose values the keywords overrule.
        entry: The training function as ``module:function``; None if it is the study file's.

    Raises:
        InvalidSpec: A value is wrong; the text names its keyword.
    """
    table: dict[str, Any] = {}
    source = "find_schedule"
    if study_file_path is not None:
        table = study_file.read_table(study_file_path)
        source = str(study_file_path) if not stated else f"find_schedule with {study_file_path}"
    _require_python(table, entry)
    known = keywords()
    if (space := stated.get(SPACE)) is not None:
        _put_space(table, space)
    for keyword, value in stated.items():
        if value is not None and keyword != SPACE:
            plain = DIRECTIONS.get(value, value) if keyword == "direction" else value
            _put(table, known[keyword], plain)
    table.setdefault("name", DEFAULT_NAME)
    _spread_level(table, stated.get("lr_max"))
    if entry is not None:
        _put(table, "task.kind", "python")
        _put(table, "task.entry", entry)
    try:
        return study_file.validated(table, source)
    except InvalidSpec as error:
        raise InvalidSpec(_with_keywords(str(error), known)) from None


def _require_python(table: Mapping[str, Any], entry: str | None) -> None:
    task = table.get("task", {})
    kind = task.get("kind", "python") if isinstance(task, Mapping) else "python"
    if entry is not None and kind != "python":
        raise InvalidSpec(
            f"find_schedule: the study file has task.kind = {kind!r}, which trains without a "
            "function of yours; leave train out, or use a file with kind = 'python'"
        )
    if entry is None and not task:
        raise InvalidSpec(
            "find_schedule: train is missing: give a function that trains one run, or a study_file"
        )


def _put(table: dict[str, Any], dotted: str, value: Any) -> None:
    *parts, key = dotted.split(".")
    for part in parts:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InvalidSpec(f"find_schedule: {part} of the study file is not a table")
        table = inner
    table[key] = value


def _put_space(table: dict[str, Any], space: Any) -> None:
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        raise InvalidSpec(
            f"find_schedule: space = {space!r}: must be a mapping of names to settings, such as "
            '{"weight_decay": (1e-5, 1e-2, "log")}'
        )
    search = table.setdefault("search", {})
    inner = search.setdefault("space", {}) if isinstance(search, dict) else None
    if not isinstance(inner, dict):
        raise InvalidSpec("find_schedule: search.space of the study file is not a table")
    inner.update(space)


def _spread_level(table: dict[str, Any], lr_max: Any) -> None:
    """Let a pair of ``lr_max`` be the range that is searched, and its geometric middle the level
    that the original has; and a level that is stated alone bring a floor with it."""
    if lr_max is None:
        return
    schedule = table["schedule"]
    if isinstance(lr_max, tuple | list):
        pair = [float(each) for each in lr_max if isinstance(each, int | float)]
        if len(pair) != 2 or len(lr_max) != 2 or not 0 < pair[0] < pair[1]:  # noqa: PLR2004
            raise InvalidSpec(
                f"find_schedule: lr_max = {lr_max!r}: must be a number, or (low, high) with "
                "0 < low < high; space_lr_max takes a list of levels"
            )
        _put(table, "search.space.lr_max", [*pair, "log"])
        schedule["lr_max"] = float(f"{(pair[0] * pair[1]) ** 0.5:.{DIGITS}g}")
    level = schedule["lr_max"]
    if "lr_min" not in schedule and isinstance(level, int | float) and level > 0:
        schedule["lr_min"] = float(f"{FLOOR_SHARE * level:.12g}")


def _with_keywords(text: str, known: Mapping[str, str]) -> str:
    """A message about keys, with the keywords in their place."""
    for keyword, dotted in known.items():
        if "." in dotted:
            text = re.sub(rf"(?<![\w.]){re.escape(dotted)}(?![\w.])", keyword, text)
    return text
