"""The methods that :mod:`benchmarks.search` compares: the joint search, and Optuna's samplers.

Each plays a study on a :class:`Ground`, which gives the error of a run, and recommends a schedule
after every training.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from benchmarks.landscapes import Landscape, MultiPowerLaw
from kdecay_search.search import Memo, Plan, make_plan
from kdecay_search.search.early_stopping import goes_on
from kdecay_search.study.axis import Axis
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import Subspace
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunRequest, State, Trial


class Recommended(NamedTuple):
    """A schedule that a method recommends."""

    point: Candidate
    earlier_ks: tuple[float, ...] = ()


class Ground(Protocol):
    """Where one replay of a study trains."""

    spec: StudySpec

    def placed(self, point: Candidate, seed: int, is_fixed: bool) -> tuple[Candidate, int] | None:
        """What is trained in place of a candidate that a sampler suggests.

        Args:
            point: The candidate.
            seed: The wanted seed.
            is_fixed: Whether no other seed will do.

        Returns:
            The candidate and the seed; None if all was trained.
        """

    def error(self, chosen: Recommended, seed: int) -> float:
        """The error of a run; infinite if it diverges."""

    def looks(self, chosen: Recommended, seed: int) -> Mapping[int, float]:
        """What a run shows at each of the study's looks; nothing if that is not known."""


class SimulatedGround:
    """A replay on a landscape: true errors plus the noise of seeds and runs."""

    def __init__(self, landscape: Landscape, budget: int, number: int) -> None:
        """
        Args:
            landscape: The simulated task.
            budget: Budget of the study.
            number: Number of the replay. Its seeds have the same effects for all methods.
        """
        self.spec, self._landscape = landscape.spec(budget), landscape
        self._rng = np.random.default_rng([number, 1])
        effects = np.random.default_rng([number, 0]).normal(0.0, landscape.seed_noise, 10_000)
        self._effects: list[float] = effects.tolist()
        self._true: dict[Recommended, float] = {}
        self._runs: dict[tuple[Recommended, int], float] = {}
        self._curves: dict[Recommended, list[float]] = {}
        self._number = number

    def placed(self, point: Candidate, seed: int, is_fixed: bool) -> tuple[Candidate, int] | None:
        """The candidate itself."""
        return point, seed

    def true(self, chosen: Recommended) -> float:
        """The error without noise."""
        if chosen not in self._true:
            schedule = self.spec.candidate_schedule(chosen.point, chosen.earlier_ks)
            self._true[chosen] = self._landscape.error(schedule)
        return self._true[chosen]

    def error(self, chosen: Recommended, seed: int) -> float:
        """The error of a run; the same if it is repeated."""
        if (chosen, seed) not in self._runs:
            own = self._rng.normal(0.0, self._landscape.run_noise)
            self._runs[chosen, seed] = self.true(chosen) + self._effects[seed] + own
        return self._runs[chosen, seed]

    def looks(self, chosen: Recommended, seed: int) -> Mapping[int, float]:
        """The loss of a law in mid-training, with noise of the same size as at the end; there are
        no averaged weights in it."""
        law = self._landscape
        if not isinstance(law, MultiPowerLaw):
            return {}
        if chosen not in self._curves:
            schedule = self.spec.candidate_schedule(chosen.point, chosen.earlier_ks)
            self._curves[chosen] = law.curve(schedule, self.spec.task.length.reports)
        random = np.random.default_rng([self._number, 2, seed, zlib.crc32(repr(chosen).encode())])
        return {
            number: self._curves[chosen][number - 1] + float(random.normal(0.0, law.run_noise))
            for number in self.spec.looks
        }


class Played(NamedTuple):
    """A study that was played to its end."""

    recommended: list[Recommended]
    """What is recommended after each training; only the last one unless all were asked for."""
    trainings: float
    """Number of trainings; paused runs count by their epochs."""
    plan: Plan | None = None
    """The last plan; None for Optuna."""


def play_joint(ground: Ground, each: bool = False, pauses: bool = True) -> Played:
    """Play a study of the joint search, as the storage and one worker do, on trials in memory.

    Args:
        ground: Where it trains.
        each: Whether to plan after every run, as a worker does, and not after every batch.
        pauses: Whether runs may be paused at their looks.
    """
    memo, trials, recommended = Memo(), [], []
    plan = make_plan(ground.spec, trials, memo)
    while plan.enqueue or plan.resume or plan.close:
        for trial in plan.close:
            trials[trial.number] = replace(trial, state=State.PRUNED)
        begin = len(trials)
        trials += [_running(begin + place, r) for place, r in enumerate(plan.enqueue)]
        numbers = [*(trial.number for trial in plan.resume), *range(begin, len(trials))]
        for number in numbers:
            trials[number] = replace(trials[number], state=State.RUNNING)
        for place, number in enumerate(numbers, start=1):
            _train(ground, trials, number, memo, pauses)
            if each and place < len(numbers):
                plan = make_plan(ground.spec, trials, memo)
                _recommend(recommended, plan, _trainings(ground, trials))
        plan = make_plan(ground.spec, trials, memo)
        _recommend(recommended, plan, _trainings(ground, trials))
    return Played(recommended, _trainings(ground, trials), plan)


def _train(ground: Ground, trials: list[Trial], number: int, memo: Memo, pauses: bool) -> None:
    """Train a run to its end or until it is paused."""
    request, reports = trials[number].request, ground.spec.task.length.reports
    assert request.point is not None
    chosen = Recommended(request.point, request.earlier_ks)
    seen = ground.looks(chosen, request.key.seed) if pauses else {}
    for look, error in seen.items():
        if look <= trials[number].epochs:
            continue
        looks = {**trials[number].looks, look: error}
        trials[number] = replace(trials[number], epochs=look, looks=looks)
        if not goes_on(ground.spec, trials, number, memo):
            trials[number] = replace(trials[number], state=State.PAUSED)
            return
    error = ground.error(chosen, request.key.seed)
    trials[number] = replace(trials[number], state=State.COMPLETE, error=error, epochs=reports)


def _trainings(ground: Ground, trials: Sequence[Trial]) -> float:
    return sum(trial.epochs for trial in trials) / ground.spec.task.length.reports


def _recommend(recommended: list[Recommended], plan: Plan, trainings: float) -> None:
    """Note what is recommended after so many trainings; the last of a training counts."""
    place = max(1, math.ceil(trainings - 1e-9))
    del recommended[place - 1 :]
    leader = _leader(plan)
    recommended += [leader if not recommended else recommended[-1]] * (place - len(recommended))
    recommended[-1] = leader


def _running(number: int, request: RunRequest) -> Trial:
    return Trial(number, request, State.RUNNING, request.k, trial_id=number, lr_max=request.lr_max)


def _leader(plan: Plan) -> Recommended:
    assert plan.leader.point is not None
    return Recommended(plan.leader.point, plan.leader.ks[:-1])


@dataclass(frozen=True)
class Configuration:
    """How one of Optuna's samplers is used."""

    sampler: Callable[[int], BaseSampler]
    """Makes the sampler, from its seed."""
    is_flat: bool
    """Whether every trial has the parameters of all families, of which it ignores those that its
    family lacks. Else they are conditional, as the default space says."""
    seeding: str = "fixed"
    """Seeds of the trials: ``fixed``, all on one; ``own``, each on another; ``pairs``, each on the
    same two, with their mean as its value."""

    @property
    def runs(self) -> int:
        """Trainings of a trial."""
        return 2 if self.seeding == "pairs" else 1


def _tpe(seed: int, **options: Any) -> TPESampler:
    return TPESampler(seed=seed, warn_independent_sampling=False, **options)


def _gp(seed: int) -> GPSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


_SAMPLERS: Mapping[str, Mapping[str, tuple[Callable[[int], BaseSampler], bool]]] = {
    "random": {"conditional": (lambda seed: RandomSampler(seed=seed), False)},
    "tpe": {
        "flat": (lambda seed: _tpe(seed, multivariate=True), True),
        "grouped": (lambda seed: _tpe(seed, multivariate=True, group=True), False),
        "independent": (lambda seed: _tpe(seed, multivariate=False), False),
    },
    "gp": {"flat": (_gp, True), "conditional": (_gp, False)},
}
"""The first of each sampler's is its best (benchmarks/README.md)."""
SEEDINGS = ("fixed", "own", "pairs")
METHODS = ("joint", *_SAMPLERS)
"""Names of the methods, each in its best configuration."""
WHOLE = "joint/whole"
"""The joint search without pausing."""


def configuration(method: str) -> Configuration:
    """The configuration that a name such as ``tpe`` or ``tpe/flat/own`` stands for.

    Raises:
        ValueError: There is none.
    """
    name, *rest = method.split("/")
    kinds = _SAMPLERS.get(name, {})
    kind = rest[0] if rest else next(iter(kinds), "")
    seeding = rest[1] if len(rest) > 1 else SEEDINGS[0]
    if kind not in kinds or seeding not in SEEDINGS or len(rest) > 2:
        raise ValueError(f"no method {method!r}; there are {', '.join(all_methods())}")
    sampler, is_flat = kinds[kind]
    return Configuration(sampler, is_flat, seeding)


def all_methods() -> list[str]:
    """Every name of a method."""
    pairs = [f"{name}/{kind}" for name, kinds in _SAMPLERS.items() for kind in kinds]
    return [*METHODS, WHOLE, *(f"{pair}/{seeding}" for pair in pairs for seeding in SEEDINGS)]


def play_optuna(ground: Ground, budget: int, number: int, how: Configuration) -> Played:
    """Play a study of one of Optuna's samplers, which recommends its best trial.

    Args:
        ground: Where it trains.
        budget: Number of trainings.
        number: Number of the replay, and seed of the sampler.
        how: The sampler and its use.
    """
    families = {each.family: each for each in ground.spec.schedule_space().families}
    recommended: list[Recommended] = []
    best: tuple[float, Recommended] | None = None
    with _quiet():
        study = optuna.create_study(sampler=how.sampler(number))
        while len(recommended) + how.runs <= budget:
            trial = study.ask()
            point = _suggested(trial, families, how.is_flat)
            seed = len(recommended) if how.seeding == "own" else 0
            placed = ground.placed(point, seed, is_fixed=how.seeding != "own")
            if placed is None:
                break
            chosen = Recommended(placed[0])
            errors = [ground.error(chosen, placed[1] + more) for more in range(how.runs)]
            value = fmean(errors)
            own = _distributions(families[chosen.point.family or ""], list(families))
            kinds = trial.distributions | own if how.is_flat else own
            _tell(study, trial, point, chosen.point, value, kinds)
            recommended += [best[1] if best else chosen] * (how.runs - 1)
            if best is None or value < best[0]:
                best = value, chosen
            recommended.append(best[1])
    return Played(recommended, len(recommended))


def _suggested(trial: optuna.Trial, families: Mapping[str, Subspace], is_flat: bool) -> Candidate:
    names = list(families)
    family = trial.suggest_categorical("family", names) if len(names) > 1 else names[0]
    values: dict[str, float] = {}
    others = [name for name in names if name != family] if is_flat else []
    for each in (family, *others):
        for name, axis in families[each].axes.items():
            if name not in values:
                values[name] = axis.low if axis.is_fixed else _suggest(trial, name, axis)
    own = {name: values[name] for name in families[family].axes}
    return Candidate(**{"k": None, "family": family, **own})


def _suggest(trial: optuna.Trial, name: str, axis: Axis) -> float:
    if axis.scale is None:
        return float(trial.suggest_categorical(name, axis.values))
    return trial.suggest_float(name, axis.low, axis.high, log=axis.scale == "log")


def _distributions(subspace: Subspace, families: Sequence[str]) -> dict[str, BaseDistribution]:
    """The parameters of a family."""
    found: dict[str, BaseDistribution] = {}
    if len(families) > 1:
        found["family"] = CategoricalDistribution(families)
    for name in subspace.searched:
        axis = subspace.axes[name]
        if axis.scale is None:
            found[name] = CategoricalDistribution(axis.values)
        else:
            found[name] = FloatDistribution(axis.low, axis.high, log=axis.scale == "log")
    return found


def _tell(
    study: optuna.Study,
    trial: optuna.Trial,
    asked: Candidate,
    trained: Candidate,
    value: float,
    kinds: Mapping[str, BaseDistribution],
) -> None:
    """Report a result; where another candidate was trained than was asked for, the sampler sees
    that one."""
    if not np.isfinite(value):  # the samplers cannot use an infinite one
        finite = [each.value for each in study.trials if each.value is not None]
        value = max(finite, default=0.0) + float(np.ptp(finite) if finite else 1.0)
    if trained == asked:
        study.tell(trial, value)
        return
    study.tell(trial, state=TrialState.FAIL)
    stated = {**trial.params, **trained.stated()}
    params = {name: _inside(kind, stated[name]) for name, kind in kinds.items()}
    study.add_trial(create_trial(params=params, distributions=dict(kinds), value=value))


def _inside(kind: BaseDistribution, value: Any) -> Any:
    if isinstance(kind, FloatDistribution):
        return min(max(value, kind.low), kind.high)
    return value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log and without its warnings of experimental parts."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
