"""What is done to the fleet and its database, and the plan of it: a seed repeats the plan."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import psycopg2

from tests.chaos.database import Peephole, peephole
from tests.chaos.fleet import Fleet, Member
from tests.chaos.hosts import Link
from tests.support.postgres_servers import Server

CATCH_SECONDS = 6.0
"""How long we lie in wait for the right moment, before we take any other."""
LOOK_SECONDS = 0.01
LONG_SECONDS = 35.0
"""Longer than the server leaves the study's lock to a process that is silent."""


@dataclass
class Scene:
    """What can be disturbed, and what has been."""

    fleet: Fleet
    server: Server
    url: str
    study: str
    link: Link | None = None
    done: Counter[str] = field(default_factory=Counter)
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """What ends a disturbance, with the time (monotonic) to do it."""

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, action))

    def end_what_is_due(self) -> None:
        now = time.monotonic()
        due = [action for moment, action in self.later if moment <= now]
        self.later = [(moment, action) for moment, action in self.later if moment > now]
        for action in due:
            action()

    def worker(self, place: int) -> Member | None:
        """A worker at work: the one in this place or, if it is not, the next."""
        workers = self.fleet.workers[place:] + self.fleet.workers[:place]
        return next((w for w in workers if w.free and w.ready), None)

    @contextlib.contextmanager
    def looking(self) -> Iterator[Callable[[], Peephole | None]]:
        """Yields what gives a peephole for ``CATCH_SECONDS``, and then, or without a database,
        None; the fleet is tended meanwhile."""
        deadline = time.monotonic() + CATCH_SECONDS
        with contextlib.ExitStack() as stack:
            try:
                hole = stack.enter_context(peephole(self.url, self.study))
            except psycopg2.Error:
                hole = None

            def look() -> Peephole | None:
                time.sleep(LOOK_SECONDS)
                self.end_what_is_due()
                self.fleet.tend()
                return hole if time.monotonic() < deadline else None

            yield look


class Disturbance(Protocol):
    """Returns whether there was something to disturb; if not, it is tried again."""

    def __call__(self, scene: Scene) -> bool: ...


@dataclass(frozen=True)
class EndWorker:
    """SIGKILL, whatever the worker in that place is doing, or SIGTERM: it puts its trial back."""

    place: int
    number: signal.Signals
    counted_as: str

    def __call__(self, scene: Scene) -> bool:
        worker = scene.worker(self.place)
        if worker is None:
            return False
        worker.end(self.number)
        scene.done[self.counted_as] += 1
        return True


@dataclass(frozen=True)
class KillClaimer:
    """SIGKILL to a worker that has claimed a trial and not yet reported an epoch of it."""

    def __call__(self, scene: Scene) -> bool:
        with scene.looking() as look:
            while (hole := look()) is not None:
                for worker in scene.fleet.workers:
                    if worker.free and _caught(worker, hole.has_claimed):
                        worker.end(signal.SIGKILL)
                        scene.done["killed"] += 1
                        scene.done["killed before the first report"] += 1
                        return True
        return False


@dataclass(frozen=True)
class FreezeWorker:
    """SIGSTOP for longer than the grace period, then SIGCONT: its trial is somebody else's."""

    place: int
    seconds: float

    def __call__(self, scene: Scene) -> bool:
        worker = scene.worker(self.place)
        if worker is None:
            return False
        worker.freeze()
        scene.after(self.seconds, worker.thaw)
        scene.done["frozen"] += 1
        return True


@dataclass(frozen=True)
class DisturbTicking:
    """Kill or freeze whoever ticks, in the midst of a tick."""

    seconds: float | None
    """How long to freeze it; None kills it."""

    def __call__(self, scene: Scene) -> bool:
        with scene.looking() as look:
            while (hole := look()) is not None:
                for member in reversed(scene.fleet.members):  # launch ticks most
                    if member.free and _caught(member, hole.is_ticking):
                        self._disturb(scene, member)
                        return True
        return False

    def _disturb(self, scene: Scene, member: Member) -> None:
        if self.seconds is None:
            member.end(signal.SIGKILL)
            is_worker = member is not scene.fleet.ticker
            scene.done["killed" if is_worker else "ticker killed"] += 1
            scene.done["killed in a tick"] += 1
        else:
            member.freeze()
            scene.after(self.seconds, member.thaw)
            scene.done["frozen"] += 1
            scene.done["frozen in a tick"] += 1


@dataclass(frozen=True)
class KillTicker:
    """SIGKILL to ``launch``, at any moment."""

    def __call__(self, scene: Scene) -> bool:
        ticker = scene.fleet.ticker
        if ticker is None or not ticker.free:
            return False
        ticker.end(signal.SIGKILL)
        scene.done["ticker killed"] += 1
        return True


@dataclass(frozen=True)
class RestartDatabase:
    """Stop Postgres, cleanly or by a crash, and start it again after a while."""

    mode: Literal["fast", "immediate"]
    seconds: float

    def __call__(self, scene: Scene) -> bool:
        scene.server.stop(self.mode)
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            scene.end_what_is_due()
            scene.fleet.tend()
        scene.server.start()
        scene.done[f"restarted {self.mode}"] += 1
        return True


@dataclass(frozen=True)
class CutLink:
    """Take the other host's link to the database down for longer than the grace period."""

    seconds: float

    def __call__(self, scene: Scene) -> bool:
        if scene.link is None or scene.link.is_cut:
            return False
        scene.link.cut()
        scene.after(self.seconds, scene.link.restore)
        scene.done["link cut"] += 1
        return True


def _caught(member: Member, is_right_moment: Callable[[int], bool]) -> bool:
    """Stop a process, look, and let it go on unless the moment is right: then it stays stopped."""
    member.send(signal.SIGSTOP)
    try:
        if is_right_moment(member.pid):
            return True
    except psycopg2.Error:
        pass
    member.send(signal.SIGCONT)
    return False


@dataclass(frozen=True)
class Counts:
    """How much of everything a plan holds."""

    kills: int
    kills_of_claimers: int
    terminations: int
    freezes: int
    freezes_in_a_tick: int
    ticker_kills: int
    kills_in_a_tick: int
    restarts: int
    long_freezes_in_a_tick: int = 0
    cuts: int = 0


Plan = list[tuple[float, Disturbance]]
"""Disturbances, each with the pause (s) before it."""


def draw(
    seed: int, counts: Counts, pause_seconds: float, grace_seconds: float, workers: int
) -> Plan:
    """A plan in random order, with exponential pauses of this mean."""
    chance = random.Random(seed)

    def place() -> int:
        return chance.randrange(workers)

    def longer() -> float:
        return grace_seconds * chance.uniform(1.3, 2.2)

    disturbances: list[Disturbance] = [
        *(EndWorker(place(), signal.SIGKILL, "killed") for _ in range(counts.kills)),
        *(KillClaimer() for _ in range(counts.kills_of_claimers)),
        *(EndWorker(place(), signal.SIGTERM, "terminated") for _ in range(counts.terminations)),
        *(FreezeWorker(place(), longer()) for _ in range(counts.freezes)),
        *(DisturbTicking(longer()) for _ in range(counts.freezes_in_a_tick)),
        *(DisturbTicking(LONG_SECONDS) for _ in range(counts.long_freezes_in_a_tick)),
        *(DisturbTicking(None) for _ in range(counts.kills_in_a_tick)),
        *(KillTicker() for _ in range(counts.ticker_kills)),
        *(
            RestartDatabase(("fast", "immediate")[i % 2], chance.uniform(0.0, 1.5 * grace_seconds))
            for i in range(counts.restarts)
        ),
        *(CutLink(longer()) for _ in range(counts.cuts)),
    ]
    chance.shuffle(disturbances)
    return [(chance.expovariate(1 / pause_seconds), each) for each in disturbances]


def required(counts: Counts) -> dict[str, int]:
    """What must have been done at least when the plan is carried out, by the scene's words."""
    killed = counts.kills + counts.kills_of_claimers
    in_a_tick = counts.freezes_in_a_tick + counts.long_freezes_in_a_tick
    wanted = {
        "killed": killed,
        "killed before the first report": counts.kills_of_claimers,
        "terminated": counts.terminations,
        "frozen": counts.freezes + in_a_tick,
        "frozen in a tick": in_a_tick,
        "ticker killed": counts.ticker_kills,
        "killed in a tick": counts.kills_in_a_tick,
        "restarted fast": (counts.restarts + 1) // 2,
        "restarted immediate": counts.restarts // 2,
        "link cut": counts.cuts,
    }
    return {what: count for what, count in wanted.items() if count}
