"""The command in an empty folder, with an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import STUDY, Run


@pytest.fixture
def run_kdecay(tmp_path: Path) -> Run:
    """Runs ``kdecay`` in an empty folder, with an empty home."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KDECAY_")}
    environment = kept | {"KDECAY_HOME": str(tmp_path / "home"), "COLUMNS": "200"}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kdecay_search", *arguments],
            cwd=tmp_path,
            env=environment | more,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    return path
