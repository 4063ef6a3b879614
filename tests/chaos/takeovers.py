"""Two containers on one home: each launches the study with workers of its own, on one database.

The first has the embedded server, and the other is refused; whenever the first dies, the other
takes the data over. At most one server may work on the data at any moment, and the study must end
with the result that it would have had undisturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

from kdecay_search.storage.embedded.data import DATABASE, ROLE
from kdecay_search.storage.embedded.state import PORT
from tests.chaos import containers, disks, studies
from tests.chaos.comparison import Outcome, differences, read_outcome, reasons
from tests.chaos.disks import SmallDisk
from tests.chaos.fleet import Fleet, Service
from tests.support.embedded_homes import Home, parent_of
from tests.support.kdecay_command import KDECAY, Kdecay

WORKERS = 2
"""Workers of each container."""
DISK_MEGABYTES = 400
"""Size of the disk that holds the home: the database, its log and the checkpoints."""
LIMIT_SECONDS = 600.0
"""A study that takes longer than this hangs."""
LOOK_SECONDS = 0.05
TRAINING = """
    SELECT EXISTS (SELECT FROM trials JOIN trial_intermediate_values USING (trial_id)
      WHERE state = 'RUNNING')
"""


@dataclass
class Takeovers:
    """The scenario while it runs."""

    home: Home
    """The shared home."""
    fleet: Fleet
    """The two containers."""
    disk: SmallDisk | None
    """The disk of the home, if it can be filled."""
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    """How many disturbances of each kind were carried out."""
    differences: list[str] = field(default_factory=list)
    """What went wrong."""

    def holder(self) -> Service | None:
        """The container that uses the server and trains; None if there is none at the moment."""
        if not self._trains():
            return None
        return next((s for s in self.fleet.workers if s.free and s.ready), None)

    def _trains(self) -> bool:
        """Whether a trial runs and has reported an epoch."""
        try:
            owner = json.loads((self.home.path / "postgres.state" / "owner.json").read_text())
            connection = psycopg2.connect(
                host=owner["socket_folder"], port=PORT, user=ROLE, dbname=DATABASE,
                connect_timeout=5,
            )  # fmt: skip
        except (OSError, ValueError, psycopg2.Error):
            return False
        try:
            with connection.cursor() as cursor:
                cursor.execute(TRAINING)
                return bool(cursor.fetchone()[0])
        except psycopg2.Error:
            return False
        finally:
            connection.close()

    def servers(self) -> list[int]:
        """The first processes of Postgres on the home: no other process of it has started them."""
        running = self.home.processes()
        found = []
        for pid in running:
            with contextlib.suppress(OSError):
                if b"-D" in _command(pid).split(b"\0") and parent_of(pid) not in running:
                    found.append(pid)
        return found

    def kill_container(self) -> bool:
        """Kill all processes of the container that has the server, the server included."""
        return self._end(signal.SIGKILL, "container killed")

    def terminate(self) -> bool:
        """End the container's command by SIGTERM; its workers release their trials."""
        return self._end(signal.SIGTERM, "terminated")

    def _end(self, number: signal.Signals, counted_as: str) -> bool:
        holder = self.holder()
        if holder is None:
            return False
        holder.end(number)
        self.done[counted_as] += 1
        return True

    def kill_server(self) -> bool:
        """Kill the first process of Postgres."""
        return self._kill(self.servers(), "server killed")

    def kill_keeper(self) -> bool:
        """Kill the process that keeps Postgres."""
        keepers = [parent_of(pid) for pid in self.servers()]
        return self._kill([pid for pid in keepers if b"start_keeper" in _command(pid)],
                          "keeper killed")  # fmt: skip

    def kill_worker(self) -> bool:
        """Kill one of the workers of either container."""
        found = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        own = f"KDECAY_HOME={self.home.path}".encode()
        workers = [pid for pid in found if b"worker" in _command(pid).split(b"\0")
                   and own in _environment(pid)]  # fmt: skip
        return self._kill(workers, "worker killed")

    def _kill(self, pids: list[int], counted_as: str) -> bool:
        if self.holder() is None or not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(pids), signal.SIGKILL)
            self.done[counted_as] += 1
        return True

    def fill_disk(self) -> bool:
        """Fill the disk of the database for a while."""
        if self.disk is None or self.holder() is None:
            return False
        self.disk.fill()
        self.look_for(self.chance.uniform(1.0, 3.0))
        self.disk.empty()
        self.done["disk full"] += 1
        return True

    def intrude(self) -> bool:
        """A command from outside both containers is refused while one of them has the server."""
        if self.holder() is None:
            return False
        done = subprocess.run(
            [*KDECAY, "list"], env=self.home.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        is_refused = done.returncode == 2 and "in another container" in done.stderr
        if done.returncode != 0 and not is_refused:
            self.differences.append(f"kdecay list ended with {done.returncode}: {done.stderr}")
        self.done["command from outside"] += 1
        return True

    def look(self) -> bool:
        """Restart what has ended; return False once the study has ended."""
        servers = self.servers()
        if len(servers) > 1:
            self.differences.append(f"{len(servers)} servers at once on one data folder")
        for service in self.fleet.workers:
            if not service.alive and service.process and service.process.returncode == 0:
                return service.asked is not None and self.fleet.restart_ended()
        return self.fleet.restart_ended()

    def look_for(self, seconds: float) -> bool:
        """Look until the time has passed; return False if the study ends before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.look():
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def draw(self, short: bool) -> list[Callable[[], bool]]:
        """Draw the disturbances in random order."""
        many = 1 if short else 2
        plan = [self.kill_container, self.kill_server, self.kill_keeper, self.kill_worker,
                self.terminate, self.intrude] * many  # fmt: skip
        plan += [self.fill_disk] * (many if self.disk is not None else 0)
        self.chance.shuffle(plan)
        return plan


def run(seed: int, short: bool) -> tuple[str, list[str]]:
    """Run the scenario; return its summary in one line, and the differences."""
    folder = Path(tempfile.mkdtemp(prefix="kdecay-chaos-"))
    began = time.monotonic()
    with _running(folder, seed, short) as scenario:
        undisturbed = _undisturbed(folder, short)
        outcome = _disturb(scenario, short)
        found = scenario.fleet.unexpected + differences(outcome, undisturbed, pruning=False)
        done = ", ".join(f"{count} {how}" for how, count in scenario.done.items())
        lost = ", ".join(f"{count} {why}" for why, count in reasons(outcome).items()) or "none"
        refused = scenario.fleet.refused_starts
    found += scenario.differences
    if found:
        found.append(f"logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return (
        f"chaos of two containers on one home, seed {seed}: {len(outcome.finished)} runs; {done}; "
        f"{refused} refused; trials failed: {lost}; {outcome.resumed} resumed; "
        f"{time.monotonic() - began:.0f} s; {len(found)} differences"
    ), found


@contextlib.contextmanager
def _running(folder: Path, seed: int, short: bool) -> Iterator[Takeovers]:
    home = folder / "home"
    home.mkdir(mode=0o700)
    with contextlib.ExitStack() as stack:
        disk = None
        if disks.unavailable_reason() is None:
            disk = stack.enter_context(disks.small_disk(home, DISK_MEGABYTES))
        bystander = stack.enter_context(_bystander(folder))
        fleet = Fleet(folder)
        scenario = Takeovers(Home(home), fleet, disk, random.Random(seed))
        try:
            yield scenario
            if bystander.poll() is not None:
                scenario.differences.append("a process of somebody else's was ended")
        finally:
            fleet.kill_all()
            scenario.home.wait_for_end()


@contextlib.contextmanager
def _bystander(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that only has the name of Postgres."""
    program = shutil.copy(str(shutil.which("sleep")), folder / "postgres")
    with subprocess.Popen([program, "3600"], cwd="/") as process:
        try:
            yield process
        finally:
            process.kill()


def _undisturbed(folder: Path, short: bool) -> Outcome:
    home = folder / "undisturbed"
    values = studies.undisturbed("simulated", False, short)
    launch = studies.launch_arguments("simulated", values)
    summary = Kdecay(home).json("launch", *launch, "--workers", "1")
    return _outcome(Home(home), "undisturbed", summary)


def _outcome(home: Home, study: str, summary: dict[str, object] | None = None) -> Outcome:
    with home.user() as user:
        shown = summary or Kdecay(home.path).json("status", study)
        return read_outcome(user.url, study, shown)


def _disturb(scenario: Takeovers, short: bool) -> Outcome:
    values = studies.disturbed("simulated", False, short)
    launch = studies.launch_arguments("simulated", values)
    kdecay, fleet = Kdecay(scenario.home.path), scenario.fleet
    for name in ("launch-a", "launch-b"):
        command = [*containers.PREFIX, *KDECAY, "launch", *launch, "--workers", str(WORKERS)]
        fleet.add_service(name, command, kdecay)
    plan = scenario.draw(short)
    deadline = time.monotonic() + LIMIT_SECONDS
    is_running = scenario.look_for(1.0)
    while is_running and time.monotonic() < deadline:
        if plan and plan[0]():
            plan.pop(0)
        is_running = scenario.look_for(scenario.chance.expovariate(1.0) if plan else 0.2)
    if is_running:
        scenario.differences.append(f"no end after {LIMIT_SECONDS:g} s")
    scenario.differences += [f"not carried out: {each.__name__}" for each in plan]
    fleet.drain()
    scenario.home.wait_for_end()
    return _outcome(scenario.home, "disturbed")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
