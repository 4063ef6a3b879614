"""How many processes a device feeds: one more while that raises its throughput.

Small networks do not fill a GPU, and one process on it leaves most of it idle. How many it takes
depends on the network, so it is tried: epochs a second, by the database's count of what this
device's processes have reported, with one process, with two, and so on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kdecay_search.storage import Storage, records
from kdecay_search.worker.local_workers import LocalWorkers, WorkerProcess
from kdecay_search.worker.loop import process_name

WORTH = 1.1
"""A further process stays if it makes the device so many times as fast."""
MOST = 16
"""Processes on one device."""
WINDOW_SECONDS = 60.0
LEAST_EPOCHS = 10
"""In a window: fewer say nothing about a rate."""


@dataclass(frozen=True)
class Progress:
    """What a process has done so far, by the database."""

    epochs: int = 0
    memory_failures: int = 0
    """Trials that failed because the device's memory was full."""


@dataclass
class Growth:
    """The number of processes that a device should have."""

    most: int = MOST
    count: int = 1
    settled: bool = False
    _rate: float = 0.0

    def observe(self, rate: float) -> None:
        """``rate``: epochs a second with ``count`` processes."""
        if self.settled:
            return
        if self.count > 1 and rate < WORTH * self._rate:
            self.count -= 1
            self.settled = True
        elif self.count >= self.most:
            self.settled = True
        else:
            self._rate = rate
            self.count += 1

    def shrink(self) -> None:
        """The device's memory was full."""
        self.count = max(1, self.count - 1)
        self.settled = True


Start = Callable[[str], WorkerProcess]
"""Starts a process on a device."""


@dataclass
class GrowingDevice:
    """The processes of one device."""

    device: str
    start: Start
    window_seconds: float = WINDOW_SECONDS
    growth: Growth = field(default_factory=Growth)
    processes: list[WorkerProcess] = field(default_factory=list)
    _before: dict[str, int] = field(default_factory=dict)
    """Epochs by name when the last change was made."""
    _window: tuple[float, int] | None = None
    """When it began, and the epochs of all by then; None until every process trains."""
    _failures: int = 0

    @property
    def names(self) -> list[str]:
        return [f"{process_name(process.popen.pid)}{self.device}" for process in self.processes]

    def step(self, progress: Mapping[str, Progress], now: float) -> None:
        """Look at what the processes have done, and start or end one. ``now``: seconds."""
        done = {name: progress.get(name, Progress()) for name in self.names}
        failures = sum(each.memory_failures for each in done.values())
        if failures > self._failures:
            self.growth.shrink()
        elif not self.growth.settled:
            self._measure({name: each.epochs for name, each in done.items()}, now)
        self._failures = failures
        if self.growth.count != len(self.processes):
            self._resize()
            self._before = {name: progress.get(name, Progress()).epochs for name in self.names}
            self._window = None

    def _measure(self, epochs: Mapping[str, int], now: float) -> None:
        total = sum(epochs.values())
        if self._window is None:
            if all(epochs[name] > self._before.get(name, 0) for name in epochs):
                self._window = (now, total)
            return
        began, before = self._window
        seconds = now - began
        if seconds >= self.window_seconds and total - before >= LEAST_EPOCHS:
            self.growth.observe((total - before) / seconds)

    def _resize(self) -> None:
        while len(self.processes) < self.growth.count:
            self.processes.append(self.start(self.device))
        while len(self.processes) > self.growth.count:
            last = self.processes.pop()
            if last.popen.poll() is None:
                last.popen.send_signal(signal.SIGTERM)  # its trial goes back into the queue


def grow(
    storage: Storage,
    workers: LocalWorkers,
    devices: Sequence[str],
    start: Start,
    stop: threading.Event,
    tell: Callable[[str], None],
    window_seconds: float = WINDOW_SECONDS,
) -> list[GrowingDevice]:
    """Start processes on each device and add to them while that pays; return at ``stop``, or when
    all have ended. ``tell`` hears how many there are whenever that changes."""
    growing = [GrowingDevice(device, start, window_seconds) for device in devices]
    told = ""
    while not stop.is_set():
        names = [name for each in growing for name in each.names]
        found = records.read_progress(storage, names) if names else {}
        progress = {name: Progress(*figures) for name, figures in found.items()}
        for each in growing:
            each.step(progress, time.monotonic())
        text = ", ".join(f"{each.growth.count} on {each.device}" for each in growing)
        if text != told:
            tell(f"processes: {text}")
        told = text
        if not workers.running:
            break
        stop.wait(min(1.0, window_seconds / 4))
    return growing
