"""The worker's loop: claim, train, finish, reconcile, and wait while there is no work."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from kdecay_search import reconcile
from kdecay_search.errors import (
    InvalidSpec,
    KDecayError,
    StorageUnavailable,
    StudyError,
    UnreadableStudy,
)
from kdecay_search.search.machines import Machines
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.queue import Claim
from kdecay_search.storage.records import StoredStudy
from kdecay_search.study.candidate import candidate_name
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_STAGE, State, Trial
from kdecay_search.user_code.allowance import BUILT_IN_ONLY, Allowance
from kdecay_search.user_code.forked_runs import FORKED_RUNS
from kdecay_search.worker.fused import require_fusible, train_trials
from kdecay_search.worker.names import own_prefix
from kdecay_search.worker.train import (
    FAILED,
    LOST,
    RELEASED,
    WorkerContext,
    checkpoint_of,
    load_task,
    train_trial,
)

logger = logging.getLogger(__name__)

FIRST_IDLE_SECONDS = 0.1
"""First pause of a worker that has found no work."""
IDLE_SECONDS = 2.0
"""Longest pause between two looks for work of a worker that has just become idle."""
IDLE_SHARE = 0.05
"""Longest pause of a worker that has been idle for longer, as a share of its idle time."""
MAX_IDLE_SECONDS = 15.0
"""Longest pause of any worker: a thousand idle workers must not keep the database busy."""
FIRST_STUDY_SECONDS = 2.0
"""First pause between two reconciliations of a study, by a worker that waits for work of several,
when there was nothing to do. It doubles each time, up to :data:`MAX_IDLE_SECONDS`."""
LIBRARIES_SECONDS = 60.0
"""How long a worker without work keeps the libraries of its last run in memory."""
LIST_SECONDS = 1.0
"""How long a worker of all studies remembers which of them are active."""
REVISIT_SECONDS = 30.0
"""How long a worker of all studies leaves a study alone that wants no work."""
UNSUITABLE_SECONDS = 600.0
"""How long a worker of all studies leaves a study alone that cannot be read, or that this machine
lacks something for."""
FIRST_FAILURE_SECONDS = 1.0
"""Pause of a worker after a run that failed. It doubles with each further one in succession."""
MAX_FAILURE_SECONDS = 600.0
"""Longest pause after failed runs of a worker while other workers train: they take the runs that
this machine fails, if it is the machine that is at fault."""
MAX_FAILURE_SECONDS_ALONE = 2.0
"""Longest pause after failed runs of a worker whose runs nobody else could take."""
RECONCILE_SECONDS = 10.0
"""Shortest time between two reconciliations by one worker while runs are waiting: there is
nothing to plan for until the queue is empty."""


@dataclass(frozen=True)
class Options:
    """What a worker works on."""

    study: str | None
    """The name of the study to serve; None serves all studies in the storage."""
    drain: bool
    """Whether to end when no work is left, instead of waiting for more."""
    allowance: Allowance = BUILT_IN_ONLY
    """The user code that the worker may run."""


class Outlook(Enum):
    """Whether a study has work for this worker, as reconciling it has shown."""

    NONE = auto()
    """The study wants no work."""
    QUEUED = auto()
    """Runs have just been queued."""
    UNKNOWN = auto()
    """Work may follow, or another process is reconciling the study."""


class Worker:
    """Serves studies until it is stopped or, with ``options.drain``, until no work is left.

    Args:
        storage: The database that holds the studies.
        options: What to work on.
        context: The device, the checkpoint folder and the event that stops the worker.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        storage: Storage,
        options: Options,
        context: WorkerContext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"{own_prefix()}{context.device}"
        """The name under which the worker claims trials; no other worker has it."""
        self.trials = 0
        """How many trials the worker has ended."""
        self._storage = storage
        self._options = options
        self._context = context
        self._clock = clock
        self._ignored_until: dict[str, float] = {}
        """Time (s), by study, until which the study is left alone."""
        self._active: list[str] = []
        """The studies that may want work, oldest first, as last listed."""
        self._list_again_at = -math.inf
        """Time (s) at which the active studies are listed again."""
        self._kept_for: set[str] = set()
        """The studies that this worker may hold checkpoints of."""
        self._reconciled_at: dict[str, float] = {}
        """Time (s) of this worker's last reconciliation, by study."""
        self._study_pauses: dict[str, float] = {}
        """Pause (s), by study, before it is reconciled again, because there was nothing to do."""
        self._failures = 0
        """How often runs have failed here since the last one with a result."""
        self._paused_until: dict[str, float] = {}
        """Time (s), by study, before which no further run is claimed, because runs have failed."""

    def serve(self) -> None:
        """Work until there is nothing left to do.

        Raises:
            KDecayError: This worker cannot do what the study needs.
        """
        try:
            self._serve()
        finally:
            FORKED_RUNS.end()

    def _serve(self) -> None:
        if self._options.study is not None:
            study = records.read_study(self._storage, self._options.study)
            require_fusible(study.spec, self._context.fuse)
        pause, last_work = FIRST_IDLE_SECONDS, self._clock()
        while not self._context.stop.is_set():
            worked, more = self._look_for_work()
            if worked:
                pause, last_work = FIRST_IDLE_SECONDS, self._clock()
                continue
            if not more and self._options.drain:
                return
            if self._clock() - last_work > LIBRARIES_SECONDS:
                FORKED_RUNS.end()
            self._context.stop.wait(pause)
            pause = min(1.5 * pause, longest_pause(self._clock() - last_work))

    def _look_for_work(self) -> tuple[bool, bool]:
        """Train one trial if one is waiting, else reconcile the studies.

        Returns:
            Whether there was something to do, and whether there may be more.
        """
        try:
            names = self._studies()
            claimable = records.with_waiting(self._storage, names) if len(names) > 1 else names
            if any(self._work_on(name) for name in claimable):
                return True, True
            due = [name for name in names if self._is_due(name, len(names))]
            outlooks = [self._reconcile(name) for name in due]
            outlooks += [Outlook.UNKNOWN] * (len(names) - len(due))
            return Outlook.QUEUED in outlooks, outlooks != [Outlook.NONE] * len(names)
        except StorageUnavailable as error:
            logger.warning("%s", error)
            return False, True

    def _is_due(self, name: str, studies: int) -> bool:
        """Whether to reconcile a study now.

        A worker that waits beside several busy studies leaves those for a while in which it has
        found nothing to do: the worker that ends their runs reconciles them. What is queued is
        claimed nevertheless. A worker that drains has to know of each study whether work may
        follow.
        """
        if self._options.drain or studies == 1:
            return True
        pause = self._study_pauses.get(name, 0.0)
        return self._clock() - self._reconciled_at.get(name, -math.inf) >= pause

    def _studies(self) -> list[str]:
        """The names of the studies to serve now."""
        if self._options.study is not None:
            return [self._options.study]
        now = self._clock()
        if now >= self._list_again_at:
            if self._list_again_at == -math.inf:  # what earlier workers of this machine have left
                self._kept_for = self._context.checkpoints.studies()
            self._active = records.active_studies(self._storage)
            self._list_again_at = now + LIST_SECONDS
            for name in self._kept_for - set(self._active):
                self._kept_for.discard(name)
                self._reconcile(name)  # removes them
        return [name for name in self._active if self._ignored_until.get(name, now) <= now]

    def _work_on(self, name: str) -> bool:
        """Train one trial of the study, or several at once, if one is waiting; return whether one
        was."""
        if self._is_paused(name):
            return False
        study = self._running_study(name)
        if study is None:
            return False
        spec = study.spec

        def prepare() -> None:
            """Find out whether the study can be trained here, before a trial is claimed."""
            self._options.allowance.require(spec)
            require_fusible(spec, self._context.fuse)
            load_task(spec)  # importing torch takes seconds
            self._context.checkpoints.require_private(spec, study.launch)

        try:
            claim = queue.claim(self._storage, name, self.name, prepare)
            if claim is None:
                return False
            if claim.launch != study.launch:  # deleted and launched again since it was read
                queue.release(self._storage, claim)
                return True
            self._kept_for.add(name)
            self._study_pauses.pop(name, None)
            outcomes = self._train(spec, claim)
        except StorageUnavailable:
            raise
        except KDecayError as error:
            if self._options.study is not None:
                raise
            logger.warning("%s cannot be served here: %s", name, error)
            self._ignored_until[name] = self._clock() + UNSUITABLE_SECONDS
            return False
        if any(outcome.startswith(LOST) for outcome in outcomes):
            self._remove_if_deleted(study)
        self._count_failures(spec, outcomes)
        if self._clock() - self._reconciled_at.get(name, -math.inf) >= RECONCILE_SECONDS:
            self._reconcile(name)
        return True

    def _train(self, spec: StudySpec, claim: Claim) -> list[str]:
        """Train a claimed trial, and with it those of its stage and seed that can be claimed, if
        runs are fused; return their outcomes."""
        claims = [claim]
        if self._context.fuse > 1:
            try:
                claims += queue.claim_alike(self._storage, claim, self._context.fuse - 1)
            except StorageUnavailable as error:
                logger.warning("%s", error)
        if len(claims) > 1:
            return train_trials(self._storage, spec, claims, self._context, self.trial_ended)
        outcome = train_trial(self._storage, spec, claim, self._context)
        self.trial_ended(claim, outcome)
        return [outcome]

    def _remove_if_deleted(self, study: StoredStudy) -> None:
        """Remove the checkpoints of a study that was deleted while its run was trained here."""
        first = records.read_stages(self._storage, study.spec.name).get(FIRST_STAGE)
        if first is None or first.attributes.get(attribute.LAUNCH) != study.launch:
            self._context.checkpoints.remove_study(study.spec, study.launch)

    def trial_ended(self, claim: Claim, outcome: str) -> None:
        """Log and count a trial that has ended; a subclass may extend this."""
        logger.info("%s %s: %s", claim.study, _describe(claim), outcome)
        self.trials += 1

    def _count_failures(self, spec: StudySpec, outcomes: Sequence[str]) -> None:
        """Pause after a failed run of the study, for longer with each one in succession. Of runs
        that are trained at once, those that fail count as one, for they may have one reason."""
        if not all(outcome.startswith((FAILED, RELEASED, LOST)) for outcome in outcomes):
            self._failures = 0
            return
        if not any(outcome.startswith(FAILED) for outcome in outcomes):
            return
        self._failures += 1
        name = spec.name
        machines = Machines.of(records.read_history(self._storage, name, spec.looks))
        seconds = failure_pause(self._failures, bool(machines.at_work - {self.name}))
        self._paused_until[name] = self._clock() + seconds
        if self._failures > 1:
            text = "%d runs in succession have failed here; no further run of %s for %.0f s"
            logger.warning(text, self._failures, name, seconds)

    def _is_paused(self, name: str) -> bool:
        return self._clock() < self._paused_until.get(name, -math.inf)

    def _running_study(self, name: str) -> StoredStudy | None:
        """The study; None if it is stopped, is deleted, or cannot be read.

        Read before every claim, since a study may be deleted and launched again under its name.
        """
        try:
            study = records.read_study(self._storage, name)
        except (StudyError, InvalidSpec) as error:
            if self._options.study is not None:
                raise
            self._leave_alone(name, error)
            return None
        return None if study.stopped else study

    def _leave_alone(self, name: str, error: KDecayError) -> None:
        """Leave a study alone for a while that cannot be read; others are worked on."""
        if isinstance(error, UnreadableStudy | InvalidSpec):
            logger.warning("%s is left alone: %s", name, error)
            self._ignored_until[name] = self._clock() + UNSUITABLE_SECONDS
        else:  # it is deleted, and may be launched again at any time
            logger.info("%s", error)
            self._list_again_at = min(self._list_again_at, self._clock())

    def _reconcile(self, name: str) -> Outlook:
        """Reconcile a study; return whether it has work, as far as this worker can see."""
        self._reconciled_at[name] = self._clock()
        try:
            snapshot = reconcile.reconcile(self._storage, name, self._remove_checkpoints)
        except (StudyError, InvalidSpec) as error:
            self._leave_alone(name, error)
            return Outlook.NONE
        if snapshot is None:
            return Outlook.UNKNOWN
        if snapshot.state in ("done", "failed"):
            self._context.checkpoints.remove_study(snapshot.spec, snapshot.launch)
        if snapshot.state != "running":
            self._ignored_until[name] = self._clock() + REVISIT_SECONDS
            return Outlook.NONE
        if self._is_paused(name) or not snapshot.count(State.WAITING):
            pause = 2 * self._study_pauses.get(name, FIRST_STUDY_SECONDS / 2)
            self._study_pauses[name] = min(pause, MAX_IDLE_SECONDS)
            return Outlook.UNKNOWN
        self._study_pauses.pop(name, None)
        return Outlook.QUEUED

    def _remove_checkpoints(self, study: StoredStudy, closed: Sequence[Trial]) -> None:
        """Remove the checkpoints of paused runs that have ended."""
        for trial in closed:
            if trial.point is not None:
                where = self._context.checkpoints, study.spec, study.launch
                checkpoint_of(*where, trial.request, trial.point).remove()


def longest_pause(idle_seconds: float) -> float:
    """Longest pause (s) before the next look for work, after ``idle_seconds`` without any."""
    return min(max(IDLE_SECONDS, IDLE_SHARE * idle_seconds), MAX_IDLE_SECONDS)


def failure_pause(failures: int, others_work: bool) -> float:
    """Return the pause (s) of a worker after this number of failed runs in succession.

    Args:
        failures: The number of failed runs.
        others_work: Whether other workers train the study's runs, or have done so.
    """
    longest = MAX_FAILURE_SECONDS if others_work else MAX_FAILURE_SECONDS_ALONE
    doublings = min(failures - 1, 32)  # more would overflow
    return min(FIRST_FAILURE_SECONDS * 2.0**doublings, longest)


def _describe(claim: Claim) -> str:
    """What a claimed trial trains, for the log."""
    request, seed = claim.request, claim.request.key.seed
    if request.comparator is not None:
        return f"confirmation, {request.comparator}, seed {seed}"
    if request.point is not None:
        name = candidate_name(request.point, request.earlier_ks)
        return f"stage {request.key.stage}, {name}, seed {seed}"
    k = "k by the sampler" if request.k is None else f"k = {request.k:g}"
    level = "" if request.lr_max is None else f", lr_max {request.lr_max:g}"
    return f"stage {request.key.stage}, {k}{level}, seed {seed}"
