"""Optuna's samplers, where a study leaves it to one of them what to try."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable

import optuna
from optuna.samplers import BaseSampler

from kdecay_search.storage import attributes, parameters
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.search_spec import SearchSpec
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey, RunRequest, State, Trial

STARTUP_SHARE = 1 / 3
"""Share of a stage's candidates that tpe and gp draw at random before they use a model."""
MAX_STARTUP = 10
"""Most candidates that tpe and gp draw at random."""


def make_sampler(search: SearchSpec, key: RunKey) -> BaseSampler:
    """A sampler for one suggestion; its seed depends on the candidate, so that no two workers draw
    the same."""
    seed = zlib.crc32(f"{search.sampler_seed}/{key.stage}/{key.candidate}".encode())
    startup = min(MAX_STARTUP, max(2, round(STARTUP_SHARE * search.trials)))
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return optuna.samplers.RandomSampler(seed=seed)


def suggested(trial: optuna.trial.Trial, request: RunRequest) -> Candidate:
    """What the sampler of a trial's study chooses for a request that leaves it open."""
    lr_max, space = request.lr_max, parameters.k_range(request)
    if request.levels:
        lr_max = float(trial.suggest_categorical(attributes.LR_MAX, request.levels))
    k = trial.suggest_float(attributes.K, space.low, space.high, log=True)
    return Candidate(k, lr_max)


class MemorySampler:
    """Chooses candidates as a worker does, from trials that no Optuna study holds."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec

    def choose(self, request: RunRequest, trials: Iterable[Trial]) -> Candidate:
        """Let the study's sampler choose what a request leaves open.

        Args:
            request: The request.
            trials: All trials of the study.
        """
        direction = optuna.study.StudyDirection[self._spec.task.metric.optuna_direction]
        storage = optuna.storages.InMemoryStorage()
        logger = logging.getLogger("optuna.storages._in_memory")
        logger.disabled, was_disabled = True, logger.disabled  # it announces every study
        storage.create_new_study([direction], "search")
        logger.disabled = was_disabled
        sampler = make_sampler(self._spec.search, request.key)
        study = optuna.Study("search", storage, sampler)
        for trial in trials:
            known = trial.state == State.COMPLETE and trial.key.stage == request.key.stage
            if known and trial.error is not None and trial.k is not None:
                study.add_trial(self._frozen(trial))
        return suggested(study.ask(), request)

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        given = {attributes.K: trial.k}
        if trial.request.levels:
            given[attributes.LR_MAX] = trial.lr_max
        return optuna.trial.create_trial(
            params=given,
            distributions=parameters.distributions(trial.request),
            value=self._spec.task.metric.value(trial.error or 0.0),
        )
