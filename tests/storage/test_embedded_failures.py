"""A server or a home that cannot be used is one line: the cause, and what to do. Exit code 2."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest

from kdecay_search.cli.doctor import _storage_checks
from kdecay_search.doctor.check import Severity
from kdecay_search.doctor.folders import home_checks
from kdecay_search.errors import HomeError, StorageError
from kdecay_search.paths import home, home_folder, mount_of
from kdecay_search.storage import embedded
from kdecay_search.storage.embedded import users
from kdecay_search.storage.embedded.problem import Problem, problem_of, problem_of_postgres
from tests.support.embedded_homes import (
    CONTAINER,
    OTHERS,
    Home,
    as_number,
    as_user,
    is_root,
    needs_containers,
    needs_others,
    new_home,
)
from tests.support.kdecay_command import Kdecay, simulated_study

ROOT = Path(__file__).parents[2]

NAMELESS = 54_321
"""A user id that no /etc/passwd has."""


def sh(script: str) -> tuple[str, ...]:
    """What starts a process after a shell has changed its container's mounts."""
    return (*CONTAINER, "sh", "-c", f'{script}; exec "$@"', "sh")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["status", "any"],
        ["launch", "FILE"],
        ["worker"],
        ["best", "any"],
        ["report", "any"],
        ["stop", "any"],
        ["delete", "any", "--yes"],
        ["dashboard", "--port", "0"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_every_command_says_what_is_wrong_with_the_home(
    arguments: list[str], tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, name="any")
    done = Kdecay(Path("/proc/none")).run(
        *(file if argument == "FILE" else argument for argument in arguments), code=2
    )
    assert done.stderr.count("\n") == 1
    assert "data folder /proc/none: No such file or directory; set KDECAY_HOME" in done.stderr


def test_doctor_says_what_is_wrong_with_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDECAY_HOME", "/proc/none")
    for check in (*_storage_checks(None), *home_checks(is_embedded=True)):
        assert check.severity == Severity.ERROR
        assert check.value == "data folder /proc/none: No such file or directory"
        assert check.fix == "set KDECAY_HOME to a folder that this user can write to"


def test_doctor_has_the_fix_of_a_server_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postgres.state").mkdir()
    (tmp_path / "postgres.state").chmod(0o777)
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path))
    (check,) = _storage_checks(None)
    assert "others can write" in check.value
    assert check.fix == f"chmod 700 {tmp_path}/postgres.state"


def test_a_file_in_place_of_the_home_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        error = Home(tmp_path / place).kdecay("list", code=2)
        assert str(tmp_path / "file") in error
        assert "set KDECAY_HOME" in error


@needs_others
def test_a_home_that_may_not_be_written_to_is_one_line() -> None:
    folder = Path(tempfile.mkdtemp(prefix="kdecay-own-"))
    folder.chmod(0o755)
    for place in (folder, folder / "below"):
        error = Home(place, as_user(OTHERS[0])).error()
        assert str(place) in error
        assert "Permission denied; set KDECAY_HOME to a folder" in error
    shutil.rmtree(folder)


@needs_others
def test_a_user_without_a_name_is_one_line() -> None:
    with new_home() as place:
        os.chown(place.path.parent, NAMELESS, NAMELESS)
        nameless = place.elsewhere(*as_number(NAMELESS, NAMELESS))
        error = nameless.kdecay("list", code=2)
        assert f"user {NAMELESS} has no entry in /etc/passwd" in error
        assert "--storage" in error


def test_a_user_without_a_home_folder_is_told_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KDECAY_HOME", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(HomeError, match=r"could not determine the home .*; set KDECAY_HOME"):
        home()
    monkeypatch.setenv("KDECAY_HOME", "~nobody-of-this-name/kdecay")
    with pytest.raises(HomeError, match=r"KDECAY_HOME=~nobody-of-this-name/kdecay: .*; set KDECAY"):
        home()


def test_a_new_home_is_closed_and_an_old_one_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path / "new"))
    assert home().stat().st_mode & 0o777 == 0o700
    home().chmod(0o750)
    assert home_folder("logs", "any").is_dir()
    assert home().stat().st_mode & 0o777 == 0o750
    (home() / "cache").touch()
    with pytest.raises(HomeError, match="is not a folder"):
        home_folder("cache")


@needs_containers
def test_a_read_only_home_is_one_line() -> None:
    with new_home() as place:
        with place.user():
            pass
        inside = place.elsewhere(*sh(f"mount --bind {place.path} {place.path} && "
                                     f"mount -o remount,bind,ro {place.path}"))  # fmt: skip
        error = inside.error()
        assert "Read-only file system" in error
        assert "set KDECAY_HOME to a folder that this user can write to" in error


@needs_containers
def test_a_full_disk_is_one_line_and_leaves_no_half() -> None:
    with new_home() as place:
        place.path.mkdir()
        listing = place.path.parent / "listing"
        script = (
            f'mount -t tmpfs -o size=30m none {place.path}; "$@"; code=$?; '
            f"ls {place.path} > {listing}; exit $code"
        )
        inside = place.elsewhere(*CONTAINER, "sh", "-c", script, "sh")
        error = inside.error()
        assert "No space left on device" in error
        assert "make room" in error
        assert listing.read_text().split() == ["postgres.state"]


@needs_containers
@pytest.mark.skipif(ROOT.is_relative_to("/tmp"), reason="this checkout lies in the hidden folder")
def test_the_home_alone_need_be_writable() -> None:
    """As in a container with a read-only root and no /tmp."""
    with new_home() as place:
        place.path.mkdir(mode=0o700)
        script = (
            f"mount --bind {place.path} /run/kdecay-test; "
            "mount -t tmpfs -o ro none /tmp; mount -t tmpfs -o ro none /var/tmp; "
            "mount -t tmpfs -o ro none /dev/shm"
        )
        Path("/run/kdecay-test").mkdir(exist_ok=True)
        inside = place.elsewhere(*sh(script), KDECAY_HOME="/run/kdecay-test")
        try:
            with inside.user() as user:
                assert user.url.endswith("host=%2Frun%2Fkdecay-test%2Fpostgres&port=5432")
        finally:
            Path("/run/kdecay-test").rmdir()


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path))
    with pytest.raises(StorageError, match=r"pgserver, .* is not installed; pip install"):
        embedded.embedded_url()


@pytest.mark.skipif(not is_root, reason="only root runs Postgres as another user")
def test_a_root_that_may_not_become_another_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Problem, match="Postgres refuses to run as root, and useradd pgserver: No "):
        users.server_user(Path("/"), None)


@pytest.mark.parametrize(
    ("said", "fix", "passing"),
    [
        ('FATAL:  could not write to file "x": No space left on device', "make room", True),
        ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "memory", True),
        ("PANIC:  could not locate a valid checkpoint record at 0/1", "restore a backup", False),
        ("FATAL:  data directory has invalid permissions", "chmod 700 /home/me/postgres", False),
        ("FATAL:  something new", "see /home/me/postgres/log", False),
    ],
)
def test_what_postgres_says_has_a_fix(said: str, fix: str, passing: bool) -> None:
    data = Path("/home/me/postgres")
    problem = problem_of_postgres([f"[7] {said}"], data, data / "log")
    assert problem.cause == f"does not start: {said}"
    assert fix in problem.fix
    assert problem.passing == passing


def test_what_the_system_says_has_a_fix() -> None:
    assert problem_of(OSError(28, "No space left on device")).passing
    denied = problem_of(PermissionError(13, "Permission denied", "/data/x"))
    assert denied.cause == "cannot be used: /data/x: Permission denied"


def test_the_disk_of_a_folder_is_that_of_the_innermost_and_latest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nhost:/a /mnt/a\\040b nfs4 rw,nolock 0 0\ny /mnt/c xfs rw 0 0\n"
    )
    assert mount_of(Path("/mnt/a b/c"), mounts) == ("nfs4", ["rw", "nolock"])
    assert mount_of(Path("/mnt/a"), mounts) == ("ext4", ["rw"])
    assert mount_of(Path("/mnt/a"), tmp_path / "none") == ("an unknown file system", [])
