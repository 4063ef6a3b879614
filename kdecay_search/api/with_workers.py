"""A search whose runs are trained by worker processes, with Postgres between them."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from kdecay_search import reconcile
from kdecay_search.api.in_process import Listener, UserFunction
from kdecay_search.api.result import Result
from kdecay_search.errors import KDecayError, StorageUnavailable
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, embedded, queue
from kdecay_search.storage import curves as stored_curves
from kdecay_search.storage.durations import read_durations
from kdecay_search.study.spec import StudySpec
from kdecay_search.user_code import carried
from kdecay_search.user_code.allowance import Allowance
from kdecay_search.worker.devices import expand
from kdecay_search.worker.local_workers import LocalWorkers, start_workers

PERIOD_SECONDS = 0.5
"""Time between two looks at the study."""


@dataclass(frozen=True)
class Helpers:
    """Who trains, and where the study is kept."""

    workers: int
    """Number of worker processes on this machine."""
    storage: str | None
    """URL of the database; None for the embedded one."""
    device: str | None
    """Device of the workers; None for a GPU if there is one."""


def new_name() -> str:
    """A name that no study has: the day, and eight letters or digits."""
    return f"find-schedule-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}"


def search(
    spec: StudySpec,
    train: UserFunction | None,
    helpers: Helpers,
    curves: tuple[str, ...],
    listener: Listener,
) -> Result:
    """Search until the study is done, or until Ctrl-C.

    Args:
        spec: The study.
        train: A function to be carried to the workers; None if they import what the study names.
        helpers: Who trains.
        curves: Names of the curves that are kept.
        listener: Is told how the search goes on.

    Raises:
        KDecayError: The database cannot be used, or all workers have ended before the study.
    """
    with ExitStack() as stack:
        environment = stack.enter_context(_carrying(train)) if train else {}
        storage = _opened(helpers.storage)
        stack.callback(storage.close)
        reconcile.launch(storage, spec)
        if helpers.storage:
            environment["KDECAY_STORAGE"] = helpers.storage
        devices = expand(helpers.device or "auto")
        workers = start_workers(spec, helpers.workers, devices, Allowance.of(spec), environment)
        snapshot = _watched(storage, spec, workers, listener)
        ids = [trial.trial_id for trial in snapshot.trials if not trial.open]
        return Result(
            snapshot,
            getattr(spec.task, "steps_per_epoch", None) or 1,
            stored_curves.read_kept(storage, ids, curves),
            read_durations(storage, spec.name),
        )


def _opened(url: str | None) -> Storage:
    return Storage(url) if url else Storage(embedded.embedded_url(), embedded.revive)


@contextmanager
def _carrying(train: UserFunction) -> Iterator[dict[str, str]]:
    """Keep a function in a file for as long as workers need it; the variable that names it."""
    content = carried.carried(train)
    with tempfile.TemporaryDirectory(prefix="kdecay-function-") as folder:
        file = Path(folder) / "function"
        file.write_bytes(content)
        yield {carried.VARIABLE: str(file)}


def _watched(
    storage: Storage, spec: StudySpec, workers: LocalWorkers, listener: Listener
) -> StudySnapshot:
    """The study at its end, or as it is after Ctrl-C."""
    grace = spec.workers.grace_seconds
    try:
        while True:
            snapshot = reconcile.reconcile(storage, spec.name) or read_snapshot(storage, spec.name)
            listener.planned(snapshot)
            if snapshot.state != "running":
                workers.wait(grace)
                return snapshot
            with suppress(StorageUnavailable):
                workers.restart_killed(partial(queue.reap_process, storage, spec.name))
            if workers.processes and not workers.running:
                snapshot = read_snapshot(storage, spec.name)
                if snapshot.state == "running":
                    raise workers.none_left()
            time.sleep(PERIOD_SECONDS)
    except KeyboardInterrupt:
        workers.drain(grace)
        return replace(read_snapshot(storage, spec.name), stopped=True)
    except BaseException:
        workers.drain(grace)
        raise


def worker_count(workers: int | None) -> int:
    """How many workers to start on this machine: one unless a number is stated.

    Raises:
        KDecayError: It is not a number of processes.
    """
    if workers is None:
        return 1
    most = 16 * (os.cpu_count() or 1)
    if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= most:
        raise KDecayError(f"find_schedule: workers = {workers!r}: must be from 0 to {most}")
    return workers
