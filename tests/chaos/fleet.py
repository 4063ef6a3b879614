"""The study's processes, restarted whenever they end, as Slurm or systemd would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.kdecay_command import KDECAY, Kdecay

DRAIN_SECONDS = 30.0
"""A worker that takes longer than this to end hangs."""
RESTART_SECONDS = 0.5
"""Time between the end of a process and its restart."""
DUMP_SECONDS = 5.0
"""Time that a hanging process has to log its stacks."""
READY = {"worker": " serves ", "launch": "study "}
"""What a command logs once it is connected to the database and handles signals."""
REFUSED = ("kdecay: storage", "kdecay: the embedded Postgres")
"""Beginnings of what a command prints that ends because it cannot use the database."""
INTERRUPTED = 130
"""Exit code of a ``launch`` that was asked to end before its study has ended."""
DELETED = "kdecay: no study named"
"""Beginning of what a command prints that ends because its study was deleted."""


@dataclass
class Service:
    """A command that is restarted whenever it ends, and its current process."""

    name: str
    """Name of the service, and of its log file."""
    command: Sequence[str]
    """The command and its arguments."""
    environment: dict[str, str]
    """All environment variables of the command."""
    log: Path
    """File that all its processes log to."""
    process: subprocess.Popen[bytes] | None = None
    """The current process, or the last one."""
    asked: signal.Signals | None = None
    """The signal that was sent to end the current process, if one was."""
    asked_at: float = 0.0
    """Time (monotonic, s) at which that signal was sent."""
    restart_at: float | None = None
    """Time (monotonic, s) of the next restart; None while the process runs."""
    frozen: bool = False
    """Whether the process is stopped by SIGSTOP."""
    ended: list[str] = field(default_factory=list)
    """Descriptions of the unexpected ends."""
    refused_starts: int = 0
    """How often a process ended at once because the database was unavailable."""
    is_contained: bool = False
    """Whether the process is the first one in a container, which another process has started."""
    may_be_orphaned: bool = False
    """Whether the process may end because its study was deleted."""
    _log_start: int = 0
    """Position in the log at which the current process began."""

    def start(self) -> None:
        """Start a new process."""
        self.asked, self.frozen, self.restart_at = None, False, None
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process's id, as this host numbers it; -1 if there is none yet."""
        if self.process is None:
            return -1
        outer = self.process.pid
        if not self.is_contained:
            return outer
        with contextlib.suppress(OSError):
            inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            return int(inner[0]) if inner else -1
        return -1

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def free(self) -> bool:
        """Whether the process runs undisturbed."""
        return self.alive and not self.frozen and self.asked is None

    @property
    def ready(self) -> bool:
        """Whether the process has begun its work."""
        return READY[self.name.partition("-")[0]] in self._output()

    @property
    def worker(self) -> str | None:
        """The name under which the process claims trials; None if it has not said."""
        named = re.findall(r"worker (\S+) serves ", self._output())
        return str(named[0]) if named else None

    def _output(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.alive and (pid := self.pid) > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self, number: signal.Signals) -> None:
        """Send the signal that ends the process; :meth:`Fleet.restart_ended` starts another."""
        self.asked, self.asked_at = number, time.monotonic()
        self.send(number)

    def freeze(self) -> None:
        self.frozen = True
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.send(signal.SIGCONT)

    def abort(self) -> None:
        """End a process that hangs; faulthandler logs its stacks on SIGABRT."""
        self.ended.append(f"{self.name} did not drain within {DRAIN_SECONDS:g} s")
        self.send(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process is not None:
                self.process.wait(DUMP_SECONDS)
        self.send(signal.SIGKILL)

    def record_end(self) -> None:
        """Record how the process ended, unless it ended as it was asked to."""
        code = self.process.returncode if self.process else None
        if self.asked == signal.SIGKILL:
            return
        is_launch = self.name.startswith("launch")
        done = {0, INTERRUPTED} if is_launch else {0}
        done |= set() if self.ready else {-signal.SIGTERM}
        if (self.asked == signal.SIGTERM and code in done) or (is_launch and code == 0):
            return
        last = (self._output().strip().splitlines() or ["(nothing)"])[-1]
        if not self.ready and last.startswith(REFUSED):
            self.refused_starts += 1
            return
        if self.may_be_orphaned and last.startswith(DELETED):
            return
        asked = f" after {self.asked.name}" if self.asked else ""
        self.ended.append(f"{self.name} ended with code {code}{asked}: {last}")


class Fleet:
    """The workers of a study, and one ``launch`` that reconciles it; all are restarted when they
    end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[Service] = []
        self.launcher: Service | None = None
        self.guests: list[Service] = []
        """Workers that do harm and are not disturbed themselves."""

    @property
    def services(self) -> list[Service]:
        """The processes that are disturbed."""
        return [*self.workers, *([self.launcher] if self.launcher else [])]

    @property
    def everybody(self) -> list[Service]:
        return [*self.services, *self.guests]

    def add_worker(
        self,
        kdecay: Kdecay,
        study: str,
        prefix: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        is_contained: bool = False,
    ) -> None:
        """Start a worker of a study.

        Args:
            kdecay: The command and its storage.
            study: Name of the study.
            prefix: A command that runs the worker on another host, or in a container.
            variables: Variables that the worker gets besides.
            is_contained: Whether the prefix makes the worker the first process of a container.
        """
        command = [*prefix, *KDECAY, "worker", "--study", study]
        name = f"worker-{len(self.workers)}"
        self.workers.append(self._start_service(name, command, kdecay, variables, is_contained))

    def add_service(self, name: str, command: Sequence[str], kdecay: Kdecay) -> None:
        """Start the first process of a container."""
        self.workers.append(self._start_service(name, command, kdecay, is_contained=True))

    def add_guest(self, kdecay: Kdecay, command: Sequence[str]) -> None:
        """Start a worker that does harm."""
        self.guests.append(self._start_service(f"worker-guest-{len(self.guests)}", command, kdecay))

    def set_launcher(self, kdecay: Kdecay, launch: Sequence[str]) -> None:
        """Start ``kdecay launch`` with these arguments."""
        command = [*KDECAY, "launch", *launch, "--workers", "0"]
        self.launcher = self._start_service("launch", command, kdecay)

    def orphan_all(self) -> None:
        """Let any process end because its study has been deleted."""
        for service in self.everybody:
            service.may_be_orphaned = True

    def _start_service(
        self,
        name: str,
        command: Sequence[str],
        kdecay: Kdecay,
        variables: Mapping[str, str] | None = None,
        is_contained: bool = False,
    ) -> Service:
        environment = {**kdecay.environment, "PYTHONFAULTHANDLER": "1", **(variables or {})}
        service = Service(name, command, environment, self.folder / f"{name}.log",
                          is_contained=is_contained)  # fmt: skip
        service.start()
        return service

    def restart_ended(self) -> bool:
        """Restart what has ended; return False once ``launch`` has seen the end of the study."""
        for service in self.everybody:
            if service.alive:
                self._kill_if_hanging(service)
                continue
            if (
                service is self.launcher
                and service.process
                and service.process.returncode in (0, 1)
            ):
                return False
            self._replace(service)
        return True

    @staticmethod
    def _replace(service: Service) -> None:
        now = time.monotonic()
        if service.restart_at is None:
            service.record_end()
            service.restart_at = now + RESTART_SECONDS
        elif now >= service.restart_at:
            service.start()

    def _kill_if_hanging(self, service: Service) -> None:
        """End a worker that does not drain, and record that."""
        hangs = service.asked == signal.SIGTERM and not service.frozen
        if hangs and time.monotonic() - service.asked_at > DRAIN_SECONDS:
            service.abort()
            service.asked = signal.SIGKILL

    def drain(self) -> None:
        """End all processes cleanly, including frozen ones."""
        for service in self.everybody:
            service.thaw()
            if service.alive and service.asked is None:
                # The first process of a container is deaf to signals that it does not handle yet.
                is_deaf = service.is_contained and not service.ready
                service.end(signal.SIGKILL if is_deaf else signal.SIGTERM)
        for service in self.everybody:
            self._wait_for_end(service)

    def _wait_for_end(self, service: Service) -> None:
        if service.process is None:
            return
        try:
            service.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            service.abort()
            self.kill(service)
        else:
            if service is not self.launcher and service.restart_at is None:
                service.record_end()

    def kill_all(self) -> None:
        """Kill all processes that are left."""
        for service in self.everybody:
            self.kill(service)

    @staticmethod
    def kill(service: Service) -> None:
        if service.alive and service.process is not None:
            os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()

    @property
    def refused_starts(self) -> int:
        return sum(service.refused_starts for service in self.everybody)

    @property
    def unexpected(self) -> list[str]:
        """Descriptions of unexpected ends and of logged tracebacks."""
        found = [line for service in self.everybody for line in service.ended]
        for service in self.services:
            if b"Traceback" in service.log.read_bytes():
                found.append(f"{service.name} logged a traceback")
        return found
