"""The study's processes, restarted whenever they end, as Slurm or systemd would."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
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
        return self.process.pid if self.process else -1

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

    def _output(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.alive and self.process is not None:
            self.process.send_signal(number)

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
        if self.asked == signal.SIGTERM and code in ((0,) if self.ready else (0, -signal.SIGTERM)):
            return
        last = (self._output().strip().splitlines() or ["(nothing)"])[-1]
        if not self.ready and last.startswith("kdecay: storage"):
            self.refused_starts += 1
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

    @property
    def services(self) -> list[Service]:
        return [*self.workers, *([self.launcher] if self.launcher else [])]

    def add_worker(self, kdecay: Kdecay, study: str, prefix: Sequence[str] = ()) -> Service:
        """Start a worker of ``study``; ``prefix`` is a command that runs it on another host."""
        command = [*prefix, *KDECAY, "worker", "--study", study]
        service = self._start_service(f"worker-{len(self.workers)}", command, kdecay)
        self.workers.append(service)
        return service

    def set_launcher(self, kdecay: Kdecay, launch: Sequence[str]) -> None:
        """Start ``kdecay launch`` with these arguments."""
        command = [*KDECAY, "launch", *launch, "--workers", "0"]
        self.launcher = self._start_service("launch", command, kdecay)

    def _start_service(self, name: str, command: Sequence[str], kdecay: Kdecay) -> Service:
        environment = {**kdecay.environment, "PYTHONFAULTHANDLER": "1"}
        service = Service(name, command, environment, self.folder / f"{name}.log")
        service.start()
        return service

    def restart_ended(self) -> bool:
        """Restart what has ended; return False once ``launch`` has seen the end of the study."""
        for service in self.services:
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
        for service in self.services:
            service.thaw()
            if service.alive and service.asked is None:
                service.end(signal.SIGTERM)
        for service in self.services:
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
        for service in self.services:
            self.kill(service)

    @staticmethod
    def kill(service: Service) -> None:
        if service.alive and service.process is not None:
            os.killpg(service.pid, signal.SIGKILL)
            service.process.wait()

    @property
    def refused_starts(self) -> int:
        return sum(service.refused_starts for service in self.services)

    @property
    def unexpected(self) -> list[str]:
        """Descriptions of unexpected ends and of logged tracebacks."""
        found = [line for service in self.services for line in service.ended]
        for service in self.services:
            if b"Traceback" in service.log.read_bytes():
                found.append(f"{service.name} logged a traceback")
        return found
