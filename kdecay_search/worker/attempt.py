"""One trial, from its claim to its end."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from optuna.exceptions import UpdateFinishedTrialError

from kdecay_search.errors import KEPT_BYTES, KDecayError, MissingPackage, StorageUnavailable
from kdecay_search.storage import Storage, queue
from kdecay_search.storage.queue import Claim
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import ERROR, MEMORY
from kdecay_search.tasks.checkpoint import Checkpoint, CheckpointFolder
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost, Pruned, Released, Train
from kdecay_search.tasks.simulated import train as train_simulated
from kdecay_search.user_code.command import train as train_command
from kdecay_search.user_code.monitoring import RunFailed
from kdecay_search.user_code.python import train as train_function
from kdecay_search.worker.deadline import SHARE, Deadline
from kdecay_search.worker.heartbeat import Heartbeat, HeartbeatStopped
from kdecay_search.worker.reporter import Reporter
from kdecay_search.worker.trial import ClaimedTrial

logger = logging.getLogger(__name__)

DECISION_SECONDS = 2.0
"""How long a training waits, an epoch later, for the pruner's answer before it goes on without."""
POLL_SECONDS = 0.2
MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True)
class Place:
    """Where a worker trains."""

    device: str
    checkpoints: CheckpointFolder
    stop: threading.Event
    """Set when the process shall end."""


def attempt(storage: Storage, spec: StudySpec, claim: Claim, place: Place) -> str:
    """Train the claimed trial and record its outcome; return that outcome in one word.

    A :class:`KDecayError` (missing data, missing package) concerns this worker and not the run:
    the trial goes back into the queue, and the error to the caller.
    """
    try:
        return _train(storage, spec, claim, place)
    except Released:
        queue.release(storage, claim)
        return "released"
    except (Lost, UpdateFinishedTrialError):
        return "lost"
    except StorageUnavailable as error:
        logger.warning("%s", error)
        return "lost with the connection to the database"
    except (KDecayError, HeartbeatStopped):
        queue.release(storage, claim)
        raise
    except ImportError as error:
        queue.release(storage, claim)
        raise _missing(error) from error
    except RunFailed as error:
        logger.error("trial %d failed: %s\n%s", claim.trial_id, error, error.output)
        reason, text = _described(error, place.device)
        queue.fail(storage, claim.trial_id, reason, text, error.output or None)
        return "failed"
    except Exception as error:
        shown = traceback.format_exc()
        logger.error("trial %d failed:\n%s", claim.trial_id, shown)
        queue.fail(storage, claim.trial_id, *_described(error, place.device), shown[-KEPT_BYTES:])
        return "failed"


def _train(storage: Storage, spec: StudySpec, claim: Claim, place: Place) -> str:
    train = task_of(spec)
    with _held(storage, spec, claim, place) as heart:
        trial = ClaimedTrial(storage, spec, claim)
        with Reporter(trial.report) as reporter:
            run = _Attempt(spec, claim, place, trial, heart, reporter)
            outcome = run.train(train)
    run.checkpoint.remove()
    return outcome


@contextmanager
def _held(storage: Storage, spec: StudySpec, claim: Claim, place: Place) -> Iterator[Heartbeat]:
    """Beat for the trial; and give it back in time when this process shall end."""

    def leave() -> None:
        queue.release(storage, claim)

    seconds = SHARE * spec.workers.grace_seconds
    with Heartbeat(storage, claim, spec.workers) as heart, Deadline(place.stop, seconds, leave):
        yield heart


def _described(error: Exception, device: str) -> tuple[str, str]:
    """Reason and message of a trial that failed with ``error``."""
    kind = "" if isinstance(error, RunFailed) else f"{type(error).__name__}: "
    text = f"{kind}{error}"[:2000]
    is_full = isinstance(error, MemoryError) or any(words in text for words in MEMORY_WORDS)
    if is_full:
        hint = "lower the batch size, or run fewer processes on the device (--per-device)"
        return MEMORY, f"{device} has too little memory: {hint} ({text})"
    return ERROR, text


class _Attempt:
    """What the task sees: :class:`kdecay_search.tasks.protocol.Run`."""

    def __init__(
        self,
        spec: StudySpec,
        claim: Claim,
        place: Place,
        trial: ClaimedTrial,
        heart: Heartbeat,
        reporter: Reporter,
    ) -> None:
        self.spec = spec
        self.seed = claim.request.key.seed
        self.device = place.device
        self.ks = (*claim.request.earlier_ks, trial.k)
        self.lr_max = trial.lr_max
        self.comparator = claim.request.comparator
        self.checkpoint = _checkpoint(spec, claim, place.checkpoints, self.ks, self.lr_max)
        self._stop = place.stop
        self._trial, self._heart, self._reporter = trial, heart, reporter
        self._curve: list[Epoch] = []
        self._is_judged = False
        """Whether the pruner was asked about the last epoch."""

    def train(self, train: Train) -> str:
        """Train, and record what came of it."""
        try:
            self.poll()
            error = train(self)
        except Pruned:
            self._deliver_all()
            self._finish(self._trial.prune)
            return f"pruned after {self._curve[-1].number} epochs"
        self._deliver_all()
        self._finish(lambda curve: self._trial.complete(curve, error))
        last = self._curve[-1]
        result = last.validation_error if error is None else error
        return "diverged" if last.diverged else f"{result:.2f} %"

    def poll(self) -> None:
        self._check()
        wish: type[Interruption] | None = self._heart.interruption or self._reporter.interruption
        if wish is not None:
            raise wish
        if self._stop.is_set():
            raise Released

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self._trial.restore(len(epochs))
        for epoch in epochs:
            self._record(epoch)

    def report(self, epoch: Epoch) -> None:
        """The pruner answers beside the training, which hears of it at the next poll. An epoch
        that was trained in vain meanwhile is not recorded: the run ends where it was judged."""
        if self._is_judged:
            self._reporter.wait(DECISION_SECONDS)
        self.poll()
        self._record(epoch)
        self._is_judged = self._trial.is_decision(epoch)
        self.poll()

    def _record(self, epoch: Epoch) -> None:
        self._curve.append(epoch)
        self._reporter.put(epoch)

    def _check(self) -> None:
        """Raise what ended one of the threads, if it did, or :class:`Lost`."""
        for thread in (self._heart, self._reporter):
            if thread.error is not None:
                raise thread.error
            if thread.interruption is Lost:
                raise Lost

    def _deliver_all(self) -> None:
        """Wait for the reports, for as long as the trial is this worker's."""
        while not self._reporter.wait(POLL_SECONDS):
            self._check()
        self._check()

    def _finish(self, write: Callable[[Sequence[Epoch]], None]) -> None:
        """Write the outcome, and try for as long as the trial is this worker's."""
        while True:
            try:
                return write(self._curve)
            except StorageUnavailable as error:
                logger.warning("the run's end waits to be reported: %s", error)
                self._check()


def _checkpoint(
    spec: StudySpec,
    claim: Claim,
    folder: CheckpointFolder,
    ks: Sequence[float],
    lr_max: float | None,
) -> Checkpoint:
    key = claim.request.key
    fingerprint = spec.fingerprint(ks, key.seed, claim.request.comparator, lr_max)
    return Checkpoint(folder.of_study(spec), key, fingerprint, spec.workers.checkpoint_seconds)


def task_of(spec: StudySpec) -> Train:
    """What trains the study's runs. Raises :class:`MissingPackage`."""
    if spec.task.kind == "simulated":
        return train_simulated
    if spec.task.kind == "python":
        return train_function
    if spec.task.kind == "command":
        return train_command
    try:
        from kdecay_search.training import images  # noqa: PLC0415 - torch, only where needed
    except ImportError as error:
        raise _missing(error) from error
    return images.train


def _missing(error: ImportError) -> MissingPackage:
    return MissingPackage(
        f"{error.name or error} is not installed here; pip install 'kdecay-search[worker]'"
    )
