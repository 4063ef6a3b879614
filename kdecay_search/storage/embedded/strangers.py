"""Servers that this version has not started: those of earlier versions, and started by hand.

They do not hold our lock, so they are looked for: by the processes of Postgres that work in the
data folder, and by their sockets. No process is ever signalled here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import time
from pathlib import Path

from kdecay_search.paths import is_shared
from kdecay_search.storage.embedded.data import DATABASE, ROLE, SET_UP, DataFolder
from kdecay_search.storage.embedded.locks import try_lock
from kdecay_search.storage.embedded.problem import Problem

EARLIER_LOCKS = ("postgres.users", "postgres.starting")
"""Files in KDECAY_HOME that commands of earlier versions hold locks on."""
EARLIER_SETTING = "max_connections = 200"
"""The line that earlier versions added to postgresql.conf when the folder was whole."""
_LONGEST = 107
_OURS = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
_CHANGE_OWNER = (
    "DO $$ DECLARE r record; BEGIN "
    "FOR r IN SELECT c.oid::regclass AS name FROM pg_class c "
    f"WHERE c.relnamespace::regnamespace::text {_OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'S') "
    "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid "
    "AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass "
    "AND d.deptype IN ('a', 'i')) "
    f"LOOP EXECUTE format('ALTER TABLE %s OWNER TO {ROLE}', r.name); END LOOP; "
    "FOR r IN SELECT t.oid::regtype AS name FROM pg_type t "
    f"WHERE t.typnamespace::regnamespace::text {_OURS} AND t.typtype IN ('e', 'd') "
    f"LOOP EXECUTE format('ALTER TYPE %s OWNER TO {ROLE}', r.name); END LOOP; END $$\n"
)
"""Earlier versions worked as the superuser. Sequences that belong to a column follow its table."""


def set_aside_if_unfinished(data: DataFolder, home: Path) -> bool:
    """Rename a data folder that an earlier version began to make, and no server ever used.

    It is not removed, for want of certainty. Return whether the folder's place is free now.
    """
    if data.is_of_this_version:
        return False
    names = os.listdir(data.descriptor)
    was_used = "postmaster.opts" in names or EARLIER_SETTING in (data.read("postgresql.conf") or "")
    if was_used and "PG_VERSION" in names:
        return False
    _refuse_earlier_version(home)
    suffix = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    data.path.rename(f"{data.path}.unfinished-{suffix}")
    return True


def take_over(data: DataFolder, home: Path) -> None:
    """Make the folder of an earlier version one of this version; its studies stay.

    The caller holds the lock, and has found no living server.
    """
    data.execute(SET_UP, "template1")
    data.execute(_CHANGE_OWNER, DATABASE)
    for name in EARLIER_LOCKS:
        (home / name).unlink(missing_ok=True)


def refuse_strangers(data: DataFolder, home: Path, is_left_by_us: bool) -> None:
    """Make sure that no server lives in the data folder, and remove the file of a dead one.

    Postgres takes any process with the id in ``postmaster.pid`` for its server. The id proves
    nothing; that nobody holds the lock does, for every server that this version has started.

    Args:
        data: The folder; the caller holds its lock.
        home: KDECAY_HOME.
        is_left_by_us: Whether the last server of this version did not end in order.

    Raises:
        Problem: A server lives there, or may live there.
    """
    if not data.is_of_this_version:
        _refuse_earlier_version(home)
    text = data.read("postmaster.pid")
    lines = [*(text or "").splitlines(), "", "", "", "", ""]
    for pid in _processes_in(data, lines[0].strip()):
        raise Problem(
            f"is in use by a Postgres that this command has not started (process {pid})",
            f"stop that one first (kill -INT {pid})",
        )
    if text is None:
        return
    file, folder = data.path / "postmaster.pid", lines[4].strip()
    is_seen = folder == str(data.path) and not is_shared(data.path)
    if _answers(Path(folder), lines[3].strip()) or not (is_left_by_us or is_seen):
        raise Problem(
            f"may be in use: {file} names a Postgres that this command has not started",
            f"stop that one; if none runs on this folder, on any machine, remove {file}",
        )
    os.unlink("postmaster.pid", dir_fd=data.descriptor)


def _refuse_earlier_version(home: Path) -> None:
    for name in EARLIER_LOCKS:
        try:
            descriptor = os.open(home / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not try_lock(descriptor, fcntl.LOCK_EX):
                raise Problem(
                    "is in use by commands of an earlier version of kdecay-search",
                    "end those first",
                )
        finally:
            os.close(descriptor)


def _processes_in(data: DataFolder, written: str) -> list[int]:
    """The processes of Postgres that work in the folder, as far as they can be seen from here.

    ``written`` is the id in ``postmaster.pid``: that process counts also if this one may not see
    where it works, as root may not in some containers, but it is a Postgres of the server's user.
    """
    here, found = os.fstat(data.descriptor), []
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if Path(entry.path, "comm").read_text().strip() != "postgres":
                continue
            try:
                place = os.stat(f"{entry.path}/cwd")
                is_there = (place.st_dev, place.st_ino) == (here.st_dev, here.st_ino)
            except PermissionError:
                is_there = entry.name == written and entry.stat().st_uid == data.user.uid
            if is_there:
                found.append(int(entry.name))
    return found


def _answers(folder: Path, port: str) -> bool:
    """Whether a server listens at its socket, or may do so."""
    path = str(folder / f".s.PGSQL.{port}")
    if not folder.is_absolute() or len(os.fsencode(path)) > _LONGEST:  # that is no socket's
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
    return True
