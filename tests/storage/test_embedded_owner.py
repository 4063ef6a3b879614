"""The embedded server has one owner: no second server, no stranger killed, nobody left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdecay_search.errors import StorageError, StorageUnavailable
from kdecay_search.storage import embedded
from kdecay_search.storage.embedded import keeper, locks, server
from kdecay_search.storage.embedded.locks import check_file_system, is_unsure
from kdecay_search.storage.embedded.problem import Problem
from kdecay_search.storage.embedded.state import Owner, Place, State
from tests.support.embedded_homes import CONTAINER, Home, needs_containers, new_home, parent_of
from tests.support.wait import wait_for


@pytest.fixture(scope="module")
def used() -> Iterator[Home]:
    """A home with a table in its database, and no server."""
    with new_home() as home:
        with home.user() as user:
            user.execute("CREATE TABLE kept (value int)", "INSERT INTO kept VALUES (7)")
        yield home


def assert_whole(home: Home) -> None:
    with home.user() as user:
        assert user.execute("SELECT value FROM kept") == [(7,)]


# ---- containers and hosts -------------------------------------------------------------------


@needs_containers
@pytest.mark.parametrize("first_in_container", [True, False])
def test_a_second_container_is_refused_and_harms_nothing(
    used: Home, first_in_container: bool
) -> None:
    inside = used.elsewhere(*CONTAINER)
    first, second = (inside, used) if first_in_container else (used, inside)
    with first.user() as user:
        before = used.servers()
        error = second.error()
        assert "in another container of this machine" in error
        assert "--storage" in error
        assert "KDECAY_HOME" in error
        assert (used.servers(), len(before), user.process.poll()) == (before, 1, None)
    used.wait_for_end()
    assert_whole(used)


@needs_containers
def test_a_container_that_was_killed_leaves_its_home_to_others(used: Home) -> None:
    with used.elsewhere(*CONTAINER).user() as user:
        user.kill()
        used.wait_for_end()
        assert (used.path / "postgres.state" / "owner.json").exists()
        assert_whole(used)


def test_another_host_is_named(used: Home) -> None:
    """Its lock is seen here, but nothing else of it."""
    with used.user():
        owner = used.path / "postgres.state" / "owner.json"
        there = json.loads(owner.read_text())
        there["place"] |= {"host": "node17", "boot": "another"}
        written = owner.read_text()
        owner.write_text(json.dumps(there))
        assert "is in use on host node17, since 20" in used.error()
        owner.write_text(written)


@pytest.mark.parametrize(
    ("mount", "is_refused"),
    [
        ("nfs rw,vers=3,nolock,local_lock=all", True),
        ("nfs4 rw,vers=4.2,local_lock=flock", True),
        ("nfs4 rw,vers=4.2,local_lock=none", False),
        ("lustre rw,localflock", True),
        ("lustre rw,flock", False),
        ("cifs rw,nobrl", True),
        ("fuse.sshfs rw", True),
        ("fuse.s3fs rw", True),
        ("ext4 rw,relatime", False),
    ],
)
def test_file_systems_that_hide_locks_are_refused(
    mount: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, options = mount.split()
    monkeypatch.setattr(locks, "mount_of", lambda folder: (kind, options.split(",")))
    if not is_refused:
        check_file_system(tmp_path)
        return
    with pytest.raises(Problem, match="other hosts do not see its locks") as caught:
        check_file_system(tmp_path)
    assert "--storage" in caught.value.fix


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path))
    with pytest.raises(StorageError, match=r"does not lock files .*; set KDECAY_HOME") as caught:
        embedded.embedded_url()
    assert not isinstance(caught.value, StorageUnavailable)


def test_where_locks_may_be_hidden_a_server_of_another_host_is_never_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "mount_of", lambda folder: ("virtiofs", ["rw"]))
    assert is_unsure(tmp_path)
    state = State(tmp_path)
    data = _Folder(tmp_path)
    left = Owner(Place("node17", "another boot", "pid:[1]"))
    with pytest.raises(Problem, match=r"may be in use on host node17.*remove .*owner\.json"):
        keeper._refuse_revival(data, state, left, is_revival=False)  # type: ignore[arg-type]
    keeper._refuse_revival(data, state, Owner(), is_revival=False)  # type: ignore[arg-type]
    state.claim(Owner())
    with pytest.raises(Problem, match="is being started by another host"):
        state.claim(Owner())


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"

    def read(self, name: str, last_bytes: int = 0) -> str | None:
        return None


# ---- process ids ----------------------------------------------------------------------------


@contextmanager
def innocent(program: str = "sleep") -> Iterator[int]:
    """A process that has nothing to do with us."""
    process = subprocess.Popen([program, "600"], cwd="/")
    try:
        yield process.pid
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def write_pid(home: Home, pid: int) -> None:
    """As if the ids of the killed server had been given to another process."""
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        file = home.data / name
        _, *rest = file.read_text().splitlines(keepends=True)
        file.write_text("".join([f"{pid}\n", *rest]))


@pytest.mark.parametrize("program", ["sleep", "postgres"])
def test_a_process_that_got_the_server_s_number_does_not_matter(
    used: Home, program: str, tmp_path: Path
) -> None:
    shutil.copy(str(shutil.which("sleep")), tmp_path / "postgres")
    with used.user() as user:
        used.kill_all(user)
    with innocent(program if program == "sleep" else str(tmp_path / program)) as pid:
        write_pid(used, pid)
        assert_whole(used)


def test_a_server_that_was_started_by_hand_is_refused_and_lives_on(used: Home) -> None:
    with used.user():
        command = Path(f"/proc/{used.postmaster()}/cmdline").read_bytes().split(b"\0")[0]
        status = os.stat(used.data)
    owner = {"user": status.st_uid, "group": status.st_gid} if os.geteuid() == 0 else {}
    used.path.parent.chmod(0o755)
    used.path.chmod(0o755)
    folder = str(used.data)
    by_hand = subprocess.Popen(
        [command, "-D", folder, "-k", folder, "-h", ""], cwd="/", stderr=subprocess.DEVNULL,
        **owner,
    )  # fmt: skip
    try:
        wait_for((used.data / ".s.PGSQL.5432").exists, "its start")
        error = used.error()
        assert f"process {by_hand.pid}" in error
        assert f"kill -INT {by_hand.pid}" in error
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait()
    assert_whole(used)


def test_the_number_of_an_unknown_server_is_not_taken_for_a_dead_one(used: Home) -> None:
    """Somebody started a server in another container, through another path."""
    file = used.data / "postmaster.pid"
    file.write_text("4194000\n/elsewhere/postgres\n1700000000\n5432\n/elsewhere\n\n\nready\n")
    error = used.error()
    assert f"remove {file}" in error
    file.unlink()
    assert_whole(used)


# ---- ends -----------------------------------------------------------------------------------


def test_nobody_stays_when_all_users_are_killed(used: Home) -> None:
    with used.user() as first, used.user() as second:
        assert first.url == second.url
        keeper_id = used.keeper()
        first.kill()
        time.sleep(0.3)
        assert used.processes()
        second.kill()
        used.wait_for_end()
        wait_for(lambda: not Path(f"/proc/{keeper_id}").exists(), "the keeper's end")
    assert not (used.path / "postgres.state" / "owner.json").exists()


def test_a_keeper_that_is_killed_takes_the_server_along(used: Home) -> None:
    with used.user() as user:
        first = used.postmaster()
        os.kill(used.keeper(), signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{first}").exists(), "the server's end", 20)
        assert user.revive() == {"url": None}
        assert user.execute("SELECT value FROM kept") == [(7,)]
    used.wait_for_end()


def test_a_server_that_was_killed_is_revived_for_its_users(used: Home) -> None:
    with used.user() as user:
        os.kill(used.postmaster(), signal.SIGKILL)
        used.wait_for_end()
        assert user.revive() == {"url": None}
        assert user.execute("SELECT value FROM kept") == [(7,)]


def test_the_keeper_outlives_the_terminal_of_who_started_it(used: Home) -> None:
    with used.user() as user:
        keeper_id = used.keeper()
        assert os.getsid(keeper_id) not in (os.getsid(0), os.getsid(user.process.pid))
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(keeper_id, number)
        time.sleep(0.3)
        assert user.execute("SELECT value FROM kept") == [(7,)]
        assert parent_of(used.postmaster()) == keeper_id


def test_a_panic_is_told_once_and_not_revived(used: Home) -> None:
    with used.user() as user:
        postmaster = used.postmaster()
        os.kill(postmaster, signal.SIGKILL)
        used.wait_for_end()
        log = used.data / "log"
        with log.open("a") as file:
            file.write("2026-01-01 00:00:00.000 UTC [7] PANIC:  could not find the checkpoint\n")
        written = log.read_bytes()
        answer = user.revive()
        assert answer["passing"] is False
        assert "PANIC:  could not find the checkpoint" in answer["error"]
        assert str(log) in answer["error"]
        assert log.read_bytes() == written
        assert not used.processes()
    assert_whole(used)  # a command of the user's tries once more


def test_a_panic_that_the_server_has_survived_does_not_matter() -> None:
    class Log:
        text = "[7] PANIC:  could not write\n"

        def read(self, name: str, last_bytes: int) -> str:
            return self.text

    log = Log()
    assert server.panic(log) == "PANIC:  could not write"  # type: ignore[arg-type]
    log.text += "[7] LOG:  database system is ready to accept connections\n"
    assert server.panic(log) is None  # type: ignore[arg-type]


def test_a_full_disk_is_no_reason_to_stay_down(used: Home) -> None:
    with used.user() as user:
        os.kill(used.postmaster(), signal.SIGKILL)
        used.wait_for_end()
        with (used.data / "log").open("a") as file:
            file.write('x [7] PANIC:  could not write to "pg_wal": No space left on device\n')
        assert user.revive() == {"url": None}
        assert user.execute("SELECT value FROM kept") == [(7,)]


def test_damaged_data_is_one_line_with_the_log_and_no_second_try() -> None:
    with new_home() as home:
        with home.user() as user:
            home.kill_all(user)
        for segment in (home.data / "pg_wal").glob("0*"):
            segment.unlink()
        error = home.error()
        assert "PANIC:  could not locate a valid checkpoint record" in error
        assert f"{home.data}/log" in error
        assert not home.processes()
