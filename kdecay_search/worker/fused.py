"""Claimed trials of one stage and seed, trained at once as one network.

Each trial has a thread, which does all that is done for a trial that is trained alone: it beats,
reports, pauses, releases and ends it. Only the training itself is done for all of them together, by
the thread that claimed them (:mod:`kdecay_search.training.fused`).
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from queue import SimpleQueue

from kdecay_search.errors import KDecayError
from kdecay_search.storage import Storage
from kdecay_search.storage.queue import Claim
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Released, Run
from kdecay_search.user_code.monitoring import RunFailed
from kdecay_search.worker.train import WorkerContext, WorkerRun, attempt, in_time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    """A run that waits to be trained with others."""

    place: int
    """Its place among the trials."""
    run: WorkerRun
    end: Future[None]
    """Tells the run's thread how the training has ended."""


def require_fusible(spec: StudySpec, fuse: int) -> None:
    """Refuse to train runs of a study together that cannot be.

    Raises:
        KDecayError: Its task is not the built-in image task.
    """
    if fuse > 1 and spec.task.kind != "images":
        raise KDecayError(
            f"--fuse {fuse}: only runs of the built-in task (task.kind = 'images') can be trained "
            f"together, and {spec.name} has task.kind = {spec.task.kind!r}; leave out --fuse"
        )


def train_trials(
    storage: Storage,
    spec: StudySpec,
    claims: Sequence[Claim],
    context: WorkerContext,
    ended: Callable[[Claim, str], None],
) -> list[str]:
    """Train claimed trials at once and record the outcome of each.

    Args:
        storage: The database that holds the trials.
        spec: The study that they belong to; its task is of kind ``images``.
        claims: The trials, as this worker claimed them: runs of one stage and seed.
        context: What the worker trains with; one device.
        ended: Called with each trial and its outcome as soon as it has ended, by one thread at a
            time.

    Returns:
        The outcomes, as :func:`.train.train_trial` returns them, in the order of the trials.

    Raises:
        KDecayError: Something is missing on this worker. The trials are back in the queue.
        HeartbeatStopped: The heartbeat of a trial has died. The trial is back in the queue.
    """
    of_seed = claims[0].request.key.seed
    logger.info("%s: %d runs of seed %d are trained together", spec.name, len(claims), of_seed)
    shares = _Shares(len(claims))
    entries: SimpleQueue[_Entry | None] = SimpleQueue()
    ending = threading.Lock()

    def join(place: int, run: WorkerRun) -> None:
        """Have a run trained with the others: the task, for the run's thread."""
        entry = _Entry(place, run, Future())
        entries.put(entry)
        entry.end.result()

    def serve(place: int, claim: Claim) -> str:
        """Attempt a trial. A run that ends before it joins the others enters, too, as None."""
        try:
            outcome = attempt(storage, spec, claim, context, partial(join, place))
        finally:
            entries.put(None)
        with ending:
            ended(claim, outcome)
        return outcome

    with (
        in_time(storage, spec, claims, context),
        ThreadPoolExecutor(len(claims), "trial") as threads,
    ):
        outcomes = [threads.submit(serve, *each) for each in enumerate(claims)]
        entered = [entries.get() for _ in claims]  # those who join enter again after the training
        _train([entry for entry in entered if entry is not None], shares)
    return [outcome.result() for outcome in outcomes]


class _Shares:
    """How trials that are trained together, from this moment on, share the device's time."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        """How many are under way."""
        self._began = self._changed = time.monotonic()
        self._own = 0.0
        """Seconds that count for each of them by the time at which one left."""

    def leave(self) -> float:
        """Take a trial out; return how many seconds of the time until now count for others."""
        now = time.monotonic()
        self._own += (now - self._changed) / self._trials
        self._changed, self._trials = now, self._trials - 1
        return now - self._began - self._own


def _train(entries: Sequence[_Entry], shares: _Shares) -> None:
    """Train runs together, and tell the end of each to its thread."""
    from kdecay_search.training.fused.trainer import train_together  # noqa: PLC0415 - torch

    under_way: dict[Run, _Entry] = {
        entry.run: entry for entry in sorted(entries, key=attrgetter("place"))
    }

    def on_end(run: Run, error: Exception | None) -> None:
        entry = under_way.pop(run)
        entry.run.share(shares.leave())
        if error is None:
            entry.end.set_result(None)
        else:
            entry.end.set_exception(error)

    failure: Exception = Released()
    try:
        if under_way:
            train_together(list(under_way), on_end)
    except (KDecayError, ImportError) as error:
        failure = error
    except Exception as error:  # of the update of all of them
        text = f"{type(error).__name__}: {error} ({len(under_way)} runs trained together)"
        failure = RunFailed(text, traceback.format_exc())
    finally:
        for entry in under_way.values():
            entry.end.set_exception(failure)
