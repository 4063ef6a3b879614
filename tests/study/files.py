"""Writes study files, and checks the error of those that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.errors import InvalidSpec
from kdecay_search.study.file import load
from tests.support.memory_studies import study_table


def toml(value: Any) -> str:
    """A JSON-like value as TOML, its tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def written(folder: Path, table: dict[str, Any]) -> Path:
    path = folder / "study.toml"
    lines = [f"{toml(key)} = {toml(value)}\n" for key, value in table.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def merged(table: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """``table`` with the value at a dotted key set."""
    key, dot, rest = dotted.partition(".")
    return table | {key: merged(table.get(key, {}), rest, value) if dot else value}


def one_line(path: Path, *overrides: str) -> str:
    """The error of a study file that is refused: always one line, which names the place."""
    with pytest.raises(InvalidSpec) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith((f"{path}: ", "--set"))
    return message


def refused(folder: Path, table: dict[str, Any], *overrides: str) -> str:
    """The error of this table as a study file."""
    return one_line(written(folder, table), *overrides)


def refused_with(folder: Path, **values: Any) -> str:
    """The error of a minimal simulated study with these values; ``__`` stands for a dot."""
    table = study_table()
    for key, value in values.items():
        table = merged(table, key.replace("__", "."), value)
    return refused(folder, table)
