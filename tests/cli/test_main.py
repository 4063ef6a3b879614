"""Options of ``kdecay`` itself, wrong usage, and what a command imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdecay_search import __version__
from kdecay_search.cli.options import repeated_devices
from tests.cli.commands import Run


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_a_traceback(run_kdecay: Run, place: int) -> None:
    arguments = ["check", "nowhere.toml"]
    arguments.insert(place, "--debug")
    result = run_kdecay(*arguments)
    assert "Traceback (most recent call last)" in result.stderr
    assert "InvalidSpec: nowhere.toml: no such file" in result.stderr
    assert result.returncode == 2


def test_version(run_kdecay: Run) -> None:
    result = run_kdecay("--version")
    assert (result.returncode, result.stdout) == (0, f"kdecay-search {__version__}\n")


@pytest.mark.parametrize("arguments", [["bogus"], ["schedule", "--total", "0"]])
def test_wrong_usage(run_kdecay: Run, arguments: list[str]) -> None:
    result = run_kdecay(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Error:" in result.stderr
    assert "Traceback" not in result.stderr


HEAVY = ("torch", "torchvision", "sklearn", "optuna", "pydantic", "sqlalchemy", "scipy", "numpy")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import kdecay_search", (*HEAVY, "typer", "rich")),
        ("run('--help')", (*HEAVY, "plotly", "kdecay_search.schedules.export")),
        ("run('check', 'small.toml')", ("torch", "torchvision", "sklearn", "optuna")),
        ("run('schedule', '--as', 'csv')", ("torch", "optuna", "scipy", "sqlalchemy")),
    ],
)
def test_commands_import_only_what_they_need(
    study_file: Path, statement: str, absent: tuple[str, ...]
) -> None:
    program = (
        "import contextlib, sys\n"
        "def run(*arguments):\n"
        "    sys.argv = ['kdecay', *arguments]\n"
        "    from kdecay_search.cli.main import main\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main()\n"
        f"{statement}\n"
        "print('imported:', *sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=study_file.parent,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    last = result.stdout.splitlines()[-1]
    assert last.startswith("imported: ")
    imported = set(last.split())
    assert "kdecay_search" in imported
    assert sorted(imported & set(absent)) == []


def test_a_command_that_resumes_shares_the_devices_in_the_same_way() -> None:
    assert repeated_devices("auto", 1, 1) == []
    assert repeated_devices("cpu", 2, 1) == ["--device", "cpu", "--devices-per-run", "2"]
    assert repeated_devices("auto", 1, 4) == ["--fuse", "4"]
