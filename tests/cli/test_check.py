"""``kdecay check``."""

from __future__ import annotations

import re
from pathlib import Path

from kdecay_search.search import runs_at_most
from kdecay_search.study.file import load
from tests.cli.commands import STUDY, Run, closed_port

STEPS = """
name = "steps"
[task]
kind = "python"
entry = "mine:train"
steps = 2000
report_every = 500
"""


def numbers(line: str) -> list[int]:
    return [int(cell.replace(",", "")) for cell in re.findall(r"\d[\d,]*", line)]


def test_plan_and_its_sums(run_kdecay: Run, study_file: Path) -> None:
    overrides = ["search.sampler=grid", "search.seeds=40"]
    result = run_kdecay("check", study_file.name, *(x for o in overrides for x in ("--set", o)))
    assert result.returncode == 0
    assert result.stderr == ""
    assert "small: small.toml is valid" in result.stdout
    rows = [numbers(line) for line in result.stdout.splitlines() if re.match(r" *\d+ +\d", line)]
    announced = runs_at_most(load(study_file, overrides))
    assert rows == [
        [stage, candidates, 40, runs, 4 * runs]
        for stage, (candidates, runs) in enumerate(announced, start=1)
    ]
    total = next(line for line in result.stdout.splitlines() if line.strip().startswith("all"))
    runs = sum(runs for _, runs in announced)
    assert numbers(total) == [runs, 4 * runs]


def test_plan_of_a_sampler(run_kdecay: Run, study_file: Path) -> None:
    overrides = ["search.sampler=tpe", "search.trials=6", "search.seeds=2"]
    result = run_kdecay("check", study_file.name, *(x for o in overrides for x in ("--set", o)))
    assert "tpe search, k from 1 to 5; up to 2 terms" in result.stdout
    assert [6, 2, 12, 48] in [numbers(line)[1:] for line in result.stdout.splitlines()]


def test_plan_of_a_study_that_counts_steps(run_kdecay: Run, tmp_path: Path) -> None:
    (tmp_path / "steps.toml").write_text(STEPS)
    result = run_kdecay("check", "steps.toml")
    assert "polynomial schedule; 2,000 steps per run" in result.stdout
    assert "epoch" not in result.stdout
    rows = [numbers(line) for line in result.stdout.splitlines() if re.match(r" *\d+ +\d", line)]
    assert all(steps == 2000 * runs for *_, runs, steps in rows)


def test_brackets_in_a_path(run_kdecay: Run, tmp_path: Path) -> None:
    folder = tmp_path / "[draft]"
    folder.mkdir()
    (folder / "small.toml").write_text(STUDY)
    result = run_kdecay("check", "[draft]/small.toml")
    assert result.returncode == 0
    assert "[draft]/small.toml is valid" in result.stdout


def test_long_path_is_not_broken(run_kdecay: Run, tmp_path: Path) -> None:
    """In a pipe, where rich takes lines to be 80 characters wide."""
    path = tmp_path / ("a long name with spaces " * 6 + ".toml")
    path.write_text(STUDY)
    assert f"{path} is valid" in run_kdecay("check", str(path), COLUMNS="80").stdout


def test_home_and_database_are_not_touched(
    run_kdecay: Run, study_file: Path, tmp_path: Path
) -> None:
    url = f"postgresql://me@127.0.0.1:{closed_port()}/kdecay"
    assert run_kdecay("check", study_file.name, KDECAY_STORAGE=url).returncode == 0
    assert not (tmp_path / "home").exists()
