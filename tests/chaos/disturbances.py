"""Disturbances of the fleet, its database, its machines and its study."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import psycopg2

from tests.chaos.clocks import Clock
from tests.chaos.database import DatabaseProbe, database_probe
from tests.chaos.disks import SmallDisk
from tests.chaos.fleet import Fleet, Service
from tests.chaos.hosts import Link
from tests.support.kdecay_command import Kdecay
from tests.support.postgres_servers import Server

WATCH_SECONDS = 6.0
"""Longest wait for the right moment of a disturbance; after that the next one is tried."""
LOOK_SECONDS = 0.01
"""Time between two looks for the right moment."""


@dataclass
class Target:
    """What the disturbances act on, and a record of those that were carried out."""

    fleet: Fleet
    """The study's processes."""
    server: Server
    """The Postgres server."""
    url: str
    """URL of the database."""
    study: str
    """Name of the study."""
    link: Link | None = None
    """Link to the second host, if there is one."""
    clocks: Sequence[Clock] = ()
    """The clocks of the database and of the workers, as far as they can step."""
    disk: SmallDisk | None = None
    """The disk that holds the checkpoints, if it can be filled."""
    kdecay: Kdecay | None = None
    """The command, for those that a user gives meanwhile."""
    launch: Sequence[str] = ()
    """The arguments that launch the study."""
    done: Counter[str] = field(default_factory=Counter)
    """How many disturbances of each kind were carried out."""
    _scheduled: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """Actions that end a disturbance, with the time (monotonic, s) at which each is due."""

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Schedule the end of a disturbance."""
        self._scheduled.append((time.monotonic() + seconds, action))

    def end_due_disturbances(self) -> None:
        """End the disturbances that have lasted long enough."""
        now = time.monotonic()
        due = [action for moment, action in self._scheduled if moment <= now]
        self._scheduled = [(moment, action) for moment, action in self._scheduled if moment > now]
        for action in due:
            action()

    def end_disturbances(self) -> None:
        """End all disturbances now."""
        due, self._scheduled = self._scheduled, []
        for _, action in due:
            action()

    def worker(self, index: int) -> Service | None:
        """The worker of this index or, if that is not at work, the next one that is."""
        workers = self.fleet.workers[index:] + self.fleet.workers[:index]
        return next((w for w in workers if w.free and w.ready), None)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Callable[[], DatabaseProbe | None]]:
        """Yield a function to call until it returns None: it looks after the fleet and returns a
        probe for ``WATCH_SECONDS``, or None at once if the database is unavailable."""
        deadline = time.monotonic() + WATCH_SECONDS
        with contextlib.ExitStack() as stack:
            try:
                probe = stack.enter_context(database_probe(self.url, self.study))
            except psycopg2.Error:
                probe = None

            def look() -> DatabaseProbe | None:
                time.sleep(LOOK_SECONDS)
                self.end_due_disturbances()
                self.fleet.restart_ended()
                return probe if time.monotonic() < deadline else None

            yield look


class Disturbance(Protocol):
    """Disturbs the target; returns False if there was nothing to disturb, to be tried again."""

    def __call__(self, target: Target) -> bool: ...


@dataclass(frozen=True)
class EndWorker:
    """Send a worker SIGKILL, or SIGTERM, after which it releases its trial."""

    index: int
    """Index of the worker in the fleet."""
    number: signal.Signals
    """The signal to send."""
    counted_as: str
    """Name under which the disturbance is counted."""

    def __call__(self, target: Target) -> bool:
        worker = target.worker(self.index)
        if worker is None:
            return False
        worker.end(self.number)
        target.done[self.counted_as] += 1
        return True


@dataclass(frozen=True)
class KillBeforeReport:
    """Send SIGKILL to a worker that has claimed a trial and not yet reported an epoch of it."""

    def __call__(self, target: Target) -> bool:
        with target.watching() as look:
            while (probe := look()) is not None:
                for worker in target.fleet.workers:
                    has_claimed = partial(probe.has_claimed, worker.worker)
                    if worker.free and _stop_at(worker, has_claimed):
                        worker.end(signal.SIGKILL)
                        target.done["killed"] += 1
                        target.done["killed before the first report"] += 1
                        return True
        return False


@dataclass(frozen=True)
class FreezeWorker:
    """Freeze a worker for longer than the grace period, so that its trial is reaped."""

    index: int
    """Index of the worker in the fleet."""
    seconds: float
    """Time between SIGSTOP and SIGCONT."""

    def __call__(self, target: Target) -> bool:
        worker = target.worker(self.index)
        if worker is None:
            return False
        worker.freeze()
        target.after(self.seconds, worker.thaw)
        target.done["frozen"] += 1
        return True


@dataclass(frozen=True)
class DisturbReconciling:
    """Kill or freeze a process while it reconciles the study."""

    seconds: float | None
    """How long to freeze the process; None kills it."""

    def __call__(self, target: Target) -> bool:
        with target.watching() as look:
            while (probe := look()) is not None:
                for service in reversed(target.fleet.services):  # launch reconciles most often
                    is_reconciling = partial(probe.is_reconciling, service.pid)
                    if service.free and _stop_at(service, is_reconciling):
                        self._disturb(target, service)
                        return True
        return False

    def _disturb(self, target: Target, service: Service) -> None:
        if self.seconds is None:
            service.end(signal.SIGKILL)
            is_worker = service is not target.fleet.launcher
            target.done["killed" if is_worker else "launch killed"] += 1
            target.done["killed while reconciling"] += 1
        else:
            service.freeze()
            target.after(self.seconds, service.thaw)
            target.done["frozen"] += 1
            target.done["frozen while reconciling"] += 1


@dataclass(frozen=True)
class KillLauncher:
    """Send SIGKILL to ``launch``, at any moment."""

    def __call__(self, target: Target) -> bool:
        launcher = target.fleet.launcher
        if launcher is None or not launcher.free:
            return False
        launcher.end(signal.SIGKILL)
        target.done["launch killed"] += 1
        return True


@dataclass(frozen=True)
class RestartDatabase:
    """Stop Postgres, cleanly or by a crash, and start it again after a while."""

    mode: Literal["fast", "immediate"]
    """How ``pg_ctl`` stops the server; ``immediate`` is a crash."""
    seconds: float
    """Time until the server is started again."""

    def __call__(self, target: Target) -> bool:
        target.server.stop(self.mode)
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            target.end_due_disturbances()
            target.fleet.restart_ended()
        target.server.start()
        target.done[f"restarted {self.mode}"] += 1
        return True


@dataclass(frozen=True)
class StepClock:
    """Set a clock forward or back; it stays so."""

    index: int
    """Index of the clock among :attr:`Target.clocks`: the first is the database's."""
    seconds: int
    """By how much; negative is back."""

    def __call__(self, target: Target) -> bool:
        target.clocks[self.index].step(self.seconds)
        target.done["database's clock set" if self.index == 0 else "worker's clock set"] += 1
        return True


@dataclass(frozen=True)
class FillDisk:
    """Fill the disk that holds the checkpoints, for a while."""

    seconds: float
    """Time until there is space again."""

    def __call__(self, target: Target) -> bool:
        if target.disk is None:
            return False
        target.disk.fill()
        target.after(self.seconds, target.disk.empty)
        target.done["disk full"] += 1
        return True


@dataclass(frozen=True)
class AddBlackHole:
    """Add a worker on a machine of its own that fails every run at once, until the end."""

    def __call__(self, target: Target) -> bool:
        if target.kdecay is None:
            return False
        program = [sys.executable, "-m", "tests.chaos.black_hole"]
        target.fleet.add_guest(target.kdecay, [*program, "worker", "--study", target.study])
        target.done["black hole"] += 1
        return True


@dataclass(frozen=True)
class Relaunch:
    """Delete the study while its workers train it, and launch it again under its name."""

    def __call__(self, target: Target) -> bool:
        if target.kdecay is None:
            return False
        target.fleet.orphan_all()
        target.kdecay.run("delete", target.study, "--yes")
        target.kdecay.run("launch", *target.launch, "--detach", "--workers", "0")
        target.done["deleted and launched again"] += 1
        return True


@dataclass(frozen=True)
class CutLink:
    """Cut the second host's link to the database for longer than the grace period."""

    seconds: float
    """Time until the link is restored."""

    def __call__(self, target: Target) -> bool:
        if target.link is None or target.link.is_cut:
            return False
        target.link.cut()
        target.after(self.seconds, target.link.restore)
        target.done["link cut"] += 1
        return True


def _stop_at(service: Service, is_right_moment: Callable[[], bool]) -> bool:
    """Stop a process; return whether the moment is right, and else continue the process."""
    service.send(signal.SIGSTOP)
    try:
        if is_right_moment():
            return True
    except psycopg2.Error:
        pass
    service.send(signal.SIGCONT)
    return False
