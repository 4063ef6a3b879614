"""A recorded table as a task: the candidates of a search are its points, and no others.

:mod:`benchmarks.record_table` records such tables. The joint search gets the table's points as its
proposals (:class:`PooledSpec`); for what one of Optuna's samplers suggests, the nearest point that
is left is trained, and the sampler is told which one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from benchmarks.files import read_object
from benchmarks.landscapes import study_spec
from benchmarks.search_methods import Recommended
from kdecay_search.errors import DataError
from kdecay_search.study.candidate import COOLDOWN, LINEAR_COOLDOWN, Candidate
from kdecay_search.study.metric import Metric
from kdecay_search.study.space import ScheduleSpace, Subspace
from kdecay_search.study.spec import StudySpec

Array = NDArray[np.float64]

FEWEST_SEEDS = 2
"""Seeds without which a table shows no noise."""
GOOD_SHARE = 0.5
"""Share of the points, those with the lowest means, whose runs show the noise: bad schedules are
noisier, and none of them is in question."""
NEAR = 0.5
"""Largest mean above that of the best point, in standard deviations of the noise of a run, of a
point that counts as the best."""
BASELINES_ONLY = ("cosine",)
"""Families whose points are candidates of a baseline only."""


@dataclass(frozen=True)
class Pool:
    """The points of a table as the only candidates there are."""

    points: tuple[Candidate, ...]
    """The points."""
    frames: Mapping[str, Subspace]
    """For each family, the space whose shares are its coordinates."""
    _held: dict[Any, list[int]] = field(default_factory=dict, compare=False)

    @cached_property
    def _shares(self) -> dict[str, tuple[list[int], Array]]:
        found = {}
        for family, frame in self.frames.items():
            places = [i for i, point in enumerate(self.points) if point.family == family]
            rows = [frame.shares(self.points[place]) for place in places]
            found[family] = places, np.array(rows, float).reshape(len(places), -1)
        return found

    def nearest(self, point: Candidate, among: Sequence[int] = ()) -> list[int]:
        """The points of a candidate's family, the nearest one first.

        Args:
            point: The candidate.
            among: If there are any, these points alone are considered.
        """
        places, rows = self._shares[point.family or ""]
        distances = ((rows - self.frames[point.family or ""].shares(point)) ** 2).sum(axis=1)
        order = [places[place] for place in np.argsort(distances, kind="stable")]
        return [place for place in order if place in among] if among else order

    def held_by(self, subspace: Subspace) -> list[int]:
        """The points of a subspace."""
        fixed = [(n, axis.low) for n, axis in subspace.axes.items() if axis.is_fixed]
        key = (subspace.family, *(pair for pair in fixed if pair[0] in ("k", "power")))
        if key not in self._held:
            self._held[key] = [i for i, point in enumerate(self.points) if subspace.holds(point)]
        return self._held[key]


@dataclass(frozen=True)
class PooledSubspace(Subspace):
    """A subspace whose every candidate is the nearest point of a pool."""

    pool: Pool

    def at(self, shares: Iterable[float]) -> Candidate:
        """The pool's nearest point to the candidate at a share of the way along each axis."""
        point = super().at(shares)
        return self.pool.points[self.pool.nearest(point, self.pool.held_by(self))[0]]


class PooledSpec(StudySpec):
    """A study whose search may try the points of a pool only."""

    _pool: Pool = PrivateAttr()

    def schedule_space(self) -> ScheduleSpace:
        """The study's space, each subspace restricted to the pool; those without a point left
        out."""
        space = super().schedule_space()
        return ScheduleSpace(self._pooled(space.families), self._pooled(space.baselines))

    def _pooled(self, subspaces: Iterable[Subspace]) -> tuple[Subspace, ...]:
        return tuple(
            PooledSubspace(each.name, each.family, each.axes, self._pool)
            for each in subspaces
            if self._pool.held_by(each)
        )


@dataclass(frozen=True)
class RecordedTable:
    """The final errors of a table's points."""

    name: str
    """Name of the table's task."""
    unit: str
    """Unit of the errors."""
    lr_max: float
    """The task's own level."""
    points: tuple[Candidate, ...]
    """The points."""
    errors: Array
    """Final error of each run, (seeds, points): lower is better, infinite if it diverged."""
    averaged: Array
    """Errors of averaged weights after each epoch, (seeds, points, epochs)."""

    @cached_property
    def means(self) -> Array:
        """Mean error of each point over all seeds, (points,)."""
        return np.asarray(self.errors.mean(axis=0))

    @cached_property
    def noise(self) -> float:
        """Standard deviation of a run about its point and its seed, by the better half of the
        points."""
        good = np.argsort(self.means)[: max(2, round(GOOD_SHARE * len(self.points)))]
        errors = self.errors[:, good[np.isfinite(self.means[good])]]
        rest = errors - errors.mean(axis=0) - errors.mean(axis=1, keepdims=True) + errors.mean()
        seeds, points = errors.shape
        return math.sqrt((rest**2).sum() / ((seeds - 1) * max(points - 1, 1)))

    @cached_property
    def best(self) -> float:
        """Lowest mean of a point that every method may try."""
        families = np.array([point.family not in BASELINES_ONLY for point in self.points])
        return float(self.means[families].min())

    def regret(self, point: Candidate) -> float:
        """By how much a point's mean lies above that of the best."""
        return float(self.means[self.points.index(point)]) - self.best

    def is_near(self, point: Candidate) -> bool:
        """Whether a point counts as the best."""
        return self.regret(point) <= NEAR * self.noise

    def spec(self, budget: int, sampler_seed: int = 0) -> StudySpec:
        """A study over the table's points, by the defaults of the joint search."""
        families = dict.fromkeys(str(point.family) for point in self.points)
        space = {
            "family": [family for family in families if family not in BASELINES_ONLY],
            "warmup": [0.0, 0.1, "linear"],
        }
        seeds = len(self.errors)
        chosen = {"seeds": seeds, "max_terms": 1, "sampler_seed": sampler_seed}
        plain = study_spec(budget, self.lr_max, space, self.averaged.shape[2], **chosen)
        spec = PooledSpec.model_validate_json(plain.model_dump_json())
        known = plain.schedule_space()
        frames = {each.family: each for each in (*known.baselines, *known.families)}
        spec._pool = Pool(self.points, frames)
        return spec


class TableGround:
    """A replay on a table: the recorded errors, with the seeds in random order.

    The joint search begins with other points in each replay, as Optuna's samplers do: the few
    orders of a table's seeds would be no more replays than that.
    """

    def __init__(self, table: RecordedTable, budget: int, number: int) -> None:
        """
        Args:
            table: The table.
            budget: Budget of the study.
            number: Number of the replay, which decides the order of the seeds, and the sampler's
                seed.
        """
        self.spec, self._table = table.spec(budget, number), table
        assert isinstance(self.spec, PooledSpec)
        self._pool = self.spec._pool
        rng = np.random.default_rng(number)
        self._order: list[int] = rng.permutation(len(table.errors)).tolist()
        searched = [i for i, p in enumerate(table.points) if p.family not in BASELINES_ONLY]
        self._others: list[int] = rng.permutation(searched).tolist()
        self._trained: set[tuple[Candidate, int]] = set()

    def placed(self, point: Candidate, seed: int, is_fixed: bool) -> tuple[Candidate, int] | None:
        """The nearest point with an untrained run: of this seed or, unless it is fixed, of any.

        If its family has none left, the point is one of another family at random.
        """
        seeds = len(self._order)
        wanted = [seed] if is_fixed else [(seed + more) % seeds for more in range(seeds)]
        for place in (*self._pool.nearest(point), *self._others):
            found = self._pool.points[place]
            for each in wanted:
                if (found, each) not in self._trained:
                    return found, each
        return None

    def error(self, chosen: Recommended, seed: int) -> float:
        """The recorded error of a run."""
        self._trained.add((chosen.point, seed))
        place = self._pool.points.index(chosen.point)
        return float(self._table.errors[self._order[seed], place])

    def looks(self, chosen: Recommended, seed: int) -> Mapping[int, float]:
        """The recorded errors of averaged weights."""
        place = self._table.points.index(chosen.point)
        curve = self._table.averaged[self._order[seed], place]
        return {n: float(curve[n - 1]) for n in self.spec.looks if np.isfinite(curve[:n]).all()}


def read(path: Path) -> RecordedTable:
    """Read a recorded table.

    Only seeds count of which every point is recorded.

    Raises:
        DataError: The file cannot be used; the message is one line.
    """
    table = read_object(path)
    try:
        metric = Metric(**table["metric"])
        points = tuple(map(_candidate, table["points"]))
        columns = [column for column in table["seeds"].values() if None not in column["raw"]]
        rows = [[_final(curve, metric) for curve in column["raw"]] for column in columns]
        averaged = [_averaged(column, metric) for column in columns]
        if any(len(row) != len(points) for row in rows) or len(set(points)) < len(points):
            raise ValueError("every seed must hold one curve for each of the points, which differ")
        task, lr_max = str(table["task"]), float(table["lr_max"])
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: is not a file of benchmarks.record_table: {reason}") from None
    if len(rows) < FEWEST_SEEDS:
        raise DataError(
            f"{path}: needs {FEWEST_SEEDS} seeds of which every point is recorded; it has "
            f"{len(rows)}; benchmarks.record_table resumes a recording"
        )
    errors, looks = np.array(rows), np.array(averaged)
    found = RecordedTable(task, metric.unit, lr_max, points, errors, looks)
    if not all(any(p.family == f for p in points) for f in ("polynomial", COOLDOWN)):
        raise DataError(f"{path}: needs points of the families polynomial and {COOLDOWN}")
    if not math.isfinite(found.best):
        raise DataError(f"{path}: holds no point whose every run has ended")
    return found


def _candidate(point: Mapping[str, Any]) -> Candidate:
    values = {name: value for name, value in point.items() if name != "decay"}
    if point.get("decay") == "linear":
        values["family"] = LINEAR_COOLDOWN
    return Candidate(**{"k": None, **values})


def _averaged(column: Mapping[str, Any], metric: Metric) -> list[list[float]]:
    """The errors of the averaged weights of a seed's runs; infinite where they are not recorded."""
    raw, length = column["raw"], max(len(curve) for curve in column["raw"])
    rows = []
    for curve in column.get("averaged") or [[None] * length] * len(raw):
        known = [math.inf if value is None else metric.error(value) for value in curve]
        rows.append(known + [math.inf] * (length - len(known)))
    return rows


def _final(curve: Sequence[float | None], metric: Metric) -> float:
    last = curve[-1]
    return math.inf if last is None else metric.error(float(last))
