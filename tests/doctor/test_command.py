"""The command ``kdecay doctor``, and its time limit.

tests/cli/test_shadowed_modules.py shows what it says where a worker can work.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdecay_search.cli.doctor import _storage_checks, _stored_study
from kdecay_search.doctor.check import Check, Severity, ok, within
from kdecay_search.doctor.database import database_checks
from kdecay_search.storage import Storage
from tests.doctor.databases import contents
from tests.support.kdecay_command import Kdecay
from tests.support.postgres_servers import free_port


def test_checks_that_hang_end_with_the_results_so_far() -> None:
    ended = threading.Event()

    def hangs() -> Iterator[Check]:
        yield ok("disk", "there")
        ended.wait(30)

    checks = list(within(0.2, "disk", hangs, "run dmesg"))
    ended.set()
    assert [check.severity for check in checks] == [Severity.OK, Severity.ERROR]
    assert checks[-1].value == "no answer within 0.2 s"


def test_checks_that_raise_are_an_error() -> None:
    def broken() -> Iterator[Check]:
        yield ok("disk", "there")
        raise ZeroDivisionError("0")

    assert [c.severity for c in within(9, "disk", broken, "report it")] == [
        Severity.OK,
        Severity.ERROR,
    ]


def test_exit_code_2_and_json_for_errors(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    elsewhere = Kdecay(home, f"postgresql://me:hunter2@127.0.0.1:{free_port()}/x")
    done = elsewhere.run("doctor", "--study", "any", "--checkpoints", str(file), "--json", code=2)
    printed = json.loads(done.stdout)
    assert printed["ok"] is False
    errors = [c["subject"] for c in printed["checks"] if c["severity"] == "error"]
    assert errors == ["server", "study", "temporary", "checkpoints"]
    assert all((c["fix"] is None) == (c["severity"] == "ok") for c in printed["checks"])
    assert "hunter2" not in done.stdout + done.stderr


def test_unknown_study_is_an_error_and_creates_no_tables(storage: Storage, empty: str) -> None:
    for url, reason in (
        (storage.secret_url, "no study named 'no'"),
        (empty, "there are no studies"),
    ):
        stored, (check,) = _stored_study(url, "no", list(database_checks(url, 1)))
        assert (stored, check.severity, reason in check.value) == (None, Severity.ERROR, True)
    assert contents(empty) == [[], []]


def test_a_malformed_url_is_an_error_without_its_password() -> None:
    (check,) = _storage_checks("postgresql://me:Abc123@Def456/@127.0.0.1:5432/db")
    assert (check.subject, check.severity) == ("server", Severity.ERROR)
    assert not re.search("Abc123|Def456", f"{check.value} {check.fix}")


def test_unusable_home_has_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path / "file"))
    (check,) = _storage_checks(None)
    assert (check.subject, check.severity) == ("server", Severity.ERROR)
    assert "KDECAY_HOME" in (check.fix or "")


def test_file_and_stored_study_exclude_each_other(kdecay: Kdecay) -> None:
    assert "not both" in kdecay.run("doctor", "a.toml", "--study", "b", code=2).stderr
