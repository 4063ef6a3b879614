"""How many worker processes a device gets: one more for as long as that raises its throughput.

A small network does not fill a GPU, so one process leaves most of it idle. How many processes fill
it depends on the network, and is measured: the device's throughput, in epochs per second that its
processes have reported to the database, is compared for one process, for two, and so on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kdecay_search.storage import Storage, records
from kdecay_search.worker.local_workers import LocalWorkers, WorkerProcess
from kdecay_search.worker.signals import drain_signal

MIN_SPEEDUP = 1.1
"""Factor by which a further process must raise a device's throughput to be kept."""
MAX_PROCESSES = 16
"""Most processes on one device."""
WINDOW_SECONDS = 60.0
"""Shortest time over which a throughput is measured."""
MIN_EPOCHS = 10
"""Fewest epochs from which a throughput is measured; the window is extended until then."""
CHECK_SECONDS = 1.0
"""Longest pause between two looks at the processes."""


@dataclass(frozen=True)
class WorkerProgress:
    """What one worker process has done so far, according to the database."""

    epochs: int = 0
    """Epochs that the process has reported."""
    memory_failures: int = 0
    """Trials of the process that failed because the device's memory was full."""


@dataclass
class Autoscaler:
    """Hill climbing on the number of processes of one device."""

    limit: int = MAX_PROCESSES
    """Most processes that the device may have."""
    count: int = 1
    """How many processes the device should have now."""
    settled: bool = False
    """Whether ``count`` is final."""
    _throughput: float = 0.0
    """Epochs per second with one process fewer."""

    def observe(self, throughput: float) -> None:
        """Take in the throughput (epochs per second) with ``count`` processes, and adjust it."""
        if self.settled:
            return
        if self.count > 1 and throughput < MIN_SPEEDUP * self._throughput:
            self.count -= 1
            self.settled = True
        elif self.count >= self.limit:
            self.settled = True
        else:
            self._throughput = throughput
            self.count += 1

    def scale_down(self) -> None:
        """Remove one process, for good: the device's memory was full."""
        self.count = max(1, self.count - 1)
        self.settled = True


StartProcess = Callable[[str], WorkerProcess]
"""Starts a worker process on the named device."""


@dataclass
class AutoscaledDevice:
    """A device and the worker processes on it."""

    device: str
    """The device's name, such as ``cuda:1``."""
    start: StartProcess
    """Starts one more process on the device."""
    window_seconds: float = WINDOW_SECONDS
    """Shortest time over which a throughput is measured."""
    scaler: Autoscaler = field(default_factory=Autoscaler)
    """Decides how many processes there should be."""
    processes: list[WorkerProcess] = field(default_factory=list)
    """The processes on the device, oldest first."""
    _epochs_at_change: dict[str, int] = field(default_factory=dict)
    """Epochs by worker name when the number of processes last changed."""
    _window: tuple[float, int] | None = None
    """Start time (s) of the measurement, and the epochs of all processes by then; None until
    every process has reported an epoch since the last change."""
    _memory_failures: int = 0
    """Trials that have failed for lack of memory so far."""

    @property
    def names(self) -> list[str]:
        """The names under which the processes claim trials."""
        return [f"{process.name_prefix}{self.device}" for process in self.processes]

    def step(self, progress: Mapping[str, WorkerProgress], now: float) -> None:
        """Look at what the processes have done, and start or end one if that is due.

        Args:
            progress: What workers have done, by worker name.
            now: The current time (s).
        """
        done = {name: progress.get(name, WorkerProgress()) for name in self.names}
        failures = sum(each.memory_failures for each in done.values())
        if failures > self._memory_failures:
            self.scaler.scale_down()
        elif not self.scaler.settled:
            self._measure({name: each.epochs for name, each in done.items()}, now)
        self._memory_failures = failures
        if self.scaler.count != len(self.processes):
            self._resize()
            self._epochs_at_change = {
                name: progress.get(name, WorkerProgress()).epochs for name in self.names
            }
            self._window = None

    def _measure(self, epochs: Mapping[str, int], now: float) -> None:
        """Start a measurement, or end it and pass the throughput on, if either is due."""
        total = sum(epochs.values())
        if self._window is None:
            if all(epochs[name] > self._epochs_at_change.get(name, 0) for name in epochs):
                self._window = (now, total)
            return
        began, before = self._window
        seconds = now - began
        if seconds >= self.window_seconds and total - before >= MIN_EPOCHS:
            self.scaler.observe((total - before) / seconds)

    def _resize(self) -> None:
        """Start or end processes until there are as many as there should be."""
        while len(self.processes) < self.scaler.count:
            self.processes.append(self.start(self.device))
        while len(self.processes) > self.scaler.count:
            last = self.processes.pop()
            if last.popen.poll() is None:
                last.popen.send_signal(drain_signal())  # it releases its trial


def autoscale(
    storage: Storage,
    workers: LocalWorkers,
    devices: Sequence[str],
    start: StartProcess,
    stop: threading.Event,
    notify: Callable[[str], None],
    window_seconds: float = WINDOW_SECONDS,
    study: str | None = None,
) -> list[AutoscaledDevice]:
    """Run worker processes on each device, and add to them while that raises its throughput.

    Args:
        storage: The database to which the processes report their epochs.
        workers: The group to which ``start`` adds its processes.
        devices: Names of the devices.
        start: Starts a process on a device.
        stop: Set to end this function; the processes are left to the caller.
        notify: Called with a line of text whenever the number of processes changes.
        window_seconds: Shortest time over which a throughput is measured.
        study: The study that the processes serve; None if they serve all.

    Returns:
        The devices, once ``stop`` is set or all processes have ended.
    """
    scaled = [AutoscaledDevice(device, start, window_seconds) for device in devices]
    notified = ""
    served: dict[str, None] = {} if study is None else {study: None}
    while not stop.is_set():
        names = [name for each in scaled for name in each.names]
        if study is None:  # also those that have ended since, lest a count becomes smaller
            served.update(dict.fromkeys(records.active_studies(storage)))
        found = records.read_progress(storage, names, list(served)) if names else {}
        progress = {name: WorkerProgress(*figures) for name, figures in found.items()}
        for each in scaled:
            each.step(progress, time.monotonic())
        counts = ", ".join(f"{each.scaler.count} on {each.device}" for each in scaled)
        if counts != notified:
            notify(f"processes: {counts}")
        notified = counts
        if not workers.running:
            break
        stop.wait(min(CHECK_SECONDS, window_seconds / 4))
    return scaled
