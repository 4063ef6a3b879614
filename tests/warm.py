"""The ``kdecay`` command in a process of its own, without the second that its imports take.

A server, one for each test process, has imported what the commands import. It forks a child for
every call, which becomes the command: with the arguments, environment, folder and files that it is
given, and Python's usual end. How a process starts (``-m``, what is imported when) is none of this:
``Kdecay.start``, workers, and the tests of that run a new Python.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

NOT_SHARED = ("examples", "huggingface", "lightning", "report.dashboard.server", "torch",
              "training", "__main__")  # fmt: skip
"""Parts that few commands import, or none."""


class Warm:
    """A server, and what it takes to ask it."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONWARNINGS": "", "OPENBLAS_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asking = threading.Lock()

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        timeout_seconds: float,
        folder: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``kdecay ARGUMENTS`` to its end; as :func:`subprocess.run` does."""
        with tempfile.TemporaryDirectory(prefix="kdecay-warm-") as kept, self._asking:
            files = [f"{kept}/stdout", f"{kept}/stderr"]
            self._ask(list(arguments), dict(environment), str(folder or Path.cwd()), files)
            code = self._code(timeout_seconds)
            out, err = (Path(file).read_text(encoding="utf-8") for file in files)
        if code is None:
            raise subprocess.TimeoutExpired(list(arguments), timeout_seconds, out, err)
        return subprocess.CompletedProcess(arguments, code, out, err)

    def close(self) -> None:
        """End the server; no command runs any more."""
        self._server.communicate()

    def _ask(self, *request: Any) -> None:
        assert self._server.stdin is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)

    def _code(self, timeout_seconds: float) -> int | None:
        """The command's exit code; None if it had to be killed."""
        assert self._server.stdout is not None
        pid = int(self._server.stdout.readline())
        late = threading.Event()

        def kill() -> None:
            late.set()
            os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(timeout_seconds, kill)
        timer.start()
        try:
            code = int(self._server.stdout.readline())
        finally:
            timer.cancel()
        return None if late.is_set() else code


@functools.cache
def warm() -> Warm:
    """This process's server."""
    server = Warm()
    atexit.register(server.close)
    return server


# ---- the server -------------------------------------------------------------------------------


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
    sys.path[:] = [folder, *given, *path]
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
