"""One trial, from its claim to its end."""

from __future__ import annotations

import logging
import threading
import traceback
import zlib
from collections.abc import Callable

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler

from kdecay_search.errors import KDecayError, MissingPackage
from kdecay_search.pruning import SmoothPruner, may_prune
from kdecay_search.runs import RunKey, Token
from kdecay_search.simulation import train as train_simulated
from kdecay_search.spec import StudySpec
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.connect import retried
from kdecay_search.storage.queue import Claim
from kdecay_search.task import DIVERGED_ERROR, Epoch, Interruption, Lost, Pruned, Released, Train
from kdecay_search.worker.heartbeat import Heart

logger = logging.getLogger(__name__)

STARTUP_SHARE = 1 / 3
"""Share of a stage's candidates that tpe and gp draw at random before they model."""
MAX_STARTUP = 10


def attempt(
    storage: Storage, spec: StudySpec, claim: Claim, device: str, stop: threading.Event
) -> str:
    """Train the claimed trial and record its outcome; return that outcome in one word.

    A :class:`KDecayError` (missing data, missing package) concerns this worker and not the run:
    the trial goes back into the queue, and the error to the caller.
    """
    run = None
    try:
        train = _task_of(spec)
        with Heart(storage, claim, spec.workers) as heart:
            run = _Attempt(storage, spec, claim, device, lambda: _wish(heart, stop))
            run.poll()
            train(run)
        return run.complete()
    except Interruption as wish:
        return _interrupted(storage, claim, run, wish)
    except KDecayError:
        queue.release(storage, claim.trial_id)
        raise
    except ImportError as error:
        queue.release(storage, claim.trial_id)
        raise MissingPackage(
            f"{error.name or error} is not installed here; pip install 'kdecay-search[worker]'"
        ) from error
    except UpdateFinishedTrialError:
        return "lost"
    except Exception as error:
        logger.error("trial %d failed:\n%s", claim.trial_id, traceback.format_exc())
        message = f"{type(error).__name__}: {error}"
        queue.fail(storage, claim.trial_id, "error", message[:2000])
        return "failed"


def _wish(heart: Heart, stop: threading.Event) -> type[Interruption] | None:
    return heart.interruption or (Released if stop.is_set() else None)


def _interrupted(storage: Storage, claim: Claim, run: _Attempt | None, wish: Interruption) -> str:
    if isinstance(wish, Pruned) and run is not None:
        return run.prune()
    if isinstance(wish, Released):
        queue.release(storage, claim.trial_id)
        return "released"
    return "lost"


class _Attempt:
    """What the task sees (:class:`kdecay_search.task.Run`), connected to Optuna's trial."""

    def __init__(
        self,
        storage: Storage,
        spec: StudySpec,
        claim: Claim,
        device: str,
        wish: Callable[[], type[Interruption] | None],
    ) -> None:
        self.spec = spec
        self.seed = claim.token.key.seed
        self.device = device
        self._storage = storage
        self._claim = claim
        self._wish = wish
        self._curve: list[Epoch] = []
        self._trial = _open_trial(storage, spec, claim)
        self._reported = set(storage.optuna.get_trial(claim.trial_id).intermediate_values)
        self.k = _choose_k(self._trial, claim.token)
        self.ks = (*claim.token.earlier_ks, self.k)

    def poll(self) -> None:
        wish = self._wish()
        if wish is not None:
            raise wish

    def report(self, epoch: Epoch) -> None:
        self._curve.append(epoch)
        self.poll()
        try:
            self._tell(epoch)
            should_prune = not epoch.diverged and self._should_prune()
        except (UpdateFinishedTrialError, KeyError):
            raise Lost from None
        if should_prune:
            raise Pruned

    def complete(self) -> str:
        last = self._curve[-1]
        self._keep_curves()
        error = DIVERGED_ERROR if last.diverged else last.validation_error
        queue.complete(self._storage, self._claim.trial_id, error)
        return "diverged" if last.diverged else f"{error:.2f} %"

    def prune(self) -> str:
        self._keep_curves()
        queue.prune(self._storage, self._claim.trial_id, self._curve[-1].averaged_error)
        return f"pruned after {self._curve[-1].number} epochs"

    def _tell(self, epoch: Epoch) -> None:
        """Report an epoch, unless an earlier holder of this trial has: it got the same value."""
        if epoch.number not in self._reported:
            retried(self._trial.report)(epoch.averaged_error, epoch.number)
            self._reported.add(epoch.number)

    def _should_prune(self) -> bool:
        step = self._curve[-1].number
        return may_prune(self.spec, self._claim.token, step) and retried(self._trial.should_prune)()

    def _keep_curves(self) -> None:
        curves = {name: [getattr(e, name) for e in self._curve] for name in records.CURVES}
        queue.write_curves(self._storage, self._claim.trial_id, curves)


@retried
def _open_trial(storage: Storage, spec: StudySpec, claim: Claim) -> optuna.trial.Trial:
    study = optuna.load_study(
        study_name=records.stage_name(spec.name, claim.token.key.stage),
        storage=storage.optuna,
        sampler=_make_sampler(spec, claim.token.key),
        pruner=SmoothPruner(spec),
    )
    study.get_trials(deepcopy=False)  # the cache must know a trial before it can be written to
    return optuna.trial.Trial(study, claim.trial_id)


@retried
def _choose_k(trial: optuna.trial.Trial, token: Token) -> float:
    """The token's k, or the sampler's choice; kept as the trial's parameter either way."""
    space = queue.distribution(token)
    return trial.suggest_float(records.PARAMETER, space.low, space.high, log=space.log)


def _make_sampler(spec: StudySpec, key: RunKey) -> BaseSampler:
    """A sampler for one suggestion, seeded by the candidate: workers never draw the same twice."""
    search = spec.search
    seed = zlib.crc32(f"{search.sampler_seed}/{key.stage}/{key.candidate}".encode())
    startup = min(MAX_STARTUP, max(2, round(STARTUP_SHARE * search.trials)))
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return optuna.samplers.RandomSampler(seed=seed)


def _task_of(spec: StudySpec) -> Train:
    if spec.task.kind == "simulated":
        return train_simulated
    from kdecay_search.training import images  # noqa: PLC0415 - torch, only where it is needed

    return images.train
