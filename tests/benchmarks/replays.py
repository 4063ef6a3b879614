"""Replays of recorded curves, as the command prints them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pruning

NAMES = {"none", "asha-averaged", "former", "ours"} | {
    f"{pruner}-{signal}"
    for pruner in ("median", "halving", "hyperband")
    for signal in ("raw", "averaged")
}


def replayed(file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    options = ["--replays", "4", "--json", "--workers", "1,4", *more]
    assert pruning.main([str(file), "--processes=1", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["file"] == str(file)
    assert set(printed) == {"file", "policies"}
    rows: list[dict[str, Any]] = printed["policies"]
    return rows
