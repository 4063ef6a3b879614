"""Optuna's samplers, where a study leaves it to one of them what to try."""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Iterable
from functools import cached_property

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from kdecay_search.storage import attributes, parameters
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.metric import Metric
from kdecay_search.study.search_spec import SearchSpec
from kdecay_search.study.space import Subspace
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, RunKey, RunRequest, State, Trial

STARTUP_SHARE = 1 / 3
"""Share of a stage's candidates that tpe and gp draw at random before they use a model."""
MAX_STARTUP = 10
"""Most candidates that tpe and gp draw at random."""


def make_sampler(search: SearchSpec, key: RunKey) -> BaseSampler:
    """A sampler for one suggestion; its seed depends on the candidate, so that no two workers draw
    the same."""
    seed = zlib.crc32(f"{search.sampler_seed}/{key.stage}/{key.candidate}".encode())
    candidates = search.budget if search.is_joint else search.trials
    startup = min(MAX_STARTUP, max(2, round(STARTUP_SHARE * candidates)))
    name = search.sampler.removeprefix("joint-")
    if name == "tpe":
        with warnings.catch_warnings():  # a group is Optuna's word for the parameters of a family
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=startup,
                multivariate=search.is_joint,
                group=search.is_joint,
            )
    if name == "gp":
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
        study = _new_study(make_sampler(self._spec.search, request.key), self._spec.task.metric)
        is_whole = self._spec.search.is_joint
        known_as = self._whole if is_whole else self._frozen
        for trial in trials:
            is_past = trial.state == State.COMPLETE and trial.key.stage == request.key.stage
            if is_past and (past := known_as(trial)) is not None:
                study.add_trial(past)
        return self._proposed(study.ask()) if is_whole else suggested(study.ask(), request)

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial | None:
        if trial.k is None or trial.error is None:
            return None
        given: dict[str, float | None] = {attributes.K: trial.k}
        if trial.request.levels:
            given[attributes.LR_MAX] = trial.lr_max
        return optuna.trial.create_trial(
            params=given,
            distributions=parameters.distributions(trial.request),
            value=self._spec.task.metric.value(trial.error),
        )

    # ---- whole schedules: how far along each of its family's axes a candidate is ----------------

    @cached_property
    def _families(self) -> dict[str, Subspace]:
        return {each.family: each for each in self._spec.schedule_space().families}

    def _axes(self, family: str) -> list[str]:
        """The parameters of a trial: those of its family; for a Gaussian process, which compares
        trials by what all of them have, those of every family."""
        every = self._spec.search.sampler == "joint-gp"
        families = self._families.values() if every else [self._families[family]]
        return list(dict.fromkeys(name for each in families for name in each.searched))

    def _proposed(self, trial: optuna.trial.Trial) -> Candidate:
        family = trial.suggest_categorical(attributes.FAMILY, list(self._families))
        shares = {name: trial.suggest_float(name, 0.0, 1.0) for name in self._axes(family)}
        subspace = self._families[family]
        return subspace.at(shares[name] for name in subspace.searched)

    def _whole(self, trial: Trial) -> optuna.trial.FrozenTrial | None:
        """A run as the sampler knows it; None if it lies outside of what is searched, as a
        baseline's may, or is on another seed, which says nothing beside the first."""
        point, error = trial.point, trial.error
        if point is None or error is None or trial.key.seed != FIRST_SEED:
            return None
        family = point.family or ""
        if family not in self._families or not math.isfinite(error):
            return None
        subspace = self._families[family]
        shares = dict(zip(subspace.searched, subspace.shares(point), strict=True))
        if not all(0.0 <= share <= 1.0 for share in shares.values()):
            return None
        axes = {name: shares.get(name, 0.5) for name in self._axes(family)}
        families = CategoricalDistribution(list(self._families))
        return optuna.trial.create_trial(
            params={attributes.FAMILY: family, **axes},
            distributions={
                attributes.FAMILY: families,
                **dict.fromkeys(axes, FloatDistribution(0.0, 1.0)),
            },
            value=self._spec.task.metric.value(error),
        )


def _new_study(sampler: BaseSampler, metric: Metric) -> optuna.Study:
    """A study in memory, without Optuna's word that it is there."""
    direction = optuna.study.StudyDirection[metric.optuna_direction]
    storage = optuna.storages.InMemoryStorage()
    logger = logging.getLogger("optuna.storages._in_memory")
    logger.disabled, was_disabled = True, logger.disabled
    storage.create_new_study([direction], "search")
    logger.disabled = was_disabled
    return optuna.Study("search", storage, sampler)
