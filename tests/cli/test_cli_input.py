"""The real command on input that needs no running database, and above all on bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdecay_search import __version__
from kdecay_search.errors import StorageError
from kdecay_search.search import runs_at_most
from kdecay_search.storage import Storage
from kdecay_search.study.file import load

Kdecay = Callable[..., "subprocess.CompletedProcess[str]"]

STUDY = """
name = "small"
[task]
kind = "simulated"
epochs = 4
"""
IMAGES = """
name = "pictures"
[task]
kind = "images"
epochs = 2
[task.data]
name = "image-folder"
root = "nowhere"
"""
SECRET = "hunter2"


@pytest.fixture
def kdecay(tmp_path: Path) -> Kdecay:
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


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a refused command."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("kdecay: ")
    return lines[0]


def closed_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


# ---- bad study files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (STUDY + "epoch = 3", "task.epoch: unknown key; did you mean task.epochs?"),
        (STUDY + "epoch_seconds = '1'", 'task.epoch_seconds = "1": must be a valid number'),
        (STUDY + "[search]\nk_min = 4\nk_max = 2", "search.k_max = 2: must be at least"),
        (STUDY + "[schedule]\nlr_min = 1\nlr_max = 0.1", "schedule.lr_max = 0.1: must be at least"),
        (IMAGES + "[task.model]\nname = 'vgg'", "task.model.name = \"vgg\": must be 'resnet'"),
        (STUDY.replace('"small"', '"a/b"'), 'name = "a/b": must start with'),
        ("", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\xff\x00", "is not a text file"),
    ],
    ids=[
        "unknown key",
        "wrong type",
        "k_min above k_max",
        "lr_min above lr_max",
        "unknown model",
        "name with a slash",
        "empty file",
        "binary file",
    ],
)
def test_bad_study_file_is_refused_in_one_line(
    kdecay: Kdecay, tmp_path: Path, content: str | bytes, told: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    line = refusal(kdecay("check", "bad.toml"))
    assert line.startswith("kdecay: bad.toml: ")
    assert told in line


@pytest.mark.parametrize("file", ["nowhere.toml", "."])
def test_file_that_cannot_be_read_is_refused_in_one_line(kdecay: Kdecay, file: str) -> None:
    assert f"kdecay: {file}: " in refusal(kdecay("check", file))


def test_launch_refuses_a_bad_study_file_before_it_starts_anything(
    kdecay: Kdecay, study_file: Path, tmp_path: Path
) -> None:
    line = refusal(kdecay("launch", study_file.name, "--set", "search.k_max=0.5", "--json"))
    assert "--set: search.k_max = 0.5: must be at least search.k_min = 1" in line
    assert not (tmp_path / "home").exists()


def test_missing_data_folder_is_refused_by_check(kdecay: Kdecay, tmp_path: Path) -> None:
    (tmp_path / "pictures.toml").write_text(IMAGES)
    line = refusal(kdecay("check", "pictures.toml"))
    assert f"task.data.root = {tmp_path}/nowhere: no such folder" in line


def test_missing_data_folder_is_refused_by_launch(kdecay: Kdecay, tmp_path: Path) -> None:
    (tmp_path / "pictures.toml").write_text(IMAGES)
    line = refusal(kdecay("launch", "pictures.toml", "--workers", "1"))
    assert "no such folder" in line
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["launch", "worker"])
def test_unknown_device_is_refused_in_one_line(
    kdecay: Kdecay, study_file: Path, command: str
) -> None:
    file = [study_file.name] if command == "launch" else []
    line = refusal(kdecay(command, *file, "--device", "tpu"))
    assert line == "kdecay: --device tpu: must be auto, cpu, cuda, cuda:N or all"


# ---- databases that cannot be used ----------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "by_environment"), [("launch", False), ("list", True), ("worker", False)]
)
def test_unreachable_database_is_refused_in_one_line(
    kdecay: Kdecay, study_file: Path, command: str, by_environment: bool
) -> None:
    port = closed_port()
    url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/kdecay"
    arguments = [command, *([study_file.name] if command == "launch" else [])]
    if by_environment:
        result = kdecay(*arguments, KDECAY_STORAGE=url)
    else:
        result = kdecay(*arguments, "--storage", url)
    refused = [line for line in result.stderr.splitlines() if line.startswith("kdecay: ")]
    assert len(refused) == 1
    assert f"127.0.0.1:{port}" in refused[0]
    assert "Connection refused" in refused[0]
    assert SECRET not in result.stderr
    if command != "worker":  # a worker logs its name first
        refusal(result)
    assert result.returncode == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///studies.db", "sqlite is not supported; it must start with postgresql://"),
        ("me:hunter2@127.0.0.1/kdecay", "malformed"),
        ("postgresql://me:hunter2@127.0.0.1:port/kdecay", "malformed"),
    ],
)
def test_unusable_storage_url_is_refused_in_one_line(kdecay: Kdecay, url: str, told: str) -> None:
    line = refusal(kdecay("list", "--storage", url))
    assert told in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://127.0.0.1:{port}/kdecay?user=me&password=hunter2",
        "postgresql://127.0.0.1:{port}/kdecay?user=me&sslpassword=hunter2",
        "postgresql://me:pass@hunter2@127.0.0.1:{port}/kdecay",
        "postgresql://me:hunter2/x@127.0.0.1:{port}/kdecay",
        "postgresql://me:%68unter2@127.0.0.1:{port}/kdecay",
        "postgresql+asyncpg://me:hunter2@127.0.0.1:{port}/kdecay",
        "mysql://me:hunter2@127.0.0.1/kdecay",
        "mysql+nothing://me:hunter2@127.0.0.1/kdecay",
        "sqlite:///file?password=hunter2",
        "postgresql://me:hunter2@127.0.0.1:99999/kdecay",
        "postgresql://me:hunter2@127.0.0.1:{port}/kdecay?nonsense=1",
        "me:hunter2@127.0.0.1/kdecay",
        "hunter2",
    ],
)
def test_password_is_never_shown_however_it_is_written(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        Storage(url.format(port=closed_port()))
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert "hunter2" not in line
    assert "%68unter2" not in line


def test_password_is_not_in_the_traceback_either(kdecay: Kdecay) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:{closed_port()}/kdecay"
    result = kdecay("--debug", "list", "--storage", url)
    assert "Traceback" in result.stderr
    assert "StorageUnavailable" in result.stderr
    assert SECRET not in result.stderr + result.stdout


# ---- options of the command itself ----------------------------------------------------------


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_a_traceback_wherever_it_stands(kdecay: Kdecay, place: int) -> None:
    arguments = ["check", "nowhere.toml"]
    arguments.insert(place, "--debug")
    result = kdecay(*arguments)
    assert "Traceback (most recent call last)" in result.stderr
    assert "InvalidSpec: nowhere.toml: no such file" in result.stderr
    assert result.returncode == 2


def test_version_is_printed(kdecay: Kdecay) -> None:
    result = kdecay("--version")
    assert (result.returncode, result.stdout) == (0, f"kdecay-search {__version__}\n")


@pytest.mark.parametrize("arguments", [["bogus"], ["schedule", "--total", "0"]])
def test_wrong_usage_has_exit_code_two(kdecay: Kdecay, arguments: list[str]) -> None:
    result = kdecay(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Error:" in result.stderr
    assert "Traceback" not in result.stderr


HEAVY = ("torch", "torchvision", "sklearn", "optuna", "pydantic", "sqlalchemy", "scipy", "numpy")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import kdecay_search", (*HEAVY, "typer", "rich")),
        ("run('--help')", HEAVY),
        ("run('check', 'small.toml')", ("torch", "torchvision", "sklearn", "optuna")),
        ("run('schedule', '--as', 'csv')", ("torch", "optuna", "scipy", "sqlalchemy")),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(
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


# ---- schedule -------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 1000])
def test_csv_of_a_schedule_has_a_row_for_every_update_and_the_end(
    kdecay: Kdecay, total: int
) -> None:
    result = kdecay("schedule", "--ks", "2", "--total", str(total), "--as", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [int(row["step"]) for row in rows] == list(range(total + 1))
    assert float(rows[0]["learning_rate"]) == 0.1
    assert float(rows[-1]["learning_rate"]) == 0.001


@pytest.mark.parametrize("family", ["polynomial", "cosine", "exponential"])
def test_json_of_a_schedule_has_exact_ends_and_what_it_was_made_from(
    kdecay: Kdecay, family: str
) -> None:
    arguments = ["--family", family, "--ks", "1.5,4", "--lr-max", "0.3", "--lr-min", "0.007"]
    result = kdecay("schedule", *arguments, "--total", "50", "--as", "json")
    told = json.loads(result.stdout)
    rates = told.pop("learning_rates")
    assert (len(rates), rates[0], rates[-1]) == (51, 0.3, 0.007)
    assert rates == sorted(rates, reverse=True)
    assert told == {
        "family": family,
        "ks": [1.5, 4.0],
        "power": 1.0,
        "lr_max": 0.3,
        "lr_min": 0.007,
        "warmup": 0,
        "total": 50,
    }


def test_printed_values_are_those_of_the_paper(kdecay: Kdecay) -> None:
    result = kdecay("schedule", "--ks", "2", "--total", "10", "--as", "json")
    rates = json.loads(result.stdout)["learning_rates"]
    assert [round(rate, 5) for rate in rates[:4]] == [0.1, 0.09901, 0.09604, 0.09109]


def test_warm_up_of_a_schedule_rises_to_the_maximum(kdecay: Kdecay) -> None:
    result = kdecay("schedule", "--warmup", "4", "--total", "10", "--as", "json")
    rates = json.loads(result.stdout)["learning_rates"]
    assert rates[:5] == sorted(rates[:5])
    assert (max(rates), rates.index(max(rates)), rates[-1]) == (0.1, 4, 0.001)


@pytest.mark.parametrize(("total", "rows"), [(5, 6), (5000, 21)])
def test_table_of_a_schedule_draws_its_decay(kdecay: Kdecay, total: int, rows: int) -> None:
    result = kdecay("schedule", "--ks", "3", "--total", str(total))
    lines = result.stdout.splitlines()[1:]
    assert len(lines) == rows
    assert lines[0].split()[:2] == ["0", "0.1"]
    assert lines[-1].split() == [f"{total:,}", "0.001"]
    lengths = [line.count("█") for line in lines]
    assert (lengths[0], lengths[-1]) == (40, 0)
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ks", "two"], "--ks two: must be numbers"),
        (["--ks", "2,1"], "must strictly increase"),
        (["--ks", "nan"], "must be a finite number"),
        (["--lr-min", "1"], "must not be above lr_max=0.1"),
        (["--family", "cosine", "--power", "2"], "power=2.0 must be 1 in the cosine family"),
        (["--warmup", "9", "--total", "9"], "must be below total_steps=9"),
    ],
)
def test_impossible_schedule_is_refused_in_one_line(
    kdecay: Kdecay, arguments: list[str], told: str
) -> None:
    assert told in refusal(kdecay("schedule", *arguments))


# ---- check ----------------------------------------------------------------------------------


def numbers(line: str) -> list[int]:
    return [int(cell.replace(",", "")) for cell in re.findall(r"\d[\d,]*", line)]


def test_check_prints_the_plan_with_its_sums(kdecay: Kdecay, study_file: Path) -> None:
    result = kdecay("check", study_file.name, "--set", "search.seeds=40")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "small: small.toml is valid" in result.stdout
    rows = [numbers(line) for line in result.stdout.splitlines() if re.match(r" *\d+ +\d", line)]
    announced = runs_at_most(load(study_file, ["search.seeds=40"]))
    assert rows == [
        [stage, candidates, 40, runs, 4 * runs]
        for stage, (candidates, runs) in enumerate(announced, start=1)
    ]
    total = next(line for line in result.stdout.splitlines() if line.strip().startswith("all"))
    runs = sum(runs for _, runs in announced)
    assert numbers(total) == [runs, 4 * runs]


def test_check_of_a_sampler_plans_its_trials(kdecay: Kdecay, study_file: Path) -> None:
    overrides = ["search.sampler=tpe", "search.trials=6", "search.seeds=2"]
    result = kdecay("check", study_file.name, *(x for o in overrides for x in ("--set", o)))
    assert "tpe search, k from 1 to 5; up to 2 terms" in result.stdout
    assert [6, 2, 12, 48] in [numbers(line)[1:] for line in result.stdout.splitlines()]


def test_check_names_a_file_in_brackets_as_it_is(kdecay: Kdecay, tmp_path: Path) -> None:
    folder = tmp_path / "[draft]"
    folder.mkdir()
    (folder / "small.toml").write_text(STUDY)
    result = kdecay("check", "[draft]/small.toml")
    assert result.returncode == 0
    assert "[draft]/small.toml is valid" in result.stdout


def test_check_does_not_break_a_long_path(kdecay: Kdecay, tmp_path: Path) -> None:
    """In a pipe, where rich takes lines to be 80 characters wide."""
    path = tmp_path / ("a long name with spaces " * 6 + ".toml")
    path.write_text(STUDY)
    assert f"{path} is valid" in kdecay("check", str(path), COLUMNS="80").stdout


def test_check_touches_neither_home_nor_database(
    kdecay: Kdecay, study_file: Path, tmp_path: Path
) -> None:
    url = f"postgresql://me@127.0.0.1:{closed_port()}/kdecay"
    assert kdecay("check", study_file.name, KDECAY_STORAGE=url).returncode == 0
    assert not (tmp_path / "home").exists()
