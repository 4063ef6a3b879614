"""Becoming the ``kdecay`` command without the second that its imports take.

This program, one for each test process, has imported what the commands import. It forks a child for
every call, which becomes the command: with the arguments, environment, folder and files that it is
given. The workers that such a command starts are forked as well. How a process starts (``-m``, what
is imported when) is none of this: ``Kdecay.start``, the workers of what that starts, and the tests
of that run a new Python.

A command that is run is a child of this program; one that goes on beside its test is a child of the
test process, which can wait for it as for every process that it starts.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import IO, Any, NoReturn

NOT_SHARED = ("examples", "huggingface", "lightning", "report.dashboard.server", "torch",
              "training", "__main__")  # fmt: skip
"""Parts that few commands import, or none."""
WITH_WORKERS = {"launch", "confirm", "worker"}
"""Commands that start workers."""
LONGEST_REQUEST = 1 << 17
APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND
PR_SET_CHILD_SUBREAPER = 36


def _serve() -> None:
    """Read requests, a line each; answer with the process id, and the exit code of a child."""
    _import_all()
    gc.freeze()
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [entry for entry in sys.path if entry not in given]
    for line in iter(sys.stdin.readline, ""):
        goes_on, files, *request = json.loads(line)
        streams = [os.open(os.devnull, os.O_RDONLY), *(os.open(file, APPENDING) for file in files)]
        pid = _fork_orphan() if goes_on else os.fork()
        if pid == 0:
            _become(path, streams, *request)
        for stream in streams:
            os.close(stream)
        os.write(1, f"{pid}\n".encode())
        if not goes_on:
            _, status = os.waitpid(pid, 0)
            os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _import_all() -> None:
    import scipy.special  # noqa: F401 - whose import is what takes long
    import torch

    import kdecay_search

    torch.optim.SGD([torch.zeros(1)], lr=1.0)  # the first optimizer imports a lot

    for module in pkgutil.walk_packages(kdecay_search.__path__, "kdecay_search."):
        if not module.name.removeprefix("kdecay_search.").startswith(NOT_SHARED):
            importlib.import_module(module.name)


def _become(
    path: list[str],
    streams: list[int],
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
) -> NoReturn:
    os.chdir(folder)
    given = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*given, *path]  # without the folder, as ``kdecay_search.__main__``
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - until the command ends
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if WITH_WORKERS.intersection(arguments):
        _fork_workers()
    _run(arguments, environment)


def _run(arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Run the command, and end."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = ["kdecay", *arguments]

    from kdecay_search.cli.main import main

    try:
        main()
    except SystemExit as ended:
        _end(int(ended.code or 0))
    except BaseException:
        traceback.print_exc()
        _end(1)


def _end(code: int) -> NoReturn:
    """As Python ends, but for its freeing every object, which takes as long as a short command."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# ---- workers ----------------------------------------------------------------------------------


def _fork_workers() -> None:
    """Let this process, which becomes a command, fork its workers.

    They are forked by a process that is forked now, since the command has neither threads nor
    connections yet. The command adopts them, so that they are its children.
    """
    from kdecay_search.worker import local_workers

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _serve_workers(theirs)
    theirs.close()

    class Worker(subprocess.Popen[bytes]):
        """A worker, as ``subprocess.Popen`` starts it in a new Python."""

        def __init__(
            self,
            command: Sequence[str],
            env: Mapping[str, str],
            stdin: int,
            stdout: IO[bytes] | None,
            stderr: IO[bytes] | None,
            start_new_session: bool,
            process_group: int | None,
        ) -> None:
            self.args, self.returncode = command, None
            self.stdin = self.stdout = self.stderr = None
            self._waitpid_lock = threading.Lock()
            arguments = command[command.index("kdecay_search") + 1 :]
            request = json.dumps([arguments, dict(env), start_new_session]).encode()
            adopt_orphans(True)
            socket.send_fds(ours, [request], [2 if stdout is None else stdout.fileno()])
            self.pid = int(ours.recv(LONGEST_REQUEST))
            adopt_orphans(False)
            self._child_created = True

    stand_in: Any = SimpleNamespace(**{**vars(subprocess), "Popen": Worker})
    local_workers.subprocess = stand_in


def _serve_workers(command: socket.socket) -> NoReturn:
    """Fork a worker for each request, as an orphan, and answer with its process id."""
    while True:
        request, files, _, _ = socket.recv_fds(command, LONGEST_REQUEST, 1)
        if not request:  # the command has ended
            os._exit(0)
        pid = _fork_orphan()
        if pid == 0:
            command.close()
            _become_worker(files[0], *json.loads(request))
        command.send(f"{pid}".encode())
        os.close(files[0])


def _become_worker(
    output: int, arguments: list[str], environment: dict[str, str], in_new_session: bool
) -> NoReturn:
    if in_new_session:
        os.setsid()
    else:
        os.setpgid(0, 0)
    for target in (1, 2):
        os.dup2(output, target)
    os.close(output)
    _run(arguments, environment)


# ---- children of others -----------------------------------------------------------------------


def _fork_orphan() -> int:
    """As :func:`os.fork`; but the process is a child of the nearest one that adopts orphans."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        pid = os.fork()
        if pid:
            os.write(writing, f"{pid}".encode())
            os._exit(0)
    else:
        os.waitpid(parent, 0)
        pid = int(os.read(reading, LONGEST_REQUEST))
    os.close(reading)
    os.close(writing)
    return pid


def adopt_orphans(whether: bool) -> None:
    """Let the orphans among this process's descendants become its children from now on, or not."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0)


if __name__ == "__main__":
    _serve()
