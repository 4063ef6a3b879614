"""The study's processes, started again whenever they end, as Slurm or systemd would."""

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
"""A worker that is asked to end and has not by then hangs."""
RESTART_SECONDS = 0.5
"""Between a process's end and the start of the next, as supervisors wait too."""
DUMP_SECONDS = 5.0
READY = {"worker": " serves ", "launch": "study "}
"""What a command says when it is connected to the database and takes signals."""


@dataclass
class Member:
    """One place in the fleet, and the process that fills it at the moment."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    asked: signal.Signals | None = None
    """The signal that we sent this process to end it."""
    asked_at: float = 0.0
    restart_at: float | None = None
    frozen: bool = False
    ended: list[str] = field(default_factory=list)
    """Ends that nobody asked for, with the last line that was logged."""
    turned_away: int = 0
    """Ends at the start, because the database was away just then."""
    _log_start: int = 0

    def start(self) -> None:
        """Fill the place with a new process."""
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
        """Whether it runs and nobody disturbs it at the moment."""
        return self.alive and not self.frozen and self.asked is None

    @property
    def ready(self) -> bool:
        """Whether it has begun its work."""
        return READY[self.name.partition("-")[0]] in self._words()

    def _words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Signal the process; it may have ended by itself in the meantime."""
        if self.alive and self.process is not None:
            self.process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        """Ask it, or force it, to end; :meth:`Fleet.tend` starts another."""
        self.asked, self.asked_at = number, time.monotonic()
        self.send(number)

    def freeze(self) -> None:
        self.frozen = True
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.send(signal.SIGCONT)

    def abort(self) -> None:
        """End a process that hangs, so that it logs where (faulthandler, on SIGABRT)."""
        self.ended.append(f"{self.name} did not drain within {DRAIN_SECONDS:g} s")
        self.send(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process is not None:
                self.process.wait(DUMP_SECONDS)
        self.send(signal.SIGKILL)

    def note_end(self) -> None:
        """Remember an end that is not what was asked for."""
        code = self.process.returncode if self.process else None
        if self.asked == signal.SIGKILL:
            return
        if self.asked == signal.SIGTERM and code in ((0,) if self.ready else (0, -signal.SIGTERM)):
            return
        last = (self._words().strip().splitlines() or ["(nothing)"])[-1]
        if not self.ready and last.startswith("kdecay: storage"):
            self.turned_away += 1
            return
        asked = f" after {self.asked.name}" if self.asked else ""
        self.ended.append(f"{self.name} ended with code {code}{asked}: {last}")


class Fleet:
    """Workers, and one ``launch`` that ticks; all are replaced when they end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[Member] = []
        self.ticker: Member | None = None

    @property
    def members(self) -> list[Member]:
        return [*self.workers, *([self.ticker] if self.ticker else [])]

    def add_worker(self, kdecay: Kdecay, study: str, prefix: Sequence[str] = ()) -> Member:
        """A worker of ``study``; ``prefix`` runs it elsewhere, such as in a network namespace."""
        command = [*prefix, *KDECAY, "worker", "--study", study]
        member = self._member(f"worker-{len(self.workers)}", command, kdecay)
        self.workers.append(member)
        return member

    def set_ticker(self, kdecay: Kdecay, launch: Sequence[str]) -> None:
        command = [*KDECAY, "launch", *launch, "--workers", "0"]
        self.ticker = self._member("launch", command, kdecay)

    def _member(self, name: str, command: Sequence[str], kdecay: Kdecay) -> Member:
        environment = {**kdecay.environment, "PYTHONFAULTHANDLER": "1"}
        member = Member(name, command, environment, self.folder / f"{name}.log")
        member.start()
        return member

    def tend(self) -> bool:
        """Start those again that ended; False once ``launch`` has seen the end of the study."""
        for member in self.members:
            if member.alive:
                self._insist(member)
                continue
            if member is self.ticker and member.process and member.process.returncode in (0, 1):
                return False
            self._replace(member)
        return True

    @staticmethod
    def _replace(member: Member) -> None:
        now = time.monotonic()
        if member.restart_at is None:
            member.note_end()
            member.restart_at = now + RESTART_SECONDS
        elif now >= member.restart_at:
            member.start()

    def _insist(self, member: Member) -> None:
        """Kill a worker that does not drain, and say so."""
        hangs = member.asked == signal.SIGTERM and not member.frozen
        if hangs and time.monotonic() - member.asked_at > DRAIN_SECONDS:
            member.abort()
            member.asked = signal.SIGKILL

    def dismiss(self) -> None:
        """End all workers cleanly, the frozen ones too."""
        for member in self.members:
            member.thaw()
            if member.alive and member.asked is None:
                member.end(signal.SIGTERM)
        for member in self.members:
            self._see_off(member)

    def _see_off(self, member: Member) -> None:
        if member.process is None:
            return
        try:
            member.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            member.abort()
            self.kill(member)
        else:
            if member is not self.ticker and member.restart_at is None:
                member.note_end()

    def kill_all(self) -> None:
        """Whatever has happened, leave no process behind."""
        for member in self.members:
            self.kill(member)

    @staticmethod
    def kill(member: Member) -> None:
        if member.alive and member.process is not None:
            os.killpg(member.pid, signal.SIGKILL)
            member.process.wait()

    @property
    def turned_away(self) -> int:
        return sum(member.turned_away for member in self.members)

    @property
    def surprises(self) -> list[str]:
        """Ends that nobody asked for, and tracebacks."""
        found = [line for member in self.members for line in member.ended]
        for member in self.members:
            if b"Traceback" in member.log.read_bytes():
                found.append(f"{member.name} logged a traceback")
        return found
