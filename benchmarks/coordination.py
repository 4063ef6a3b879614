"""What it costs that many workers share one study: ``python -m benchmarks.coordination``.

Null training: an epoch only sleeps. The package's workers and plain Optuna's ``study.optimize``
(report and ``should_prune`` after every epoch) serve studies of the same size on the same server,
one after the other, each worker a process of its own.
"""

from __future__ import annotations

import argparse
import atexit
import json
import math
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from kdecay_search import __version__, reconcile
from kdecay_search.errors import KDecayError
from kdecay_search.storage import Storage, embedded_url, records
from kdecay_search.storage.connect import parse_url, probe_engine
from kdecay_search.storage.queue import Claim
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.training.device_inventory import cpu_info
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext

FORK = multiprocessing.get_context("fork")  # so that 32 processes need not import everything
FEWEST_TRIALS = 64
"""Of a study without sleep."""
READY_SECONDS = 120
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Load:
    """One study, and who works on it."""

    workers: int
    trials: int
    epochs: int
    epoch_seconds: float
    per_process: int = 1
    """Workers that are threads of one process: for more of them than the machine has memory for."""
    candidates: int | None = None
    """So many, each with as many seeds as it takes, and no pruning; None: every trial is one."""


@dataclass(frozen=True)
class Part:
    """What one worker did."""

    started: float
    """Seconds by the machine's monotonic clock …"""
    ended: float
    """… at the end of its last trial."""
    trials: int


@dataclass(frozen=True)
class Report:
    """What a process tells at its end."""

    parts: list[Part]
    statements: int


@dataclass(frozen=True)
class Row:
    """One system with one number of workers."""

    system: str
    workers: int
    lost_share: float
    """Of the workers' time, from the start to each one's last trial's end: not spent in epochs."""
    statements_per_epoch: float
    """SQL statements of all kinds over the epochs trained, with epochs of the set length …"""
    statements_per_second: float
    """… and over the time that it took."""
    connections: int
    """Of all workers at once, at most, as often as it was looked."""
    trials_per_second: float
    """With epochs of no length: what the system can hand out, report and finish."""


Serve = Callable[[str, Load, Callable[[], None]], None]
"""Works on the study at a URL until none is left, and calls back at the end of every trial."""


def spec_of(load: Load) -> StudySpec:
    """A study of so many trials. Where each is a candidate of its own, all are asked about pruning,
    and none is pruned."""
    candidates = load.candidates or load.trials
    step = 4.0 / max(1, candidates - 1)
    table = {
        "name": "coordination",
        "task": {"kind": "simulated", "epochs": load.epochs, "epoch_seconds": load.epoch_seconds},
        "search": {"ks": [round(1 + i * step, 9) for i in range(candidates)], "k_cap": 5.0}
        | {"seeds": math.ceil(load.trials / candidates), "max_terms": 1},
        "pruning": {"keep_at_least": 1000, "enabled": load.candidates is None},
    }
    return StudySpec.model_validate_json(json.dumps(table))


def ours(url: str, load: Load, finished: Callable[[], None]) -> None:
    """The package's worker."""
    folder = Path(os.environ["KDECAY_HOME"]) / "checkpoints"
    context = WorkerContext("cpu", CheckpointFolder(folder), threading.Event())
    storage = Storage(url)
    try:
        _CountingWorker(storage, context, finished).serve()
    finally:
        storage.close()


class _CountingWorker(Worker):
    def __init__(
        self, storage: Storage, context: WorkerContext, finished: Callable[[], None]
    ) -> None:
        super().__init__(storage, Options("coordination", drain=True), context)
        self._finished = finished

    def trial_ended(self, claim: Claim, outcome: str) -> None:
        super().trial_ended(claim, outcome)
        self._finished()


def plain(url: str, load: Load, finished: Callable[[], None]) -> None:
    """``study.optimize`` until the study has its trials."""

    def objective(trial: optuna.Trial) -> float:
        k = trial.suggest_float("k", 1.0, 5.0)
        for epoch in range(1, load.epochs + 1):
            time.sleep(load.epoch_seconds)
            trial.report(k / epoch, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return k

    def note(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        finished()

    study = optuna.load_study(
        study_name="coordination",
        storage=str(make_url(url).set(drivername="postgresql+psycopg2").render_as_string(False)),
        sampler=optuna.samplers.RandomSampler(seed=os.getpid()),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=10**6),  # is asked, and prunes none
    )
    enough = optuna.study.MaxTrialsCallback(load.trials, states=None)
    study.optimize(objective, callbacks=[note, enough])


def _process(pipe: Connection, serve: Serve, url: str, load: Load, workers: int) -> None:
    """So many workers: connect nothing before the word, then work, then tell."""
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
    """One worker."""
    started, ends = time.monotonic(), []
    serve(url, load, lambda: ends.append(time.monotonic()))
    return Part(started, ends[-1] if ends else started, len(ends))


@dataclass(frozen=True)
class Service:
    """What all workers did."""

    parts: list[Part]
    statements: int
    connections: int
    """To the database at once, at most."""

    @property
    def seconds(self) -> float:
        """From the first one's start to the last trial's end."""
        return max(p.ended for p in self.parts) - min(p.started for p in self.parts)

    @property
    def trials(self) -> int:
        return sum(part.trials for part in self.parts)

    @property
    def spent_seconds(self) -> float:
        """Of all workers, from each one's start to its last trial's end."""
        return sum(part.ended - part.started for part in self.parts if part.trials)


def run(serve: Serve, url: str, load: Load) -> Service:
    """Let that many workers serve the study."""
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
    told, connections = _told(pipes, url)
    for process in processes:
        process.join()
    failures = [each for each in told if isinstance(each, str)]
    if failures:
        raise KDecayError(f"a worker of the benchmark failed: {failures[0]}")
    reports = [each for each in told if isinstance(each, Report)]
    parts = [part for report in reports for part in report.parts]
    return Service(parts, sum(report.statements for report in reports), connections)


def _told(pipes: Sequence[Connection], url: str) -> tuple[list[Report | str], int]:
    """What each process tells at its end, and the most connections that they had meanwhile."""
    statement = sqlalchemy.text(
        "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
    )
    engine = probe_engine(parse_url(url))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watching:
        peak, silent, told = 0, list(pipes), []
        while silent:
            peak = max(peak, watching.scalar(statement) or 0)
            for pipe in wait(silent, timeout=LOOK_SECONDS):
                assert isinstance(pipe, Connection)
                told.append(pipe.recv())
                silent.remove(pipe)
    return told, peak


def afresh_ours(storage: Storage, load: Load) -> None:
    if "coordination" in records.study_names(storage):
        records.delete_study(storage, "coordination")
    reconcile.launch(storage, spec_of(load))
    reconcile.reconcile(storage, "coordination")


def afresh_plain(storage: Storage, load: Load) -> None:
    if "coordination" in [s.study_name for s in storage.optuna.get_all_studies()]:
        optuna.delete_study(study_name="coordination", storage=storage.optuna)
    optuna.create_study(study_name="coordination", storage=storage.optuna)


def measure(url: str, workers: int, given: argparse.Namespace) -> list[Row]:
    """The systems with so many workers."""
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


def _served(url: str, serve: Serve, afresh: Callable[[Storage, Load], None], load: Load) -> Service:
    storage = Storage(url)
    try:
        afresh(storage, load)
    finally:
        storage.close()  # forked processes must not share its connections
    service = run(serve, url, load)
    if service.trials < load.trials:
        raise KDecayError(f"{service.trials} of {load.trials} trials were finished")
    return service


SYSTEMS = {"kdecay": (ours, afresh_ours), "optuna": (plain, afresh_plain)}


def as_table(rows: Sequence[Row], given: argparse.Namespace) -> Table:
    table = Table(
        title=f"{given.epochs} epochs of {given.epoch_seconds:g} s a trial, "
        f"{given.trials_per_worker} trials a worker; throughput with epochs of no length",
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


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise ValueError
    return counts


def _systems(text: str) -> list[str]:
    names = text.split(",")
    if not SYSTEMS.keys() >= set(names):
        raise ValueError
    return names


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordination", description=__doc__)
    for name, kind, default, what in (
        ("workers", _counts, [1, 8, 32], "default: 1,8,32"),
        ("epochs", int, 10, "of a trial; default: 10"),
        ("epoch-seconds", float, 2.0, "default: 2"),
        ("trials-per-worker", int, 4, "default: 4"),
        ("per-process", int, 1, "workers that are threads of one process; default: 1"),
        ("candidates", int, None, "with as many seeds as it takes; default: each trial is one"),
        ("systems", _systems, list(SYSTEMS), "default: kdecay,optuna"),
        ("storage", str, None, "a server's URL; default: an embedded one of its own"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=what)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, or 2 for an error."""
    given = _arguments(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = tempfile.mkdtemp(prefix="kdecay-bench-")  # short: it holds a socket
    os.environ["KDECAY_HOME"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after the server's end
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
