"""Becoming the ``kdecay`` command without the second that its imports take.

This program, one for each test process, has imported what the commands import. It forks a child for
every call, which becomes the command: with the arguments, environment, folder and files that it is
given. How a process starts (``-m``, what is imported when) is none of this: ``Kdecay.start``,
workers, and the tests of that run a new Python.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import sys
import threading
import traceback
from typing import NoReturn

NOT_SHARED = ("examples", "huggingface", "lightning", "report.dashboard.server", "torch",
              "training", "__main__")  # fmt: skip
"""Parts that few commands import, or none."""


def _serve() -> None:
    """Read requests, a line each; answer with the child's process id, then its exit code."""
    _import_all()
    gc.freeze()
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [entry for entry in sys.path if entry not in given]
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            _become(path, *json.loads(line))
        os.write(1, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _import_all() -> None:
    import scipy.special  # noqa: F401 - whose import is what takes long

    import kdecay_search

    for module in pkgutil.walk_packages(kdecay_search.__path__, "kdecay_search."):
        if not module.name.removeprefix("kdecay_search.").startswith(NOT_SHARED):
            importlib.import_module(module.name)


def _become(
    path: list[str],
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    files: list[str],
) -> NoReturn:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    given = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*given, *path]  # without the folder, as ``kdecay_search.__main__``
    sys.argv[:] = ["kdecay", *arguments]
    for target, name in enumerate([os.devnull, *files]):
        flags = os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(name, flags)
        os.dup2(opened, target)
        os.close(opened)

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


if __name__ == "__main__":
    _serve()
