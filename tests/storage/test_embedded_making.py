"""The data folder is made whole or not at all, and those of earlier versions are taken over."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded_homes import BINARIES, Home, initdb, new_home
from tests.support.wait import wait_for


def keepers(home: Home) -> list[int]:
    """The keepers of a home, found by what they were started with."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(home.path).encode() in words and any(b"start_keeper" in word for word in words):
            found.append(int(entry.name))
    return found


def halves(home: Home) -> list[Path]:
    return list(home.path.glob("postgres.*-*"))


@pytest.mark.parametrize("seconds", [0.05, 0.7])
def test_a_first_start_that_is_killed_leaves_nothing(seconds: float) -> None:
    with new_home() as home:
        first = home.begin()
        wait_for(lambda: halves(home), "the making of the folder")
        time.sleep(seconds)
        for pid in keepers(home):
            os.kill(pid, signal.SIGKILL)
        first.kill()
        first.communicate()
        with home.user() as user:
            assert user.execute("SELECT current_user") == [("kdecay",)]
        assert halves(home) == []


def test_an_interrupted_command_leaves_a_whole_folder() -> None:
    """The keeper is in a session of its own, and ends what it began."""
    with new_home() as home:
        first = home.begin()
        wait_for(lambda: halves(home), "the making of the folder")
        assert [os.getsid(pid) for pid in keepers(home)] != [os.getsid(first.pid)]
        first.send_signal(signal.SIGINT)
        first.communicate()
        wait_for(lambda: not keepers(home), "the keeper's end")
        assert (home.data / "PG_VERSION").exists()
        assert halves(home) == []
        with home.user() as user:
            assert user.execute("SELECT 1") == [(1,)]


def test_several_first_commands_make_one_server() -> None:
    with new_home() as home:
        started = [home.begin() for _ in range(4)]
        answers = {process.stdout.readline() for process in started if process.stdout}
        assert len(answers) == 1, answers
        assert len(home.servers()) == 1
        for process in started:
            process.communicate(timeout=240)


# ---- earlier versions -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def earlier() -> Iterator[Home]:
    """A home as the version before made it: trust, a superuser, tables that belong to it."""
    with new_home() as home:
        prefix = initdb(home)
        with (home.data / "postgresql.conf").open("a") as settings:
            settings.write("lc_messages = 'C'\n")
        statements = [
            "CREATE TYPE runstate AS ENUM ('RUNNING', 'WAITING')",
            "CREATE TABLE runs (id serial PRIMARY KEY, state runstate)",
            "INSERT INTO runs (state) VALUES ('WAITING')",
        ]
        subprocess.run(
            [*prefix, str(BINARIES / "postgres"), "--single", "-D", str(home.data), "postgres"],
            input="\n".join(statements) + "\n", text=True, check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        for name in ("postgres.users", "postgres.starting"):
            (home.path / name).touch()
        yield home


def test_a_home_in_use_by_the_earlier_version_is_refused(earlier: Home) -> None:
    with (earlier.path / "postgres.users").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert "commands of an earlier version" in earlier.error()
    assert "trust" in (earlier.data / "pg_hba.conf").read_text()


def test_a_home_of_the_earlier_version_is_taken_over(earlier: Home) -> None:
    with earlier.user() as user:
        assert user.execute("SELECT id, state FROM runs") == [(1, "WAITING")]
        user.execute("ALTER TABLE runs ADD note text", "ALTER TYPE runstate ADD VALUE 'FAIL'",
                     "INSERT INTO runs (state) VALUES ('RUNNING')")  # fmt: skip
        assert user.execute("SHOW is_superuser") == [("off",)]
        assert user.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'runs'") == [
            ("kdecay",)
        ]
    assert "trust" not in (earlier.data / "pg_hba.conf").read_text()
    assert not (earlier.path / "postgres.users").exists()
    assert "no studies yet" in earlier.kdecay("list")


def test_half_a_folder_of_the_earlier_version_is_set_aside() -> None:
    with new_home() as home:
        initdb(home)
        (home.data / "global" / "pg_control").unlink()
        lines = (home.data / "postgresql.conf").read_text().splitlines(keepends=True)
        (home.data / "postgresql.conf").write_text("".join(lines[:-2]))
        with home.user() as user:
            assert user.execute("SELECT 1") == [(1,)]
        (aside,) = halves(home)
        assert aside.name.startswith("postgres.unfinished-")
        assert (aside / "PG_VERSION").exists()


def test_an_empty_folder_is_filled_also_through_a_link() -> None:
    with new_home() as home:
        home.path.mkdir()
        large = home.path.parent / "large disk" / "pg"
        large.mkdir(parents=True, mode=0o700)
        home.data.symlink_to(large)
        with home.user() as user:
            assert user.execute("SELECT 1") == [(1,)]
        assert home.data.is_symlink()
        assert (large / "PG_VERSION").exists()


def test_data_of_an_unknown_postgres_is_one_line() -> None:
    with new_home() as home:
        with home.user():
            pass
        (home.data / "PG_VERSION").write_text("17\n")
        error = home.error()
        assert "was made by Postgres 17; this installation has 18 and 16" in error
