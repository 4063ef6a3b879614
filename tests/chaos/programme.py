"""One whole programme: a study undisturbed, the same study disturbed, and the judgement."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import studies
from tests.chaos.disturbances import Counts, Plan, Scene, draw, required
from tests.chaos.fleet import Fleet
from tests.chaos.hosts import Link, second_host
from tests.chaos.judgement import differences, read_outcome, reasons
from tests.support.kdecay_command import Kdecay
from tests.support.postgres_servers import LOOPBACK, PASSWORD, Server, password_server

WORKERS = 4
TEND_SECONDS = 0.05

SHORT = Counts(
    kills=4,
    kills_of_claimers=2,
    terminations=2,
    freezes=1,
    freezes_in_a_tick=1,
    ticker_kills=0,
    kills_in_a_tick=1,
    restarts=2,
)
FULL = Counts(
    kills=14,
    kills_of_claimers=8,
    terminations=6,
    freezes=4,
    freezes_in_a_tick=1,
    ticker_kills=2,
    kills_in_a_tick=2,
    restarts=4,
    long_freezes_in_a_tick=1,
)


@dataclass(frozen=True)
class Programme:
    """What is run."""

    task: studies.Task = "simulated"
    pruning: bool = False
    short: bool = False
    hosts: int = 1
    seed: int = 0

    @property
    def counts(self) -> Counts:
        counts = SHORT if self.short else FULL
        return Counts(**{**vars(counts), "cuts": 3}) if self.hosts > 1 else counts

    @property
    def pause_seconds(self) -> float:
        if self.task == "digits":
            return 3.0  # a worker needs that long to import torch
        return 0.5 if self.short else 0.8

    @property
    def limit_seconds(self) -> float:
        """A study that takes so long hangs."""
        return 300.0 if self.short else 900.0

    @property
    def disturbed(self) -> list[str]:
        """What launches the study that is disturbed …"""
        values = studies.disturbed(self.task, self.pruning, self.short)
        return studies.launch_arguments(self.task, values)

    @property
    def undisturbed(self) -> list[str]:
        """… and the one that it is compared with."""
        values = studies.undisturbed(self.task, self.pruning, self.short)
        return studies.launch_arguments(self.task, values)


@dataclass
class Report:
    """What was done, and what came of it."""

    programme: Programme
    done: Counter[str]
    runs: int = 0
    pruned: int = 0
    resumed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    logs: Path | None = None

    def line(self) -> str:
        """The summary in one line."""
        what = self.programme
        done = ", ".join(f"{count} {how}" for how, count in self.done.items())
        failed = ", ".join(f"{count} {why}" for why, count in self.failed.items()) or "none"
        hosts = f", {what.hosts} hosts" if what.hosts > 1 else ""
        answer = f"{len(self.differences)} differences"
        return (
            f"chaos {what.task}, pruning {'on' if what.pruning else 'off'}{hosts}, "
            f"seed {what.seed}: {self.runs} runs, {self.pruned} pruned; {WORKERS} workers; {done}; "
            f"{self.turned_away} started while the database was away; "
            f"trials failed: {failed}; {self.resumed} resumed; {self.seconds:.0f} s; {answer}"
        )


def run(programme: Programme) -> Report:
    """Run it; the processes' logs are kept if something differs."""
    folder = Path(tempfile.mkdtemp(prefix="kdecay-chaos-"))
    report = Report(programme, Counter(), logs=folder)
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(second_host()) if programme.hosts > 1 else None
        addresses = (LOOPBACK, link.near) if link else (LOOPBACK,)
        server = stack.enter_context(password_server(addresses))
        _play(programme, folder, server, link, report)
    if not report.differences:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _play(
    programme: Programme, folder: Path, server: Server, link: Link | None, report: Report
) -> None:
    kdecay = Kdecay(folder, server.url(PASSWORD))
    calm = _undisturbed(kdecay, programme)
    started = time.monotonic()
    kdecay.run("launch", *programme.disturbed, "--detach", "--workers", "0")
    with _fleet(programme, folder, server, link) as fleet:
        scene = Scene(fleet, server, server.url(PASSWORD), "disturbed", link, report.done)
        plan = draw(programme.seed, programme.counts, programme.pause_seconds,
                    studies.GRACE_SECONDS, WORKERS)  # fmt: skip
        ended = _disturb(scene, plan, programme.limit_seconds)
        fleet.dismiss()
        report.differences += fleet.surprises
        report.turned_away = fleet.turned_away
    report.seconds = time.monotonic() - started
    if not ended:
        report.differences.append(f"no end after {programme.limit_seconds:g} s")
    outcome = read_outcome(scene.url, "disturbed", kdecay.json("status", "disturbed"))
    undisturbed = read_outcome(scene.url, "undisturbed", calm)
    report.differences += differences(outcome, undisturbed, programme.pruning)
    report.differences += _shortfall(programme, report.done)
    report.runs, report.pruned = len(outcome.finished), outcome.count("PRUNED")
    report.failed, report.resumed = reasons(outcome), outcome.resumed


def _undisturbed(kdecay: Kdecay, programme: Programme) -> dict[str, Any]:
    """Launch the study to compare with, in peace; its ``--json``."""
    process = kdecay.start("launch", *programme.undisturbed, "--workers", "2", "--json")
    try:
        shown, said = process.communicate(timeout=programme.limit_seconds)
    except BaseException:
        process.terminate()  # it ends its workers
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"the undisturbed study failed: {said}")
    result: dict[str, Any] = json.loads(shown)
    return result


@contextlib.contextmanager
def _fleet(
    programme: Programme, folder: Path, server: Server, link: Link | None
) -> Iterator[Fleet]:
    """Four workers, every other one on the second host if there is one, and a launch."""
    here = Kdecay(folder, server.url(PASSWORD))
    there = Kdecay(folder, server.url(PASSWORD, address=link.near)) if link else here
    fleet = Fleet(folder)
    try:
        fleet.set_ticker(here, programme.disturbed)
        for place in range(WORKERS):
            is_far = link is not None and place % 2 == 1
            prefix = link.prefix if link is not None and is_far else []
            fleet.add_worker(there if is_far else here, "disturbed", prefix)
        yield fleet
    finally:
        fleet.kill_all()


def _disturb(scene: Scene, plan: Plan, limit_seconds: float) -> bool:
    """Carry the plan out while the study runs; whether the study came to its end."""
    deadline = time.monotonic() + limit_seconds
    waiting = list(plan)
    next_at = time.monotonic() + (waiting[0][0] if waiting else 0.0)
    while time.monotonic() < deadline:
        scene.end_what_is_due()
        if not scene.fleet.tend():
            return True
        if waiting and time.monotonic() >= next_at:
            disturbance = waiting.pop(0)[1]
            if not disturbance(scene):
                waiting.append((0.0, disturbance))
            next_at = time.monotonic() + (waiting[0][0] if waiting else 0.0)
        time.sleep(TEND_SECONDS)
    return False


def _shortfall(programme: Programme, done: Counter[str]) -> list[str]:
    """What of the plan was not done, because the study was over too soon."""
    return [
        f"{what}: {done[what]} of {count} planned"
        for what, count in required(programme.counts).items()
        if done[what] < count
    ]
