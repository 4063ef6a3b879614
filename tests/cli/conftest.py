"""The command in an empty folder, with an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import STUDY, Run
from tests.support.kdecay_command import TIMEOUT_SECONDS, warm


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a user with an empty home."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KDECAY_")}
    return kept | {"KDECAY_HOME": str(tmp_path / "home"), "COLUMNS": "200"}


@pytest.fixture
def run_python(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Runs Python in an empty folder, with an empty home."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment | more,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    return run


@pytest.fixture
def run_kdecay(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Runs ``kdecay`` in an empty folder, with an empty home."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return warm().run(arguments, environment | more, TIMEOUT_SECONDS, tmp_path)

    return run


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    return path
