"""A whole scenario: a study undisturbed, the same study disturbed, and their comparison."""

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

from tests.chaos import clocks, containers, disks, studies
from tests.chaos.clocks import Clock
from tests.chaos.comparison import differences, read_outcome, reasons
from tests.chaos.disks import SmallDisk
from tests.chaos.disturbances import Target
from tests.chaos.fleet import Fleet
from tests.chaos.hosts import Link, second_host
from tests.chaos.plan import Counts, Plan, draw, required
from tests.support.kdecay_command import Kdecay
from tests.support.postgres_servers import LOOPBACK, PASSWORD, Server, password_server

CHECK_SECONDS = 0.05
"""Time between two looks at the fleet."""

SHORT = Counts(
    kills=0,
    kills_before_a_report=1,
    terminations=1,
    freezes=1,
    freezes_while_reconciling=0,
    launcher_kills=0,
    kills_while_reconciling=1,
    restarts=1,
    database_clock_steps=1,
    worker_clock_steps=1,
    full_disks=1,
    black_holes=1,
    relaunches=1,
)
FULL = Counts(
    kills=14,
    kills_before_a_report=8,
    terminations=6,
    freezes=4,
    freezes_while_reconciling=1,
    launcher_kills=2,
    kills_while_reconciling=2,
    restarts=4,
    long_freezes_while_reconciling=1,
    database_clock_steps=3,
    worker_clock_steps=3,
    full_disks=3,
    black_holes=1,
    relaunches=1,
)
CONTAINED = 2
"""How many of the workers are in containers of their own, where that is possible: each is the first
process there, so that they have one process id and one host name."""
DISK_MEGABYTES = 64
"""Size of the disk that holds the checkpoints, where it can be filled."""


@dataclass(frozen=True)
class Scenario:
    """What a chaos test runs."""

    task: studies.Task = "simulated"
    """The task that the study trains."""
    pruning: bool = False
    """Whether runs of the disturbed study are pruned."""
    short: bool = False
    """Whether to run the short form, with a fifth of the disturbances."""
    hosts: int = 1
    """How many hosts the workers run on."""
    seed: int = 0
    """Seed of the disturbances."""

    @property
    def counts(self) -> Counts:
        """How many disturbances of each kind there are."""
        counts = vars(SHORT if self.short else FULL)
        if self.hosts > 1:
            counts = {**counts, "cuts": 3}
        if clocks.unavailable_reason() is not None:
            counts = {**counts, "database_clock_steps": 0, "worker_clock_steps": 0}
        if disks.unavailable_reason() is not None:
            counts = {**counts, "full_disks": 0}
        return Counts(**counts)

    @property
    def workers(self) -> int:
        """Number of workers of the disturbed study."""
        return 2 if self.short else 4

    @property
    def pause_seconds(self) -> float:
        """Mean pause between two disturbances."""
        if self.task == "digits":
            return 3.0  # a worker needs that long to import torch
        return 0.3 if self.short else 0.8

    @property
    def grace_seconds(self) -> float:
        """The grace period of the disturbed study."""
        return studies.grace_seconds(self.short)

    @property
    def limit_seconds(self) -> float:
        """A study that takes longer than this hangs."""
        return 300.0 if self.short else 900.0

    @property
    def disturbed(self) -> list[str]:
        """Arguments that launch the study to be disturbed."""
        values = studies.disturbed(self.task, self.pruning, self.short)
        return studies.launch_arguments(self.task, values)

    @property
    def undisturbed(self) -> list[str]:
        """Arguments that launch the study to compare with."""
        values = studies.undisturbed(self.task, self.pruning, self.short)
        return studies.launch_arguments(self.task, values)


@dataclass
class Report:
    """What was done, and its result."""

    scenario: Scenario
    """The scenario that was run."""
    done: Counter[str]
    """How many disturbances of each kind were carried out."""
    runs: int = 0
    """How many runs the disturbed study has finished."""
    pruned: int = 0
    """How many runs were pruned, or never started."""
    paused: int = 0
    """How many trials were paused, for some time or until they ended as pruned."""
    resumed: int = 0
    """How many trials resumed from a checkpoint."""
    failed: Counter[str] = field(default_factory=Counter)
    """How many trials failed, by reason."""
    refused_starts: int = 0
    """How many processes ended at once because the database was unavailable."""
    seconds: float = 0.0
    """Duration of the disturbed study."""
    differences: list[str] = field(default_factory=list)
    """Descriptions of the differences from the undisturbed study."""
    logs: Path | None = None
    """Folder that holds the logs of all processes."""

    def line(self) -> str:
        """The summary in one line."""
        what = self.scenario
        done = ", ".join(f"{count} {how}" for how, count in self.done.items())
        failed = ", ".join(f"{count} {why}" for why, count in self.failed.items()) or "none"
        hosts = f", {what.hosts} hosts" if what.hosts > 1 else ""
        missing = "".join(f"; no {thing}: {reason}" for thing, reason in unavailable().items())
        answer = f"{len(self.differences)} differences"
        return (
            f"chaos {what.task}, pruning {'on' if what.pruning else 'off'}{hosts}, "
            f"seed {what.seed}: {self.runs} runs, {self.pruned} pruned, {self.paused} paused; "
            f"{what.workers} workers; "
            f"{done}; "
            f"{self.refused_starts} started while the database was unavailable; "
            f"trials failed: {failed}; {self.resumed} resumed; "
            f"{self.seconds:.0f} s{missing}; {answer}"
        )


def unavailable() -> dict[str, str]:
    """What cannot be tried on this machine, with the reason."""
    reasons = {
        "containers": containers.unavailable_reason(),
        "clocks that step": clocks.unavailable_reason(),
        "full disk": disks.unavailable_reason(),
    }
    return {what: reason for what, reason in reasons.items() if reason is not None}


@dataclass
class Place:
    """Where a scenario takes place."""

    logs: Path
    """Folder that holds the logs of all processes."""
    home: Path
    """KDECAY_HOME of all processes, with the checkpoints in it."""
    server: Server
    """The Postgres server."""
    clocks: list[Clock]
    """Clocks that can step: the server's, and one for each worker; empty if there are none."""
    disk: SmallDisk | None
    """The disk that holds ``home``, if it can be filled."""
    link: Link | None
    """Link to the second host, if there is one."""

    def kdecay(self, address: str = LOOPBACK) -> Kdecay:
        """The command, on the server at one of its addresses."""
        return Kdecay(self.home, self.server.url(PASSWORD, address=address))


@contextlib.contextmanager
def _place(scenario: Scenario, folder: Path) -> Iterator[Place]:
    folder.chmod(0o755)  # the server's user reads its clock there
    home = folder / "home"
    home.mkdir()
    with contextlib.ExitStack() as stack:
        stepping: list[Clock] = []
        if clocks.unavailable_reason() is None:
            made = clocks.Clocks(folder / "clocks")
            stepping = [made.new(name) for name in ("server", *map(str, range(scenario.workers)))]
        disk = None
        if disks.unavailable_reason() is None:
            disk = stack.enter_context(disks.small_disk(home, DISK_MEGABYTES))
        link = stack.enter_context(second_host()) if scenario.hosts > 1 else None
        addresses = (LOOPBACK, link.near) if link else (LOOPBACK,)
        variables = stepping[0].environment if stepping else {}
        server = stack.enter_context(password_server(addresses, variables))
        yield Place(folder, home, server, stepping, disk, link)


def run(scenario: Scenario) -> Report:
    """Run a scenario; the logs of its processes are kept if something differs."""
    folder = Path(tempfile.mkdtemp(prefix="kdecay-chaos-"))
    report = Report(scenario, Counter(), logs=folder)
    with _place(scenario, folder) as place:
        _run_studies(scenario, place, report)
    if not report.differences:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _run_studies(scenario: Scenario, place: Place, report: Report) -> None:
    kdecay, url = place.kdecay(), place.server.url(PASSWORD)
    summary = _run_undisturbed(kdecay, scenario)
    started = time.monotonic()
    kdecay.run("launch", *scenario.disturbed, "--detach", "--workers", "0")
    with _fleet(scenario, place) as fleet:
        target = Target(
            fleet, place.server, url, "disturbed", place.link, place.clocks, place.disk, kdecay,
            scenario.disturbed, report.done,
        )  # fmt: skip
        plan = draw(scenario.seed, scenario.counts, scenario.pause_seconds,
                    scenario.grace_seconds, scenario.workers)  # fmt: skip
        ended = _carry_out(target, plan, scenario.limit_seconds)
        target.end_disturbances()
        fleet.drain()
        report.differences += fleet.unexpected
        report.refused_starts = fleet.refused_starts
    report.seconds = time.monotonic() - started
    if not ended:
        report.differences.append(f"no end after {scenario.limit_seconds:g} s")
    outcome = read_outcome(url, "disturbed", kdecay.json("status", "disturbed"))
    undisturbed = read_outcome(url, "undisturbed", summary)
    names = sorted(each["study"] for each in json.loads(kdecay.run("list", "--json").stdout))
    if names != ["disturbed", "undisturbed"]:
        report.differences.append(f"there are the studies {names}")
    report.differences += differences(outcome, undisturbed, scenario.pruning)
    report.differences += _shortfall(scenario, report.done)
    report.runs, report.pruned = len(outcome.finished), outcome.count("PRUNED")
    report.paused = outcome.paused
    report.failed, report.resumed = reasons(outcome), outcome.resumed


def _run_undisturbed(kdecay: Kdecay, scenario: Scenario) -> dict[str, Any]:
    """Run the study to compare with; return its ``--json`` output."""
    process = kdecay.start("launch", *scenario.undisturbed, "--workers", "1", "--json")
    try:
        stdout, stderr = process.communicate(timeout=scenario.limit_seconds)
    except BaseException:
        process.terminate()  # it ends its workers
        process.communicate()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"the undisturbed study failed: {stderr}")
    result: dict[str, Any] = json.loads(stdout)
    return result


@contextlib.contextmanager
def _fleet(scenario: Scenario, place: Place) -> Iterator[Fleet]:
    """A ``launch`` and four workers, every other one on the second host if there is one."""
    here, link = place.kdecay(), place.link
    there = place.kdecay(link.near) if link else here
    fleet = Fleet(place.logs)
    has_containers = containers.unavailable_reason() is None
    try:
        fleet.set_launcher(here, scenario.disturbed)
        for index in range(scenario.workers):
            is_far = link is not None and index % 2 == 1
            is_contained = has_containers and index < CONTAINED
            prefix = [
                *(link.prefix if link is not None and is_far else []),
                *(containers.PREFIX if is_contained else []),
            ]
            variables = place.clocks[1 + index].environment if place.clocks else {}
            kdecay = there if is_far else here
            fleet.add_worker(kdecay, "disturbed", prefix, variables, is_contained)
        yield fleet
    finally:
        fleet.kill_all()


def _carry_out(target: Target, plan: Plan, limit_seconds: float) -> bool:
    """Carry out the plan while the study runs; return whether the study ended in time."""
    deadline = time.monotonic() + limit_seconds
    waiting = list(plan)
    next_at = time.monotonic() + (waiting[0][0] if waiting else 0.0)
    while time.monotonic() < deadline:
        target.end_due_disturbances()
        if not target.fleet.restart_ended():
            return True
        if waiting and time.monotonic() >= next_at:
            disturbance = waiting.pop(0)[1]
            if not disturbance(target):
                waiting.append((0.0, disturbance))
            next_at = time.monotonic() + (waiting[0][0] if waiting else 0.0)
        time.sleep(CHECK_SECONDS)
    return False


def _shortfall(scenario: Scenario, done: Counter[str]) -> list[str]:
    """Disturbances that were planned and not carried out because the study ended too soon."""
    return [
        f"{what}: {done[what]} of {count} planned"
        for what, count in required(scenario.counts).items()
        if done[what] < count
    ]
