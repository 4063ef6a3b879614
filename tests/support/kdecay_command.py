"""Running the real ``kdecay`` command, and the studies that the tests launch."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fork_server import adopt_orphans

KDECAY = [sys.executable, "-m", "kdecay_search"]
TIMEOUT_SECONDS = 240
"""Only a hanging command takes so long."""
END_SECONDS = 60
"""Time that a command gets to end when its test is interrupted."""


class Warm:
    """A program that becomes the command (fork_server.py), and what it takes to ask it."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONWARNINGS": "", "OPENBLAS_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("fork_server.py"))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asking = threading.Lock()
        self._command: int | None = None
        """The process id of the command that runs."""

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
            self._ask(False, files, list(arguments), dict(environment), str(folder or Path.cwd()))
            code = self._code(timeout_seconds)
            out, err = (Path(file).read_text(encoding="utf-8") for file in files)
        if code is None:
            raise subprocess.TimeoutExpired(list(arguments), timeout_seconds, out, err)
        return subprocess.CompletedProcess(arguments, code, out, err)

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], files: Sequence[str]
    ) -> int:
        """Start ``kdecay ARGUMENTS`` as a child of this process, which does not wait for it.

        Args:
            arguments: Those of the command.
            environment: Its environment variables.
            files: Where its stdout and its stderr go.

        Returns:
            Its process id.
        """
        assert self._server.stdout is not None
        with self._asking:
            adopt_orphans(True)
            self._ask(True, list(files), list(arguments), dict(environment), str(Path.cwd()))
            pid = int(self._server.stdout.readline())
            adopt_orphans(False)
        return pid

    def close(self) -> None:
        """End the server, and first the command that an interrupted test has left running."""
        if self._command is not None:
            with suppress(ProcessLookupError):
                os.kill(self._command, signal.SIGTERM)
        try:
            self._server.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.communicate()

    def _ask(self, *request: Any) -> None:
        assert self._server.stdin is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)

    def _code(self, timeout_seconds: float) -> int | None:
        """The command's exit code; None if it had to be killed."""
        assert self._server.stdout is not None
        self._command = pid = int(self._server.stdout.readline())
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
        self._command = None
        return None if late.is_set() else code


@functools.cache
def warm() -> Warm:
    """This process's server."""
    server = Warm()
    atexit.register(server.close)
    return server


class Forked(subprocess.Popen[str]):
    """A command that goes on beside its test, as ``subprocess.Popen`` starts it in a new Python."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        super().__init__(
            arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _execute_child(self, arguments: Sequence[str], *others: Any) -> None:
        """Be forked by the server instead."""
        environment, pipes = others[5], others[9:15]
        _, _, _, out, _, err = pipes
        files = [f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in (out, err)]
        self.pid = warm().start(arguments, environment, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Kdecay:
    """The command with a data folder, and so an embedded database, of its own."""

    home: Path
    url: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("KDECAY_")}
        env |= {"KDECAY_HOME": str(self.home), "PYTHONWARNINGS": "", "COLUMNS": "120"}
        return env | ({"KDECAY_STORAGE": self.url} if self.url else {})

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the command in a new Python and return at once."""
        return subprocess.Popen(
            [*KDECAY, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def fork(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command and return at once, where it does not matter how it starts."""
        return Forked(arguments, self.environment)

    def run(
        self, *arguments: str, code: int = 0, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end and check its exit code."""
        done = warm().run(arguments, self.environment, TIMEOUT_SECONDS, cwd)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run the command with ``--json`` and read what it prints."""
        result: dict[str, Any] = json.loads(self.run(*arguments, "--json").stdout)
        return result


def simulated_study(folder: Path, **settings: Any) -> str:
    """Write a simulated study file; settings are dotted keys with __ for the dots."""
    tables: dict[str, dict[str, Any]] = {
        "": {"name": "simulated"},
        "task": {"kind": "simulated", "epochs": 4},
        "task.surface": {"best_ks": [2.5], "seed_noise": 0.1, "run_noise": 0.05},
        "search": {"k_max": 3.0, "max_terms": 1, "seeds": 2, "min_gain": 0.02},
        "pruning": {"enabled": False},
        "workers": {"heartbeat_seconds": 0.5, "grace_seconds": 30.0},
    }
    for dotted, value in settings.items():
        table, _, key = dotted.replace("__", ".").rpartition(".")
        tables.setdefault(table, {})[key] = value
    lines = []
    for table, values in tables.items():
        lines += [f"[{table}]"] if table else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    file = folder / "study.toml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def errors_by_run(summary: dict[str, Any]) -> dict[tuple[int, float, int], float]:
    """(stage, k, seed) -> error of every complete run in a study's JSON."""
    return {
        (stage["n"], candidate["k"], seed): error
        for stage in summary["stages"]
        for candidate in stage["candidates"]
        for seed, error in zip(candidate["seeds"], candidate["errors"], strict=True)
    }
