"""Measure what it costs that many workers share a study: ``python -m benchmarks.coordination``.

Nothing is trained: an epoch only sleeps. The package's workers and plain Optuna's
``study.optimize``, which reports and asks ``should_prune`` after every epoch, serve studies of the
same size on the same server, one after the other. Each worker is a process of its own, unless
--per-process says otherwise.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from typing import Any

import optuna
import scipy.special  # noqa: F401 - for the forked processes, which need it at a study's end
import sqlalchemy
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import counts
from benchmarks.systems import SYSTEMS, Load, Serve
from kdecay_search import __version__
from kdecay_search.errors import KDecayError
from kdecay_search.storage import Storage, embedded_url
from kdecay_search.storage.connect import probe_engine
from kdecay_search.storage.url import parse_url
from kdecay_search.training.device_inventory import cpu_info

FORK = multiprocessing.get_context("fork")
"""Forked processes need not import everything again; there may be hundreds of them."""
FEWEST_TRIALS = 64
"""Smallest number of trials of a study without sleep."""
READY_SECONDS = 120
"""How long a process may take to start."""
LOOK_SECONDS = 0.2
"""Interval at which the connections to the database are counted."""


@dataclass(frozen=True)
class Part:
    """What one worker did."""

    started: float
    """Its start, in seconds of the machine's monotonic clock."""
    ended: float
    """The end of its last trial, by the same clock."""
    trials: int
    """Number of trials that it finished."""


@dataclass(frozen=True)
class Report:
    """What a process sends at its end."""

    parts: list[Part]
    """What each of its workers did."""
    statements: int
    """Number of SQL statements that the process executed."""


@dataclass(frozen=True)
class Row:
    """One system with one number of workers."""

    system: str
    """``kdecay`` or ``optuna``."""
    workers: int
    """Number of workers."""
    lost_share: float
    """Share of the workers' time that is not spent in epochs, from the start to the end of each
    worker's last trial."""
    statements_per_epoch: float
    """SQL statements of all kinds for each epoch trained, with epochs of the set length."""
    statements_per_second: float
    """SQL statements of all kinds a second, with epochs of the set length."""
    connections: int
    """Largest number of connections to the database that was counted, of all workers together."""
    trials_per_second: float
    """Trials that the system hands out, reports and finishes a second, with epochs that take no
    time."""


def _process(pipe: Connection, serve: Serve, url: str, load: Load, workers: int) -> None:
    """Run some workers in this process: connect to nothing before "go" arrives, then work, and send
    a report at the end."""
    statements: list[int] = []
    sqlalchemy.event.listen(
        sqlalchemy.Engine, "before_cursor_execute", lambda *_: statements.append(1)
    )
    pipe.send("ready")
    pipe.recv()
    try:
        with ThreadPoolExecutor(workers) as threads:
            parts = list(threads.map(lambda _: _work(serve, url, load), range(workers)))
        pipe.send(Report(parts, len(statements)))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _work(serve: Serve, url: str, load: Load) -> Part:
    """Run one worker to its end."""
    started, ends = time.monotonic(), []
    serve(url, load, lambda: ends.append(time.monotonic()))
    return Part(started, ends[-1] if ends else started, len(ends))


@dataclass(frozen=True)
class Service:
    """What all workers did."""

    parts: list[Part]
    """What each worker did."""
    statements: int
    """Number of SQL statements that they executed."""
    connections: int
    """Largest number of connections to the database that was counted."""

    @property
    def seconds(self) -> float:
        """Time from the first worker's start to the last trial's end."""
        return max(p.ended for p in self.parts) - min(p.started for p in self.parts)

    @property
    def trials(self) -> int:
        """Number of trials that all workers finished."""
        return sum(part.trials for part in self.parts)

    @property
    def spent_seconds(self) -> float:
        """Sum of all workers' time, from each one's start to its last trial's end."""
        return sum(part.ended - part.started for part in self.parts if part.trials)


def run(serve: Serve, url: str, load: Load) -> Service:
    """Start the workers of a load, and let them serve the study to its end."""
    pipes, processes = [], []
    for first in range(0, load.workers, load.per_process):
        mine, theirs = FORK.Pipe()
        workers = min(load.per_process, load.workers - first)
        arguments = (theirs, serve, url, load, workers)
        process = FORK.Process(target=_process, args=arguments, daemon=True)
        process.start()
        pipes.append(mine)
        processes.append(process)
    for pipe in pipes:
        if not pipe.poll(READY_SECONDS):
            raise KDecayError("a worker of the benchmark did not start")
        pipe.recv()
    for pipe in pipes:
        pipe.send("go")
    messages, connections = _collect(pipes, url)
    for process in processes:
        process.join()
    failures = [each for each in messages if isinstance(each, str)]
    if failures:
        raise KDecayError(f"a worker of the benchmark failed: {failures[0]}")
    reports = [each for each in messages if isinstance(each, Report)]
    parts = [part for report in reports for part in report.parts]
    return Service(parts, sum(report.statements for report in reports), connections)


def _collect(pipes: Sequence[Connection], url: str) -> tuple[list[Report | str], int]:
    """Receive what each process sends at its end, a report or an error, and count the connections
    until then; return the messages and the largest count."""
    statement = sqlalchemy.text(
        "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
    )
    engine = probe_engine(parse_url(url))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watching:
        peak, silent, messages = 0, list(pipes), []
        while silent:
            peak = max(peak, watching.scalar(statement) or 0)
            for pipe in wait(silent, timeout=LOOK_SECONDS):
                assert isinstance(pipe, Connection)
                messages.append(pipe.recv())
                silent.remove(pipe)
    return messages, peak


def measure(url: str, workers: int, given: argparse.Namespace) -> list[Row]:
    """Measure every system with this number of workers."""
    rows, epochs, seconds = [], given.epochs, given.epoch_seconds
    shape = {"per_process": given.per_process, "candidates": given.candidates}
    slow = Load(workers, workers * given.trials_per_worker, epochs, seconds, **shape)
    fast = Load(workers, max(FEWEST_TRIALS, 2 * workers), epochs, 0.0, **shape)
    for system in given.systems:
        timed, empty = (_served(url, *SYSTEMS[system], load) for load in (slow, fast))
        trained = timed.trials * epochs
        rows.append(
            Row(
                system,
                workers,
                lost_share=1 - trained * seconds / timed.spent_seconds,
                statements_per_epoch=timed.statements / trained,
                statements_per_second=timed.statements / timed.seconds,
                connections=timed.connections,
                trials_per_second=empty.trials / empty.seconds,
            )
        )
        print(f"{system}, {workers} workers: done", file=sys.stderr, flush=True)
    return rows


def _served(url: str, serve: Serve, create: Callable[[Storage, Load], None], load: Load) -> Service:
    storage = Storage(url)
    try:
        create(storage, load)
    finally:
        storage.close()  # forked processes must not share its connections
    service = run(serve, url, load)
    if service.trials < load.trials:
        raise KDecayError(f"{service.trials} of {load.trials} trials were finished")
    return service


def as_table(rows: Sequence[Row], given: argparse.Namespace) -> Table:
    table = Table(
        title=f"{given.epochs} epochs of {given.epoch_seconds:g} s a trial, "
        f"{given.trials_per_worker} trials a worker; throughput with epochs that take no time",
        title_justify="left",
        box=None,
    )
    per_second = ("statements a second", "connections", "trials a second")
    for name in ("system", "workers", "time lost", "statements an epoch", *per_second):
        table.add_column(name, justify="left" if name == "system" else "right")
    for row in rows:
        figures = (
            f"{row.lost_share:.2%}",
            f"{row.statements_per_epoch:.1f}",
            f"{row.statements_per_second:.0f}",
            str(row.connections),
            f"{row.trials_per_second:.1f}",
        )
        table.add_row(row.system, str(row.workers), *figures)
    return table


def _environment() -> dict[str, Any]:
    return {
        "cpu": cpu_info()["name"],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kdecay-search": __version__,
        "optuna": optuna.__version__,
        "sqlalchemy": version("sqlalchemy"),
    }


def _systems(text: str) -> list[str]:
    names = text.split(",")
    if not SYSTEMS.keys() >= set(names):
        raise ValueError
    return names


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordination", description=__doc__)
    for name, kind, default, what in (
        ("workers", counts, [1, 8, 32], "default: 1,8,32"),
        ("epochs", int, 10, "epochs of a trial; default: 10"),
        ("epoch-seconds", float, 2.0, "default: 2"),
        ("trials-per-worker", int, 4, "default: 4"),
        ("per-process", int, 1, "workers that are threads of one process; default: 1"),
        ("candidates", int, None, "each with as many seeds as it takes; default: one per trial"),
        ("systems", _systems, list(SYSTEMS), "default: kdecay,optuna"),
        ("storage", str, None, "a server's URL; default: an embedded one of its own"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=what)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for an error."""
    given = _arguments(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = tempfile.mkdtemp(prefix="kdecay-bench-")  # short, since it holds a socket
    os.environ["KDECAY_HOME"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server has ended
    try:
        url = given.storage or embedded_url()
        rows = [row for workers in given.workers for row in measure(url, workers, given)]
    except KDecayError as error:
        print(f"benchmarks.coordination: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "environment": _environment()}))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(as_table(rows, given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
