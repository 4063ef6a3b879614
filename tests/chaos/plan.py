"""The plan of a scenario: the disturbances that a seed draws."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass

from tests.chaos.disturbances import (
    AddBlackHole,
    CutLink,
    Disturbance,
    DisturbReconciling,
    EndWorker,
    FillDisk,
    FreezeWorker,
    KillBeforeReport,
    KillLauncher,
    Relaunch,
    RestartDatabase,
    StepClock,
)

LONG_SECONDS = 35.0
"""A freeze that outlasts the server's patience with a silent holder of the study's lock."""
CLOCK_STEPS = (-7200, -30, 30, 7200)
"""By how many seconds a clock is set forward or back."""


@dataclass(frozen=True)
class Counts:
    """How many disturbances of each kind a plan holds."""

    kills: int
    kills_before_a_report: int
    terminations: int
    freezes: int
    freezes_while_reconciling: int
    launcher_kills: int
    kills_while_reconciling: int
    restarts: int
    long_freezes_while_reconciling: int = 0
    cuts: int = 0
    database_clock_steps: int = 0
    worker_clock_steps: int = 0
    full_disks: int = 0
    black_holes: int = 0
    relaunches: int = 0


Plan = list[tuple[float, Disturbance]]
"""The disturbances in their order, each with the pause (s) before it."""


def draw(
    seed: int, counts: Counts, pause_seconds: float, grace_seconds: float, workers: int
) -> Plan:
    """Draw a plan in random order, with exponentially distributed pauses of mean
    ``pause_seconds``."""
    chance = random.Random(seed)

    def worker() -> int:
        return chance.randrange(workers)

    def beyond_grace() -> float:
        return grace_seconds * chance.uniform(1.3, 2.2)

    def clock_step() -> int:
        return chance.choice(CLOCK_STEPS)

    disturbances: list[Disturbance] = [
        *(EndWorker(worker(), signal.SIGKILL, "killed") for _ in range(counts.kills)),
        *(KillBeforeReport() for _ in range(counts.kills_before_a_report)),
        *(EndWorker(worker(), signal.SIGTERM, "terminated") for _ in range(counts.terminations)),
        *(FreezeWorker(worker(), beyond_grace()) for _ in range(counts.freezes)),
        *(DisturbReconciling(beyond_grace()) for _ in range(counts.freezes_while_reconciling)),
        *(DisturbReconciling(LONG_SECONDS) for _ in range(counts.long_freezes_while_reconciling)),
        *(DisturbReconciling(None) for _ in range(counts.kills_while_reconciling)),
        *(KillLauncher() for _ in range(counts.launcher_kills)),
        *(
            RestartDatabase(("fast", "immediate")[i % 2], chance.uniform(0.0, 1.5 * grace_seconds))
            for i in range(counts.restarts)
        ),
        *(CutLink(beyond_grace()) for _ in range(counts.cuts)),
        *(StepClock(0, clock_step()) for _ in range(counts.database_clock_steps)),
        *(StepClock(1 + worker(), clock_step()) for _ in range(counts.worker_clock_steps)),
        *(FillDisk(beyond_grace()) for _ in range(counts.full_disks)),
        *(AddBlackHole() for _ in range(counts.black_holes)),
    ]
    chance.shuffle(disturbances)
    for _ in range(counts.relaunches):  # early: what was trained by then is trained again
        disturbances.insert(chance.randint(1, max(1, len(disturbances) // 3)), Relaunch())
    return [(chance.expovariate(1 / pause_seconds), each) for each in disturbances]


def required(counts: Counts) -> dict[str, int]:
    """The fewest disturbances of each kind that count as a plan carried out, by the names in
    :attr:`Target.done`."""
    killed = counts.kills + counts.kills_before_a_report
    while_reconciling = counts.freezes_while_reconciling + counts.long_freezes_while_reconciling
    wanted = {
        "killed": killed,
        "killed before the first report": counts.kills_before_a_report,
        "terminated": counts.terminations,
        "frozen": counts.freezes + while_reconciling,
        "frozen while reconciling": while_reconciling,
        "launch killed": counts.launcher_kills,
        "killed while reconciling": counts.kills_while_reconciling,
        "restarted fast": (counts.restarts + 1) // 2,
        "restarted immediate": counts.restarts // 2,
        "link cut": counts.cuts,
        "database's clock set": counts.database_clock_steps,
        "worker's clock set": counts.worker_clock_steps,
        "disk full": counts.full_disks,
        "black hole": counts.black_holes,
        "deleted and launched again": counts.relaunches,
    }
    return {what: count for what, count in wanted.items() if count}
