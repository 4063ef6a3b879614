"""The joint sampler: schedules together with parameters of the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdecay_search.optuna.pruner import first_seed
from kdecay_search.optuna.schedule import CANDIDATE, FAMILY, NAMES, PREFIX
from kdecay_search.search.coordinates import coordinates
from kdecay_search.search.gaussian_process import Contrasts, GaussianProcess
from kdecay_search.search.policy import POLICY
from kdecay_search.search.results import Array, Results
from kdecay_search.study.candidate import Candidate, read_candidate

OWN_LENGTHS = (0.3, 0.8, 2.0)
"""Length scales of a parameter of the user's own, in units of its range."""
CHOICE_LENGTHS = (0.7, 2.0)
"""The same for a choice, whose options lie at a distance of one from each other."""
PROPOSALS, NEARBY, LEADERS = 96, 16, 3
"""New points that are considered: over the whole space, and around each of the best ones."""
MOST_LENGTHS, KEPT = 12, 4
"""Combinations of length scales that are tried, and the most evident that are kept."""
SAMPLES = 256
"""Joint samples behind the expected improvement, for each combination that is kept."""
FIRST_TRIALS = 10
"""Default number of trials that are drawn at random before there is a model."""
MOST_TRIALS = 200
"""Trials that the model learns from, the best and the latest: a bound on computing time."""

Params = dict[str, Any]


class JointSampler(BaseSampler):
    """Samples schedules and parameters of your own together, by a Gaussian process.

    Schedules of :func:`suggest_schedule` lie by their shapes, which lets every family's trials
    speak for the others; floats and integers lie by their values, logarithmic ones by their
    logarithms, and choices apart from each other. The next trial is the point whose expected
    improvement is the largest, over noise and seeds (of :func:`report`). A parameter that depends
    on others is known once a trial has had it. Trials that run count as middling, so that several
    workers spread.

    Of several objectives, and before there are ``n_startup_trials`` results, it draws at random.

    Args:
        seed: Seed of the sampler; None draws one.
        n_startup_trials: Trials that are drawn at random before there is a model.
        prefix: The prefix that ``suggest_schedule`` was given.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        n_startup_trials: int = FIRST_TRIALS,
        prefix: str = PREFIX,
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed)
        self._startup, self._prefix = max(1, n_startup_trials), prefix

    def reseed_rng(self) -> None:
        self._random = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters that a trial with a result has had, those that depend on others included;
        each with its latest distribution."""
        if len(study.directions) > 1:
            return {}
        found: dict[str, BaseDistribution] = {}
        for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            found |= other.distributions
        return {name: kind for name, kind in sorted(found.items()) if not kind.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        if not search_space:
            return {}
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        every = study.get_trials(deepcopy=False, states=states)
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        known = [other for other in every if other.number != trial.number]
        tried = _tried(known, sign, search_space)
        if sum(not each.is_guess for each in tried) < self._startup:
            return {}
        space = _Space(search_space, self._prefix, known)
        proposals = self._proposals(space, tried)
        best = _most_improving(space, tried, proposals, self._random)
        return space.as_stated(best)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value at random: of a parameter that no trial has had, or while there is no model."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _proposals(self, space: _Space, tried: Sequence[_Tried]) -> list[Params]:
        """New points: over the whole space, and around the best ones at growing distances."""
        random = self._random
        found = [space.at(random.random(space.size)) for _ in range(PROPOSALS)]
        best = sorted(tried, key=lambda each: each.error)[:LEADERS]
        for place in best:
            shares = space.shares(place.params)
            for number in range(NEARBY):
                reach = 0.3 * (number + 1) / NEARBY
                moved = shares + reach * random.standard_normal(space.size)
                kept = random.random(space.size) < 0.5  # noqa: PLR2004 - half stay as they are
                found.append(space.at(np.clip(np.where(kept, shares, moved), 0.0, 1.0)))
        return found


@dataclass(frozen=True)
class _Tried:
    """A trial as the model sees it."""

    params: Params
    """Its parameters."""
    stated: Mapping[str, Any]
    """What its schedule is made of; empty without one."""
    seed: int
    """Its seed."""
    error: float
    """Its result, oriented so that lower is better."""
    is_guess: bool
    """Whether it has no result yet, and counts as middling."""


def _tried(
    trials: Sequence[FrozenTrial], sign: float, space: Mapping[str, BaseDistribution]
) -> list[_Tried]:
    """The trials that the model learns from: those that have none of the parameters are left out,
    what has diverged or was pruned counts as the worst, and what still runs as middling."""
    values: list[tuple[FrozenTrial, float | None]] = []
    for trial in trials:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if trial.params.keys() & space.keys():
            values.append((trial, None if value is None else sign * value))
    finite = sorted(value for _, value in values if value is not None and math.isfinite(value))
    if not finite:
        return []
    worst, middle = finite[-1], finite[len(finite) // 2]

    def error(trial: FrozenTrial, value: float | None) -> float:
        if trial.state == TrialState.RUNNING:
            return middle
        if trial.state == TrialState.PRUNED:
            return worst
        return value if value is not None and math.isfinite(value) else worst

    found = [
        _Tried(
            trial.params,
            trial.user_attrs.get(CANDIDATE, {}),
            first_seed(trial.user_attrs),
            error(trial, value),
            trial.state == TrialState.RUNNING,
        )
        for trial, value in values
    ]
    if len(found) <= MOST_TRIALS:
        return found
    half = MOST_TRIALS // 2
    return [*sorted(found[:-half], key=lambda each: each.error)[:half], *found[-half:]]


class _Space:
    """The parameters of a study: how far along their ranges points lie, and where in the model."""

    def __init__(
        self, kinds: Mapping[str, BaseDistribution], prefix: str, trials: Sequence[FrozenTrial]
    ) -> None:
        self._kinds, self._prefix = dict(kinds), prefix
        self._fields = {f"{prefix}{name}": field for field, name in NAMES.items()}
        self._fields[f"{prefix}{FAMILY}"] = "family"
        self._usual: dict[str, Mapping[str, Any]] = {}
        """Of each family, a schedule that has been tried, for what is no parameter."""
        for trial in trials:
            stated = trial.user_attrs.get(CANDIDATE, {})
            if "family" in stated:
                self._usual[stated["family"]] = stated

    @property
    def size(self) -> int:
        """Number of parameters."""
        return len(self._kinds)

    def at(self, shares: Array) -> Params:
        """The point at a share of the way along each range."""
        return {
            name: _at(kind, float(share))
            for (name, kind), share in zip(self._kinds.items(), shares, strict=True)
        }

    def shares(self, params: Mapping[str, Any]) -> Array:
        """How far along its range each parameter is; in the middle, where it is missing."""
        return np.array(
            [
                _share(kind, params[name]) if name in params else 0.5
                for name, kind in self._kinds.items()
            ]
        )

    def as_stated(self, params: Params) -> Params:
        """A point without the parameters that its schedule's family lacks."""
        family = params.get(f"{self._prefix}{FAMILY}")
        stated = self._usual.get(family, {}) if family is not None else {}
        lacking = {"k", "power", "decay_share"} - set(stated) if stated else set()
        return {
            name: value for name, value in params.items() if self._fields.get(name) not in lacking
        }

    def candidate(self, params: Mapping[str, Any], stated: Mapping[str, Any]) -> Candidate | None:
        """The schedule of a point; None if the study has no schedules."""
        if not self._usual:
            return None
        own = {self._fields[name]: value for name, value in params.items() if name in self._fields}
        family = own.get("family") or stated.get("family") or next(iter(self._usual))
        usual = stated or self._usual.get(family, {})
        fields = {name: own.get(name, value) for name, value in usual.items()}
        return read_candidate({**fields, "family": family})

    def columns(
        self, points: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
    ) -> list[tuple[Array, tuple[float, ...]]]:
        """The coordinates of points, and the length scales to average over in each."""
        found: list[tuple[Array, tuple[float, ...]]] = []
        schedules = [self.candidate(params, stated) for params, stated in points]
        known = [each for each in schedules if each is not None]
        if len(known) == len(points):
            found += coordinates(known)
        for name, kind in self._kinds.items():
            if name in self._fields and known:
                continue
            values = [params.get(name) for params, _ in points]
            if isinstance(kind, CategoricalDistribution):
                found += [
                    (
                        np.array([float(value == each) for value in values]) * 0.5**0.5,
                        CHOICE_LENGTHS,
                    )
                    for each in kind.choices
                ]
            else:
                shares = [0.5 if value is None else _share(kind, value) for value in values]
                found.append((np.array(shares), OWN_LENGTHS))
        return found


def _most_improving(
    space: _Space,
    tried: Sequence[_Tried],
    proposals: Sequence[Params],
    random: np.random.Generator,
) -> Params:
    """The proposal whose expected improvement on the best point is the largest.

    The best point is the best by the model and not by its luck: in each joint sample, another
    trial may be it.
    """
    points = [*((each.params, each.stated) for each in tried), *((p, {}) for p in proposals)]
    columns = space.columns(points)
    values = np.array([column for column, _ in columns])
    labels = [Candidate(float(number + 1)) for number in range(len(points))]
    results = Results.by_seed(
        [(label, {each.seed: each.error}) for label, each in zip(labels, tried, strict=False)]
    )
    standard = results.standardised().compressed(POLICY.far)
    contrasts = Contrasts.of(labels, standard)
    signals = np.array(POLICY.signals)
    nuggets = np.minimum(POLICY.whole_nugget, signals)
    fits = [
        GaussianProcess.fit(values, contrasts, lengths, signals, nuggets)
        for lengths in _lengths([scales for _, scales in columns], random)
    ]
    fits.sort(key=lambda fit: -float(fit.evidence.max()))
    kept = fits[:KEPT]
    evidence = np.array([fit.evidence for fit in kept])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    gain = np.zeros(len(proposals))
    for fit, of_signals in zip(kept, weights, strict=True):
        for place in np.flatnonzero(of_signals > of_signals.max() / 4):
            drawn = fit.draw(int(place), SAMPLES, random)
            best = drawn[:, : len(tried)].min(axis=1, keepdims=True)
            expected = np.maximum(best - drawn[:, len(tried) :], 0.0).mean(axis=0)
            gain += of_signals[place] * expected
    return proposals[int(gain.argmax())]


def _lengths(
    scales: Sequence[tuple[float, ...]], random: np.random.Generator
) -> list[tuple[float, ...]]:
    """Some combinations of length scales, no two alike."""
    found = {
        tuple(float(random.choice(options)) for options in scales) for _ in range(MOST_LENGTHS)
    }
    return sorted(found)


def _at(kind: BaseDistribution, share: float) -> Any:
    """The value at a share of the way along a range."""
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[min(int(share * len(kind.choices)), len(kind.choices) - 1)]
    assert isinstance(kind, FloatDistribution | IntDistribution)
    low, high, step = float(kind.low), float(kind.high), kind.step
    if isinstance(kind, IntDistribution):
        low, high = low - 0.5, high + 0.5
        low = max(low, 0.5) if kind.log else low
    value = low * (high / low) ** share if kind.log else low + (high - low) * share
    if step is not None and not kind.log:
        value = kind.low + round((value - kind.low) / step) * step
    value = min(max(value, float(kind.low)), float(kind.high))
    return round(value) if isinstance(kind, IntDistribution) else value


def _share(kind: BaseDistribution, value: Any) -> float:
    """How far along a range a value is."""
    if isinstance(kind, CategoricalDistribution):
        places = [place for place, each in enumerate(kind.choices) if each == value]
        return (places[0] + 0.5) / len(kind.choices) if places else 0.5
    assert isinstance(kind, FloatDistribution | IntDistribution)
    low, high = float(kind.low), float(kind.high)
    if high <= low:
        return 0.5
    if kind.log:
        share = math.log(value / low) / math.log(high / low)
    else:
        share = (value - low) / (high - low)
    return min(max(share, 0.0), 1.0)
