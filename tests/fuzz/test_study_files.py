"""Any study file is either a study that can be planned, or refused in one line.

``make fuzz`` tries 20,000 of them; ``make test`` a few hundred.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import sqlalchemy
from hypothesis import HealthCheck, assume, event, given, settings

from kdecay_search.cli.main import main
from kdecay_search.errors import KDecayError
from kdecay_search.search import make_plan, runs_at_most
from kdecay_search.storage import Storage, records
from kdecay_search.storage.deletion import delete_study
from kdecay_search.study.file import differences, from_json, load
from tests.fuzz.study_files import StudyFile, study_files

FILES = int(os.environ.get("KDECAY_FUZZ_FILES", "300"))
COMMANDS = max(20, FILES // 50)
"""Number of files that go through the commands themselves, check and launch."""
LONGEST_LINE = 1000
HANG_SECONDS = 30
MAX_LAUNCHED_RUNS = 50
"""Runs of the largest study that is launched, since queueing takes milliseconds a run."""

fuzzed = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                           HealthCheck.function_scoped_fixture],
)  # fmt: skip


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Break off what takes so long that it may never end."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end within {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def written(folder: Path, file: StudyFile) -> Path:
    path = folder / "study.toml"
    path.write_bytes(file.content)
    return path


def is_one_line(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= LONGEST_LINE


@settings(fuzzed, max_examples=FILES)
@given(file=study_files())
def test_a_study_file_can_be_planned_or_is_refused_in_one_line(
    tmp_path: Path, file: StudyFile
) -> None:
    with no_hang():
        try:
            spec = load(written(tmp_path, file), file.overrides)
        except KDecayError as refused:
            spec, message = None, str(refused)
        event("accepted" if spec else "refused")
        if spec is None:
            assert is_one_line(message)
            return
        again = from_json(spec.to_json())
        assert (again, again.to_json(), differences(spec, again)) == (spec, spec.to_json(), [])
        counts = runs_at_most(spec)
        assert counts
        assert all(1 <= candidates <= runs for candidates, runs in counts)
        assert len(make_plan(spec, []).stages) == 1
        schedule = spec.schedule_for((spec.search.k_min,))
        total = spec.task.length.total
        assert schedule(total, total) == spec.schedule.lr_min


@pytest.mark.parametrize(
    "file",
    [
        StudyFile(b"k" * 60_000 + b" = 1"),
        StudyFile(b".".join([b"x"] * 3000) + b" = 1"),
        StudyFile(b"# a comment\n" * 10_000),
        StudyFile(b"name = 'x'", ("k" * 60_000 + "=1",)),
        StudyFile(b"name = 'x'", ("name." * 10_000 + "x=1",)),
        StudyFile(b"name = 'x'", ("k" * 60_000,)),
        StudyFile(b"name = 'x'\nname." + b"k" * 60_000 + b" = 1"),
        StudyFile(
            b"name = 'x'\ntask.kind = 'simulated'\nconfirm.baselines = ['" + b"k" * 60_000 + b"']"
        ),
    ],
    ids=lambda file: str(file.content[:12] + repr(file.overrides)[:12].encode()),
)
def test_what_is_long_is_refused_in_a_short_line(tmp_path: Path, file: StudyFile) -> None:
    with pytest.raises(KDecayError) as refused:
        load(written(tmp_path, file), file.overrides)
    assert is_one_line(str(refused.value))


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(KDecayError, match="larger than 64 KiB"):
        load("/dev/zero")


@pytest.fixture(scope="module")
def database(storage_url: str) -> Iterator[Storage]:
    """A database with one study of another name in it."""
    name = f"fuzz_{uuid.uuid4().hex}"
    admin = Storage(storage_url)
    with admin.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    admin.close()
    storage = Storage(storage_url.replace("/postgres?", f"/{name}?"))
    yield storage
    storage.close()


def contents(storage: Storage) -> list[tuple[str, str | None]]:
    """Every table's name, and a digest of all that it holds."""
    with storage.engine.connect() as connection:
        run = connection.exec_driver_sql
        names = run("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        digest = "SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t"
        return [(name, run(digest.format(name)).scalar()) for (name,) in names.all()]


def runs(file: StudyFile, path: str) -> int:
    """Trials that a launch queues at once."""
    plan = make_plan(load(path, file.overrides), [])
    return len(plan.enqueue) + len(plan.skip)


def command(*arguments: str) -> tuple[int, str, str]:
    """The real entry point in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["kdecay", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), no_hang():
            main()
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before


@settings(fuzzed, max_examples=COMMANDS)
@given(file=study_files())
def test_the_commands_refuse_in_one_line_and_leave_the_database_as_it_was(
    tmp_path: Path, database: Storage, file: StudyFile
) -> None:
    path = str(written(tmp_path, file))
    overrides = [f"--set={override}" for override in file.overrides]
    before = contents(database)
    checked, out, err = command("check", path, *overrides)
    assume(checked or runs(file, path) <= MAX_LAUNCHED_RUNS)
    options = ["--workers=0", "--detach", f"--storage={database.secret_url}"]
    launched, _, launch_err = command("launch", path, *overrides, *options)
    for code, message in ((checked, err), (launched, launch_err)):
        assert code in (0, 2)
        assert "Traceback" not in message
        assert "unexpected" not in message
        if code == 2:
            assert is_one_line(message.removesuffix("\n"))
    event(f"check {checked}, launch {launched}")
    if launched == 2:
        assert contents(database) == before
    else:
        for name in records.study_names(database):
            delete_study(database, name)
    assert (checked, out) == (2, "") or launched == 0
