"""``TMPDIR``: its path may be too long for Unix sockets, or it may not be usable at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdecay_search import paths
from kdecay_search.doctor.folders import temporary_checks
from kdecay_search.errors import KDecayError, TaskError
from kdecay_search.training import decoder_processes
from kdecay_search.user_code import command, python
from tests.support.kdecay_command import (
    KDECAY,
    TIMEOUT_SECONDS,
    Kdecay,
    simulated_study,
    warm,
)
from tests.user_code.programs import function, program

LONGEST_PATH = 107
"""Bytes of the longest path of a socket on Linux."""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, which pytest's folders need not have."""
    folder = Path(tempfile.mkdtemp(prefix="t"))
    yield folder
    shutil.rmtree(folder)


def folder_of_length(within: Path, length: int) -> Path:
    folder = within
    while (missing := length - len(str(folder)) - 1) > 0:
        part = 200 if missing > 202 else missing
        folder = folder / ("x" * part)
    folder.mkdir(parents=True, exist_ok=True)
    assert len(str(folder)) == length
    return folder


def run(
    kdecay: Kdecay, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = kdecay.environment | variables
    return warm().run(arguments, environment, TIMEOUT_SECONDS, folder)


# A process that has to exchange a file descriptor needs the fork server's socket and another one.
EXCHANGE = """
import multiprocessing, os, tempfile
from multiprocessing.reduction import DupFd
assert tempfile.gettempdir() == os.environ["TMPDIR"]
context = multiprocessing.get_context("forkserver")
queue = context.Queue()
process = context.Process(target=queue.put, args=(12.5,))
process.start()
error = queue.get()
process.join()
reading, writing = os.pipe()
os.write(DupFd(writing).detach(), b"1")
assert os.read(reading, 1) == b"1"
return error
"""


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("length", [71, 76, 103])
def test_user_code_may_start_processes_under_a_long_path(
    monkeypatch: pytest.MonkeyPatch, short: Path, length: int
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder_of_length(short, length)))
    assert python.train(function(EXCHANGE, task={"epochs": 1})) == 12.5


def test_kdecay_try_runs_it_too(alone: Kdecay, own_folder: Path, short: Path) -> None:
    function(EXCHANGE)
    file = own_folder / "mine.toml"
    file.write_text('name = "mine"\n[task]\nkind = "python"\nentry = "mine:train"\nepochs = 1\n')
    temporary = folder_of_length(short, 103)
    done = subprocess.run(
        [*KDECAY, "try", str(file)],
        env=alone.environment | {"TMPDIR": str(temporary)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert "the end: returned 12.50 %" in done.stdout, done.stdout + done.stderr


def test_sockets_of_every_length_fit() -> None:
    """multiprocessing names a folder and a socket in it."""
    script = (
        "import tempfile; from multiprocessing import connection; tempfile.tempdir = '/tmp';"
        "print(len(connection.arbitrary_address('AF_UNIX')) - len('/tmp'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(done.stdout) == len(decoder_processes.LISTENER)
    assert paths.SOCKET_BYTES <= LONGEST_PATH


def test_no_place_for_sockets_is_one_line(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    temporary = folder_of_length(short, 103)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(decoder_processes, "socket_parents", lambda: [temporary])
    with pytest.raises(KDecayError, match="set TMPDIR to a folder with a path of at most 71 bytes"):
        decoder_processes.keep_sockets_short.__wrapped__()


# ---- a folder that cannot be used -------------------------------------------------------------


@pytest.fixture(params=["missing", "file", "unwritable"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A folder that takes no file, and the reason."""
    if request.param == "unwritable":
        return Path("/sys/kernel"), "Permission denied"
    path = tmp_path / "unusable"
    if request.param == "missing":
        return path, "No such file or directory"
    path.touch()
    return path, "Not a directory"


def test_a_folder_that_cannot_be_used_is_one_line_and_uses_no_attempt(
    alone: Kdecay, tmp_path: Path
) -> None:
    temporary = tmp_path / "missing"
    file = simulated_study(tmp_path, name="mine", search__k_max=1.0)
    alone.run("launch", file, "--detach", "--workers", "0")
    for arguments, lines in (
        (["launch", file, "--workers", "1"], 1),
        (["worker", "--drain"], 1),
        (["worker", "--drain", "--per-device", "2"], 2),
        (["try", file], 1),
    ):
        done = run(alone, tmp_path, *arguments, TMPDIR=str(temporary))
        assert done.returncode == 2, done.stdout + done.stderr
        fix = "set TMPDIR to a folder that this user can write to"
        line = f"kdecay: TMPDIR={temporary}: No such file or directory; {fix}"
        assert done.stderr.splitlines() == [line] * lines, arguments
        counts = alone.json("status", "mine")["trials"]
        assert counts["failed"] == counts["running"] == 0


@pytest.mark.usefixtures("own_folder")
def test_a_folder_that_is_gone_before_a_run_fails_no_attempt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A TaskError ends the worker and leaves the run to others."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        TaskError, match=r"gone/kdecay-run-\w+: No such file or directory; this worker"
    ):
        command.train(program("true", task={"epochs": 1}))


def test_doctor_says_so(monkeypatch: pytest.MonkeyPatch, unusable: tuple[Path, str]) -> None:
    temporary, reason = unusable
    monkeypatch.setenv("TMPDIR", str(temporary))
    (found,) = temporary_checks()
    assert (found.subject, found.severity) == ("temporary", "error")
    assert found.value == f"TMPDIR={temporary}: {reason}"
    assert found.fix == "set TMPDIR to a folder that this user can write to"


def test_commands_that_train_nothing_do_not_need_it(alone: Kdecay, tmp_path: Path) -> None:
    done = run(alone, tmp_path, "list", TMPDIR=str(tmp_path / "missing"))
    assert done.returncode == 0, done.stderr
