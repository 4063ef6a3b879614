"""``KDECAY_STORAGE_FILE``: the URL of the database from a file, as secrets are mounted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kdecay_search.credentials import withheld
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay, simulated_study, warm


def run(
    alone: Kdecay, file: Path, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in alone.environment.items() if k != "KDECAY_STORAGE"}
    own |= {"KDECAY_STORAGE_FILE": str(file)} | more
    return warm().run(arguments, own, TIMEOUT_SECONDS)


@pytest.mark.parametrize("end", ["", "\n", "\r\n\n"])
def test_url_is_what_the_file_holds(alone: Kdecay, tmp_path: Path, end: str) -> None:
    file = tmp_path / "url"
    file.write_bytes(f"{alone.url}{end}".encode())
    alone.run("launch", simulated_study(tmp_path, name="filed"), "--workers", "0", "--detach")
    assert "filed" in run(alone, file, "list").stdout


def test_local_workers_get_it_too(alone: Kdecay, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(str(alone.url))
    study = simulated_study(tmp_path, name="filed", search__seeds=1)
    launched = run(alone, file, "launch", study, "--workers", "1")
    assert launched.returncode == 0, launched.stderr
    assert alone.json("status", "filed")["state"] == "done"


def test_option_and_variable_take_precedence(alone: Kdecay, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert run(alone, missing, "list", "--storage", str(alone.url)).returncode == 0
    assert run(alone, missing, "list", KDECAY_STORAGE=str(alone.url)).returncode == 0


def test_what_is_wrong_with_the_file_is_one_line(alone: Kdecay, tmp_path: Path) -> None:
    file = tmp_path / "url"
    wrong = {b"": "one line", b"\n\n": "one line", b"s3cret\ns3cret": "one line",
             b"\xff\xfes3cret": "one line", None: "No such file"}  # fmt: skip
    for content, said in wrong.items():
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        done = run(alone, file, "list")
        (line,) = done.stderr.splitlines()
        assert (done.returncode, said in line, "s3cret" in line) == (2, True, False)
        assert f"KDECAY_STORAGE_FILE={file}: " in line
    done = run(alone, tmp_path, "list")
    assert (done.returncode, "Is a directory" in done.stderr) == (2, True)


def test_help_needs_no_file(alone: Kdecay, tmp_path: Path) -> None:
    assert "KDECAY_STORAGE_FILE" in run(alone, tmp_path / "missing", "list", "--help").stdout


def test_user_code_does_not_get_the_name_of_the_file() -> None:
    assert withheld(os.environ | {"KDECAY_STORAGE_FILE": "/x"}) >= {"KDECAY_STORAGE_FILE"}
