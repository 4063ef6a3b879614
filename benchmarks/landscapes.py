"""Simulated tasks whose best schedule is known: a law of published trainings, and plain surfaces.

A landscape gives the error of any schedule without noise. A replay of a study adds the noise of a
seed, which all its runs share, and that of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import qmc

from benchmarks.files import read_object
from kdecay_search.errors import DataError
from kdecay_search.schedules.base import Schedule
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import Subspace
from kdecay_search.study.spec import StudySpec

Array = NDArray[np.float64]

EPOCHS = 20
"""Reports of a training."""
GRID = 600
"""Steps of the grid on which a schedule is evaluated."""
_TIMES = [index / GRID for index in range(GRID + 1)]
_SMALLEST_RATE = 1e-12


class Landscape(Protocol):
    """A simulated task."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def run_noise(self) -> float:
        """Standard deviation of the noise of a run."""

    @property
    def seed_noise(self) -> float:
        """Standard deviation of the noise that all runs of a seed share."""

    def spec(self, budget: int) -> StudySpec:
        """A study of the task with a budget of this number of trainings."""

    def error(self, schedule: Schedule) -> float:
        """The error without noise at the end of a training; lower is better."""


@dataclass(frozen=True)
class MultiPowerLaw:
    """The multi-power law of Luo et al., arXiv:2503.12811, with the rates η of a schedule:

        loss(t) = L0 + A (S(t) + S_W)^(−α) − B Σ_{k≤t} (η_{k−1} − η_k) G(η_k^(−γ) S_k(t)),
        G(x) = 1 − (C x + 1)^(−β)

    S(t) is the sum of the rates after the warm-up until t, S_k(t) that from k on, and S_W that of
    the warm-up, a line from 0 to ``peak``.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float
    steps: int = 24_000
    """Optimizer updates of a training, warm-up included."""
    warmup: int = 2_160
    """Optimizer updates of the warm-up. A schedule's own warm-up is ignored."""
    peak: float = 3e-4
    """Learning-rate level; the law is valid near it only."""
    name: str = "law"
    """Name of the model."""
    run_noise: float = 0.002
    """Standard deviation of the noise of a run, in nats."""
    seed_noise: float = 0.002
    """Standard deviation of the noise of a seed, in nats."""

    def spec(self, budget: int) -> StudySpec:
        """A study of the default space, with the level fixed at the peak."""
        return study_spec(budget, self.peak, {"lr_max": self.peak})

    def error(self, schedule: Schedule) -> float:
        """The final loss of a schedule, in nats."""
        rates = self._rates(schedule)
        done = self._sums(rates)
        return float(self._initial(done[-1]) - self._drops(rates, done[-1] - done[:-1]))

    def curve(self, schedule: Schedule, reports: int) -> list[float]:
        """The losses, in nats, at evenly spaced times of a training, the last one at its end.

        Args:
            schedule: The schedule.
            reports: Number of these times.
        """
        rates, step = self._rates(schedule), self._step
        done = self._sums(rates)
        found = []
        for report in range(1, reports + 1):
            update = self.steps * report / reports
            if update <= self.warmup:
                warmed = self.peak * update**2 / self.warmup / 2
                found.append(self.L0 + self.A * warmed**-self.alpha)
                continue
            place = (update - self.warmup) / step
            index = min(math.ceil(place - 1e-9), GRID)
            share = place - (index - 1)
            # The last interval may be cut: its end lies between two points of the grid.
            rate = rates[index - 1] + (rates[index] - rates[index - 1]) * share
            until = np.append(rates[:index], rate)
            end = done[index - 1] + rate * step * share
            found.append(float(self._initial(end) - self._drops(until, end - done[:index])))
        return found

    def _rates(self, schedule: Schedule) -> Array:
        weights = np.array([schedule.weight(u) for u in _TIMES])
        return schedule.lr_min + (schedule.lr_max - schedule.lr_min) * weights

    @property
    def _step(self) -> float:
        """Optimizer updates for each step of the grid."""
        return (self.steps - self.warmup) / GRID

    def _sums(self, rates: Array) -> Array:
        """S at each point of the grid. As in the law, a step counts with the rate at its end: with
        trapezoids, a final rate of 0 would have made the whole of its drop good."""
        return np.concatenate([[0.0], np.cumsum(rates[1:] * self._step)])

    def _initial(self, area: float) -> float:
        return self.L0 + self.A * (area + self.peak * self.warmup / 2) ** -self.alpha

    def _drops(self, rates: Array, left: Array) -> float:
        """The sum in the law, with S_k in ``left``."""
        scaled = self.C * np.maximum(rates[1:], _SMALLEST_RATE) ** -self.gamma * left
        gains = np.where(rates[1:] > 0, 1 - (scaled + 1) ** -self.beta, 0.0)
        return float(self.B * ((rates[:-1] - rates[1:]) * gains).sum())


LAWS: Mapping[str, MultiPowerLaw] = {
    name: MultiPowerLaw(*numbers, name=name)
    for name, numbers in {
        "25M": (3.040, 0.525, 0.508, 363.788, 2.066, 0.583, 0.641),
        "100M": (2.651, 0.601, 0.453, 437.946, 2.132, 0.598, 0.655),
        "400M": (2.375, 0.654, 0.429, 523.425, 2.025, 0.594, 0.635),
    }.items()
}
"""Fits to published trainings of language models of three sizes."""
RATES = (1e-12, 1e6)
"""Smallest and largest level that a study may search."""
LAW_KEYS = ("L0", "A", "alpha", "B", "C", "beta", "gamma", "steps", "warmup", "peak")
"""Keys of a file with a law; the last three may be missing."""


def read_law(path: Path) -> MultiPowerLaw:
    """A law from a JSON file; its name is that of the file.

    Raises:
        DataError: The file holds no such law; the text says what would be right.
    """
    values = read_object(path)
    required = {each.name for each in fields(MultiPowerLaw) if each.name in LAW_KEYS[:7]}
    if unknown := sorted(values.keys() - set(LAW_KEYS)):
        raise DataError(f"{path}: has the unknown key {unknown[0]!r}; keys: {', '.join(LAW_KEYS)}")
    if missing := [key for key in LAW_KEYS if key in required - values.keys()]:
        raise DataError(f"{path}: lacks the key {missing[0]!r}")
    for key, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise DataError(f"{path}: {key} must be a number; it is {value!r}")
        if key in ("steps", "warmup") and value != int(value):
            raise DataError(f"{path}: {key} must be a whole number; it is {value!r}")
        if key not in ("L0", "warmup") and not value > 0:
            raise DataError(f"{path}: {key} must be above 0; it is {value!r}")
    law = MultiPowerLaw(**values, name=path.stem)
    low, high = RATES
    if not low <= law.peak <= high:
        raise DataError(f"{path}: peak must be from {low:g} to {high:g}; it is {law.peak!r}")
    if not 0 <= law.warmup < law.steps:
        raise DataError(
            f"{path}: warmup must be from 0 to below steps, {law.steps}; it is {law.warmup}"
        )
    return law


@dataclass(frozen=True)
class Surface:
    """A surface with a stated optimum: the squared distance between two shapes, plus the level's.

        error = 20 + 100 ∫ (w(u) − w*(u))² du + 2 log(lr_max / best)²,     in points

    w is the schedule's rate between 0 and lr_max, as a share of lr_max.
    """

    name: str
    """Name of the surface."""
    best: Candidate | None
    """The optimum; None if the schedule makes no difference."""
    run_noise: float = 0.3
    """Standard deviation of the noise of a run, in points."""
    seed_noise: float = 0.3
    """Standard deviation of the noise of a seed, in points."""
    space: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the default space."""

    def spec(self, budget: int) -> StudySpec:
        """A study that begins at lr_max 0.1."""
        return study_spec(budget, LEVEL, self.space)

    def error(self, schedule: Schedule) -> float:
        """The error without noise, in points."""
        if self.best is None:
            return ERROR
        assert self.best.lr_max is not None
        off = _shares(schedule) - _shares(self.spec(30).candidate_schedule(self.best))
        level = math.log(schedule.lr_max / self.best.lr_max)
        return ERROR + 100.0 * float((off[1:] ** 2 + off[:-1] ** 2).mean()) / 2 + 2.0 * level**2


LEVEL, ERROR = 0.1, 20.0
"""lr_max of a surface's study, and the error at its optimum, in points."""


def _polynomial(k: float, power: float, lr_max: float) -> Candidate:
    return Candidate(k, lr_max, "polynomial", power, lr_min=0.0)


SURFACES: Mapping[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface("k04", _polynomial(0.4, 1.0, LEVEL)),
        Surface("power3", _polynomial(1.0, 3.0, LEVEL)),
        Surface("edge", _polynomial(3.0, 1.0, 8 * LEVEL)),
        Surface("nothing", None),
    )
}
"""Best at k = 0.4; at N = 3; at a level beyond the default range; and no effect at all."""


def _shares(schedule: Schedule) -> Array:
    low = schedule.lr_min / schedule.lr_max
    return np.array([low + (1 - low) * schedule.weight(u) for u in _TIMES])


def study_spec(
    budget: int, lr_max: float, space: Mapping[str, Any], epochs: int = EPOCHS, **search: object
) -> StudySpec:
    """A study of whole schedules by the defaults, apart from these; nothing is confirmed."""
    settings = {"sampler": "joint", "budget": budget, "space": dict(space), **search}
    table = {
        "name": "benchmark",
        "task": {"kind": "simulated", "epochs": epochs},
        "schedule": {"lr_max": lr_max, "lr_min": lr_max / 100},
        "search": settings,
        "confirm": {"seeds": 0},
    }
    return StudySpec.model_validate_json(json.dumps(table))


def best_of(
    spec: StudySpec,
    error: Callable[[Schedule], float],
    subspaces: Iterable[Subspace],
    design: int = 64,
    starts: int = 3,
) -> tuple[float, Candidate]:
    """The best candidate of a space by its true error: an even design, refined by Nelder and Mead.

    Args:
        spec: The study, which turns candidates into schedules.
        error: The true error of a schedule.
        subspaces: Where to look.
        design: Number of candidates of the design for each subspace.
        starts: Number of these, the best, that are refined.

    Returns:
        The lowest error and its candidate.
    """
    found: list[tuple[float, Candidate]] = []
    for subspace in subspaces:

        def value(shares: Sequence[float], subspace: Subspace = subspace) -> float:
            point = subspace.at(min(max(float(share), 0.0), 1.0) for share in shares)
            found.append((error(spec.candidate_schedule(point)), point))
            return found[-1][0]

        dimensions = len(subspace.searched)
        if not dimensions:
            value(())
            continue
        rows = qmc.Halton(dimensions, scramble=False).random(design)
        # Halton points never lie on a bound, where the best floor often is.
        rows = np.concatenate([rows, np.where(rows < 0.05, 0.0, rows), *_floors(subspace, rows)])
        ranked = sorted(rows.tolist(), key=value)
        for start in ranked[:starts]:
            bounds = [(0.0, 1.0)] * dimensions
            options = {"xatol": 1e-3, "fatol": 1e-7, "maxfev": 60 * dimensions}
            minimize(value, start, method="Nelder-Mead", bounds=bounds, options=options)
    return min(found, key=lambda pair: pair[0])


def _floors(subspace: Subspace, rows: Array) -> list[Array]:
    """The same rows without a floor."""
    if "lr_min" not in subspace.searched:
        return []
    bare = rows.copy()
    bare[:, subspace.searched.index("lr_min")] = 0.0
    return [bare]
