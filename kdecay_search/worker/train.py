"""One claimed trial, trained to its end, with its outcome recorded."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kdecay_search.errors import KEPT_BYTES, KDecayError, MissingPackage, StorageUnavailable
from kdecay_search.storage import Storage, queue
from kdecay_search.storage.queue import Claim
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import ERROR, MEMORY, WRONG, RunRequest
from kdecay_search.tasks.checkpoint import Checkpoint, CheckpointFolder
from kdecay_search.tasks.protocol import Epoch, Lost, Paused, Released, TrainFunction
from kdecay_search.tasks.simulated import train as train_simulated
from kdecay_search.user_code.command import train as train_command
from kdecay_search.user_code.monitoring import RunFailed
from kdecay_search.user_code.python import train as train_function
from kdecay_search.worker.deadline import GRACE_SHARE, Deadline
from kdecay_search.worker.heartbeat import Heartbeat, HeartbeatStopped
from kdecay_search.worker.reporter import Reporter
from kdecay_search.worker.trial import ClaimedTrial, with_choice

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

DECISION_SECONDS = 2.0
"""Longest wait, at a report, for the decision to pause that the report before called for. Training
continues without it."""
DELIVERY_POLL_SECONDS = 0.2
"""Time between two checks, while the last reports are delivered, that the trial is still held."""
FAILED, RELEASED, LOST = "failed", "released", "lost"
"""Beginnings of the outcomes of trials without a result."""
MEMORY_PHRASES = ("out of memory", "not enough memory", "can't allocate memory", "MemoryError: ")
"""Phrases in the error messages of Python, torch and the operating system when memory is full."""


@dataclass(frozen=True)
class WorkerContext:
    """What a worker trains with."""

    device: str
    """The device's name, such as ``cpu``, ``cuda`` or ``cuda:1``."""
    checkpoints: CheckpointFolder
    """The folder that holds the checkpoints of all studies."""
    stop: threading.Event
    """Set when the worker process is asked to end."""
    fuse: int = 1
    """How many runs of one stage and seed it trains at once (:mod:`.fused`)."""


def train_trial(storage: Storage, spec: StudySpec, claim: Claim, context: WorkerContext) -> str:
    """Train a claimed trial in time and record its outcome, as :func:`attempt` does."""
    with in_time(storage, spec, [claim], context):
        return attempt(storage, spec, claim, context)


def in_time(
    storage: Storage, spec: StudySpec, claims: Sequence[Claim], context: WorkerContext
) -> Deadline:
    """What ends this process if the training of some trials does not stop in time; they are back in
    the queue then."""

    def release() -> None:
        for claim in claims:
            queue.release(storage, claim)

    return Deadline(context.stop, GRACE_SHARE * spec.workers.grace_seconds, release)


def attempt(
    storage: Storage,
    spec: StudySpec,
    claim: Claim,
    context: WorkerContext,
    train: Callable[[WorkerRun], float | None] | None = None,
) -> str:
    """Train a claimed trial and record its outcome.

    Args:
        storage: The database that holds the trial.
        spec: The study that the trial belongs to.
        claim: The trial, as this worker claimed it.
        context: What the worker trains with.
        train: Trains the run; None for the study's task.

    Returns:
        The outcome for the log, such as ``4.71 %``, ``diverged``, ``paused after 8 epochs`` or
        ``released``.

    Raises:
        KDecayError: Something is missing on this worker, such as a data set or a package. The
            trial is back in the queue.
        HeartbeatStopped: The heartbeat thread has died. The trial is back in the queue.
    """
    try:
        return _train(storage, spec, claim, context, train or load_task(spec))
    except Released:
        queue.release(storage, claim)
        return RELEASED
    except Lost:
        return LOST
    except StorageUnavailable as error:
        logger.warning("%s", error)
        return f"{LOST}: the database is unavailable"
    except (KDecayError, HeartbeatStopped):
        queue.release(storage, claim)
        raise
    except ImportError as error:
        queue.release(storage, claim)
        raise _missing_package(error) from error
    except RunFailed as error:
        logger.error("trial %d failed: %s\n%s", claim.trial_id, error, error.output)
        reason, message = describe_failure(error, context.device)
        queue.fail(storage, claim.trial_id, reason, message, error.output or None)
        return FAILED
    except Exception as error:
        shown = traceback.format_exc()
        logger.error("trial %d failed:\n%s", claim.trial_id, shown)
        reason, message = describe_failure(error, context.device)
        queue.fail(storage, claim.trial_id, reason, message, shown[-KEPT_BYTES:])
        return FAILED


def _train(
    storage: Storage,
    spec: StudySpec,
    claim: Claim,
    context: WorkerContext,
    train: Callable[[WorkerRun], float | None],
) -> str:
    """Train with a heartbeat and a thread that reports."""
    with Heartbeat(storage, claim, spec.workers) as heartbeat:
        claim = with_choice(storage, spec, claim)
        trial = ClaimedTrial(storage, spec, claim)
        with Reporter(trial.report) as reporter:
            run = WorkerRun(spec, claim, context, trial, heartbeat, reporter)
            outcome = run.train(train)
    if run.has_ended:
        run.checkpoint.remove()
    return outcome


def describe_failure(error: Exception, device: str) -> tuple[str, str]:
    """Return the reason and the message to store with a trial that failed with ``error``.

    The reason is ``memory`` if the device's memory was full, ``wrong`` if what was reported would
    be wrong in every attempt, and else ``error``.
    """
    kind = "" if isinstance(error, RunFailed) else f"{type(error).__name__}: "
    text = f"{kind}{error}"[:2000]
    if isinstance(error, RunFailed) and error.is_wrong:
        return WRONG, text
    if isinstance(error, MemoryError) or any(phrase in text for phrase in MEMORY_PHRASES):
        hint = "lower the batch size, or train fewer runs on the device (--per-device, --fuse)"
        return MEMORY, f"{device} has too little memory: {hint} ({text})"
    return ERROR, text


class WorkerRun:
    """The :class:`kdecay_search.tasks.protocol.Run` that a worker hands to a task."""

    def __init__(
        self,
        spec: StudySpec,
        claim: Claim,
        context: WorkerContext,
        trial: ClaimedTrial,
        heartbeat: Heartbeat,
        reporter: Reporter,
    ) -> None:
        request = claim.request
        self.spec = spec
        self.seed = request.key.seed
        self.device = context.device
        self.ks = ks_of(request, trial.candidate)
        self.lr_max = trial.candidate.lr_max
        self.comparator = request.comparator
        self.point = request.point
        self.checkpoint = checkpoint_of(
            context.checkpoints, spec, claim.launch, request, trial.candidate
        )
        self._stop = context.stop
        self._trial, self._heartbeat, self._reporter = trial, heartbeat, reporter
        self._curve: list[Epoch] = []
        self._decision_is_due = False
        """Whether the last report includes a decision to pause the run."""
        self.has_ended = False
        """Whether the run has a result, so that it needs no checkpoint any more."""

    def train(self, train: Callable[[WorkerRun], float | None]) -> str:
        """Call the task, record the outcome, and return it for the log."""
        try:
            self.poll()
            value = train(self)
        except Paused:
            self._deliver_all()
            self._finish(self._trial.pause)
            length = self.spec.task.length
            return f"paused after {length.count(length.position(self._curve[-1].number))}"
        self._deliver_all()
        result = self._finish(lambda curve: self._trial.complete(curve, value))
        self.has_ended = True
        metric = self.spec.task.metric
        error = metric.error(result)
        return MetricFormat.of(metric, None, [error]).value(error)

    def share(self, seconds: float) -> None:
        """Note how much of the time since the claim counts for runs that it was trained with."""
        self._trial.shared_seconds = seconds

    def poll(self) -> None:
        self._check_threads()
        interruption = self._reporter.interruption or self._heartbeat.interruption
        if interruption is not None and not (interruption is Paused and self._is_trained):
            raise interruption
        if self._stop.is_set():
            raise Released

    @property
    def _is_trained(self) -> bool:
        """Whether the last report has been made: a run that has come to its end is not paused."""
        return bool(self._curve) and self._curve[-1].number >= self.spec.task.length.reports

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self._trial.restore(len(epochs))
        for epoch in epochs:
            self._record(epoch)

    def report(self, epoch: Epoch) -> None:
        """Record a report; meanwhile the reporter's thread decides whether to pause the run.

        The training sees the decision at its next poll, or at its next report, which is recorded
        before the run is paused.
        """
        if self._decision_is_due:
            self._reporter.wait(DECISION_SECONDS)
        self._decision_is_due = self._trial.is_decision(epoch)
        if self._decision_is_due:
            self._trial.keeps_state = keeps_state(self.spec, self.checkpoint)
        self._check_threads()
        self._record(epoch)
        self.poll()

    def _record(self, epoch: Epoch) -> None:
        self._curve.append(epoch)
        self._reporter.put(epoch)

    def _check_threads(self) -> None:
        """Raise the error that ended one of the threads, or :class:`Lost`."""
        for thread in (self._heartbeat, self._reporter):
            if thread.error is not None:
                raise thread.error
            if thread.interruption is Lost:
                raise Lost

    def _deliver_all(self) -> None:
        """Wait until all reports are delivered, for as long as this worker holds the trial."""
        while not self._reporter.wait(DELIVERY_POLL_SECONDS):
            self._check_threads()
        self._check_threads()

    def _finish(self, write: Callable[[Sequence[Epoch]], _T]) -> _T:
        """Write the outcome, and retry for as long as this worker holds the trial."""
        while True:
            try:
                return write(self._curve)
            except StorageUnavailable as error:
                logger.warning("retrying to record the end of the run: %s", error)
                self._check_threads()


def checkpoint_of(
    checkpoints: CheckpointFolder,
    spec: StudySpec,
    launch: str | None,
    request: RunRequest,
    candidate: Candidate,
) -> Checkpoint:
    """The checkpoint of a run.

    Args:
        checkpoints: The folder that holds the checkpoints of all studies.
        spec: The study.
        launch: Id of its launch.
        request: The run.
        candidate: The point of the search space that the run tries.
    """
    ks, key = ks_of(request, candidate), request.key
    return Checkpoint(
        checkpoints.of_study(spec, launch),
        key,
        spec.fingerprint(ks, key.seed, request.comparator, candidate.lr_max, request.point),
        spec.workers.checkpoint_seconds,
    )


def ks_of(request: RunRequest, candidate: Candidate) -> tuple[float, ...]:
    """All terms of a run, and in a confirmation those of the schedule that the search found: none
    for a cooldown."""
    k = request.k if request.point is not None else candidate.k
    return (*request.earlier_ks, *(() if k is None else (k,)))


def keeps_state(spec: StudySpec, checkpoint: Checkpoint) -> bool:
    """Whether a run that has made a report could be resumed from there: its code keeps its state,
    and that can be written."""
    if spec.task.kind in ("python", "command"):
        return checkpoint.exists and not checkpoint.has_failed
    return not checkpoint.has_failed


def load_task(spec: StudySpec) -> TrainFunction:
    """Return the function that trains the study's runs; the built-in image task imports torch.

    Raises:
        MissingPackage: The task needs a package that is not installed.
    """
    if spec.task.kind == "simulated":
        return train_simulated
    if spec.task.kind == "python":
        return train_function
    if spec.task.kind == "command":
        return train_command
    try:
        from kdecay_search.user_code import built_in  # noqa: PLC0415 - imports torch
    except ImportError as error:
        raise _missing_package(error) from error
    return built_in.train


def _missing_package(error: ImportError) -> MissingPackage:
    return MissingPackage(
        f"{error.name or error} is not installed here; pip install 'kdecay-search[worker]'"
    )
