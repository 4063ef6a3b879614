"""Optuna's samplers, where a study leaves it to one of them what to try."""

from __future__ import annotations

import zlib

import optuna
from optuna.samplers import BaseSampler

from kdecay_search.storage import attributes, parameters
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.search_spec import SearchSpec
from kdecay_search.study.trials import RunKey, RunRequest

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
