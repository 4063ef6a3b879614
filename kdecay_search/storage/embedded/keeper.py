"""The process that keeps the embedded server: it starts Postgres, and ends it with its last user.

A command that finds no server starts this program, which holds the data folder's lock from before
Postgres starts until after it has ended. Who uses the server holds a shared lock on one file; the
kernel gives that back however a process dies. When the keeper gets this lock for itself, nobody is
left. It imports the standard library and nothing else, to be there at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from kdecay_search.storage.embedded import server
from kdecay_search.storage.embedded.data import DataFolder, make_folder, open_folder, remove_halves
from kdecay_search.storage.embedded.locks import check_file_system, is_unsure, try_lock
from kdecay_search.storage.embedded.problem import ELSEWHERE, Problem, problem_of
from kdecay_search.storage.embedded.state import Owner, State
from kdecay_search.storage.embedded.strangers import (
    refuse_strangers,
    set_aside_if_unfinished,
    take_over,
)
from kdecay_search.storage.embedded.users import own_name

STARTING_SECONDS = 330.0
"""How long another command's start is waited for."""
ENDING_SECONDS = 15.0
"""How long the processes of a server that was killed are waited for."""
LOOK_SECONDS = 0.1
"""How often the keeper asks whether there are users left."""


class _Found(Exception):
    """Another keeper has started the server."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner


def main() -> None:
    """Start the server of a home, say where its socket is, and stay until nobody uses it.

    The arguments are KDECAY_HOME, the installed package that brings Postgres, and "start" or
    "revive". The answer on stdout is one line of JSON: the socket's folder, or the problem.
    """
    home, wheel, purpose = sys.argv[1:]
    if os.fork():  # the command need not wait for the end of the keeper
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)  # it ends with its last user
    os.umask(0o077)
    try:
        _keep(Path(home), Path(wheel), purpose == "revive")
    except _Found as found:
        _answer(socket=found.owner.socket_folder)
    except (Problem, OSError) as error:
        problem = problem_of(error) if isinstance(error, OSError) else error
        _answer(cause=problem.cause, fix=problem.fix, passing=problem.passing)
    except Exception as error:
        fix = "please report it"
        _answer(cause=f"does not start: {type(error).__name__}: {error}", fix=fix, passing=False)


def _answer(**values: object) -> None:
    with contextlib.suppress(OSError):  # the command may be gone
        os.write(1, json.dumps(values).encode() + b"\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _keep(home: Path, wheel: Path, is_revival: bool) -> None:
    state = State(home)
    with state.starting(STARTING_SECONDS):
        owner = state.owner()
        if owner is not None and owner.is_reachable():
            raise _Found(owner)
        check_file_system(home)
        own_name()
        data = _locked(home, wheel, state)
        left = state.owner()
        if left is not None:
            _refuse_revival(data, state, left, is_revival)
        refuse_strangers(data, home, is_left_by_us=left is not None)
        if not data.is_of_this_version:
            take_over(data, home)
        data.close_to_others()
        if left is not None:
            server.remove_sockets(left)
            state.clear_owner()
        owner = Owner(server_uid=data.user.uid)
        state.claim(owner)
        sockets = server.socket_folder(data)
        owner = replace(owner, socket_folder=str(sockets.path), made_socket_folder=sockets.is_made)
        state.set_owner(owner)
        try:
            process = server.start(data, sockets)
        except BaseException:
            server.remove_sockets(owner)
            raise
    _answer(socket=owner.socket_folder)
    ended_in_order = _stay(state.users(), process)
    server.remove_sockets(owner)
    if ended_in_order:
        state.clear_owner()


def _locked(home: Path, wheel: Path, state: State) -> DataFolder:
    """The data folder, which no other server has from here on.

    Raises:
        Problem: Another server has it, or may have it.
    """
    remove_halves(home)
    data = open_folder(home, wheel)
    if data is not None and set_aside_if_unfinished(data, home):
        data = None
    data = data or make_folder(home, wheel)
    lock, deadline = data.open_lock(), time.monotonic() + ENDING_SECONDS
    while not try_lock(lock, fcntl.LOCK_EX):
        owner = state.owner()
        if owner is not None and not owner.place.is_here():
            raise Problem(f"is in use {owner.place}, since {owner.since}", ELSEWHERE)
        if owner is not None and owner.is_reachable():
            raise _Found(owner)
        if time.monotonic() > deadline:
            raise _unreachable(owner)
        time.sleep(0.05)
    return data


def _unreachable(owner: Owner | None) -> Problem:
    where = f" since {owner.since}, with its socket in {owner.socket_folder}" if owner else ""
    return Problem(
        f"is in use by a server that cannot be reached from here{where}",
        f"wait for its end, or {ELSEWHERE}",
        passing=True,
    )


def _refuse_revival(data: DataFolder, state: State, left: Owner, is_revival: bool) -> None:
    if is_unsure(data.path) and left.place.boot != Owner().place.boot:
        raise Problem(
            f"may be in use {left.place}: that server has not ended in order, and here locks of "
            "other hosts may not be seen",
            f"if it does not run any more, remove {state.path}/owner.json",
        )
    reason = server.panic(data)
    if is_revival and reason is not None:
        raise Problem(
            f"has stopped, and is not started again by itself: {reason}",
            f"see {data.log}; restore a backup, or run a command to try it once more",
        )


def _stay(users: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait for the last user's end, or the server's; return whether the server ended in order."""
    while process.poll() is None:
        if try_lock(users, fcntl.LOCK_EX):
            return server.stop(process)
        time.sleep(LOOK_SECONDS)
    return process.returncode == 0
