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

from tests.chaos import studies
from tests.chaos.comparison import differences, read_outcome, reasons
from tests.chaos.disturbances import Counts, Plan, Target, draw, required
from tests.chaos.fleet import Fleet
from tests.chaos.hosts import Link, second_host
from tests.support.kdecay_command import Kdecay
from tests.support.postgres_servers import LOOPBACK, PASSWORD, Server, password_server

WORKERS = 4
"""Workers of the disturbed study."""
CHECK_SECONDS = 0.05
"""Time between two looks at the fleet."""

SHORT = Counts(
    kills=4,
    kills_before_a_report=2,
    terminations=2,
    freezes=1,
    freezes_while_reconciling=1,
    launcher_kills=0,
    kills_while_reconciling=1,
    restarts=2,
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
)


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
        counts = SHORT if self.short else FULL
        return Counts(**{**vars(counts), "cuts": 3}) if self.hosts > 1 else counts

    @property
    def pause_seconds(self) -> float:
        """Mean pause between two disturbances."""
        if self.task == "digits":
            return 3.0  # a worker needs that long to import torch
        return 0.5 if self.short else 0.8

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
    """How many runs were pruned."""
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
        answer = f"{len(self.differences)} differences"
        return (
            f"chaos {what.task}, pruning {'on' if what.pruning else 'off'}{hosts}, "
            f"seed {what.seed}: {self.runs} runs, {self.pruned} pruned; {WORKERS} workers; {done}; "
            f"{self.refused_starts} started while the database was unavailable; "
            f"trials failed: {failed}; {self.resumed} resumed; {self.seconds:.0f} s; {answer}"
        )


def run(scenario: Scenario) -> Report:
    """Run a scenario; the logs of its processes are kept if something differs."""
    folder = Path(tempfile.mkdtemp(prefix="kdecay-chaos-"))
    report = Report(scenario, Counter(), logs=folder)
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(second_host()) if scenario.hosts > 1 else None
        addresses = (LOOPBACK, link.near) if link else (LOOPBACK,)
        server = stack.enter_context(password_server(addresses))
        _run_studies(scenario, folder, server, link, report)
    if not report.differences:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _run_studies(
    scenario: Scenario, folder: Path, server: Server, link: Link | None, report: Report
) -> None:
    kdecay = Kdecay(folder, server.url(PASSWORD))
    summary = _run_undisturbed(kdecay, scenario)
    started = time.monotonic()
    kdecay.run("launch", *scenario.disturbed, "--detach", "--workers", "0")
    with _fleet(scenario, folder, server, link) as fleet:
        target = Target(fleet, server, server.url(PASSWORD), "disturbed", link, report.done)
        plan = draw(scenario.seed, scenario.counts, scenario.pause_seconds,
                    studies.GRACE_SECONDS, WORKERS)  # fmt: skip
        ended = _carry_out(target, plan, scenario.limit_seconds)
        fleet.drain()
        report.differences += fleet.unexpected
        report.refused_starts = fleet.refused_starts
    report.seconds = time.monotonic() - started
    if not ended:
        report.differences.append(f"no end after {scenario.limit_seconds:g} s")
    outcome = read_outcome(target.url, "disturbed", kdecay.json("status", "disturbed"))
    undisturbed = read_outcome(target.url, "undisturbed", summary)
    report.differences += differences(outcome, undisturbed, scenario.pruning)
    report.differences += _shortfall(scenario, report.done)
    report.runs, report.pruned = len(outcome.finished), outcome.count("PRUNED")
    report.failed, report.resumed = reasons(outcome), outcome.resumed


def _run_undisturbed(kdecay: Kdecay, scenario: Scenario) -> dict[str, Any]:
    """Run the study to compare with; return its ``--json`` output."""
    process = kdecay.start("launch", *scenario.undisturbed, "--workers", "2", "--json")
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
def _fleet(scenario: Scenario, folder: Path, server: Server, link: Link | None) -> Iterator[Fleet]:
    """A ``launch`` and four workers, every other one on the second host if there is one."""
    here = Kdecay(folder, server.url(PASSWORD))
    there = Kdecay(folder, server.url(PASSWORD, address=link.near)) if link else here
    fleet = Fleet(folder)
    try:
        fleet.set_launcher(here, scenario.disturbed)
        for index in range(WORKERS):
            is_far = link is not None and index % 2 == 1
            prefix = link.prefix if link is not None and is_far else []
            fleet.add_worker(there if is_far else here, "disturbed", prefix)
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
