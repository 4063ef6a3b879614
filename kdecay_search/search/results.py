"""The results of complete runs as arrays, for the surrogate to learn from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.study.candidate import Candidate

Array = NDArray[np.float64]
Result = tuple[Candidate, int, float]
"""A candidate, a seed, and the error of its run."""


@dataclass(frozen=True, order=True)
class Look:
    """The averaged error of a candidate after some reports, as a point beside the candidates."""

    point: Candidate
    """The candidate."""
    number: int
    """Number of the report."""


Point = Candidate | Look
"""What is measured: a candidate's final error, or its averaged error at a look."""

_EXACT = 1e-12
"""Share of a variance, or of the information on an effect, that rounding may leave."""
_FEWEST_COMPARED = 3
"""Runs without which none is called an outlier."""
_NORMAL_IQR = 1.349
"""Interquartile range of the standard normal distribution."""


@dataclass(frozen=True, eq=False)
class Results:
    """Complete runs as columns of equal length, one row a run."""

    points: tuple[Candidate, ...]
    """The candidates that have run."""
    place: Array
    """Index of each run's candidate among ``points``, (runs,)."""
    seed: Array
    """Seed of each run, (runs,)."""
    error: Array
    """Error of each run, (runs,): finite, lower is better."""

    @staticmethod
    def of(results: Iterable[Result]) -> Results:
        """Collect results in any order; there must be one at least."""
        point, seed, error = zip(*sorted(results), strict=True)
        points = tuple(dict.fromkeys(point))
        places = {each: index for index, each in enumerate(points)}
        columns = ([places[each] for each in point], seed, error)
        return Results(points, *(np.array(column, float) for column in columns))

    @staticmethod
    def by_seed(errors: Iterable[tuple[Candidate, Mapping[int, float]]]) -> Results:
        """Collect candidates with their errors by seed, seeds ascending; there may be none."""
        points, tables = zip(*errors, strict=True)
        blocks = [
            (np.full(len(by), float(i)), np.fromiter(by, float), np.fromiter(by.values(), float))
            for i, by in enumerate(tables)
        ]
        return Results(points, *(np.concatenate(column) for column in zip(*blocks, strict=True)))

    def __len__(self) -> int:
        return len(self.error)

    @cached_property
    def spread(self) -> float:
        """How far apart results of one seed lie, as a robust standard deviation: that of a normal
        distribution with their interquartile range about the medians of their seeds. 1 if all
        results of each seed are equal."""
        _, column, counts = np.unique(self.seed, return_inverse=True, return_counts=True)
        ordered, starts = self.error[np.lexsort((self.error, column))], np.cumsum(counts) - counts
        medians = (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2
        deviations = self.error - medians[column]
        low, high = np.percentile(deviations, (25, 75))
        return float((high - low) / _NORMAL_IQR or deviations.std() or 1.0)

    def standardised(self) -> Results:
        """The same results in units of their spread, from their median on."""
        return replace(self, error=(self.error - np.median(self.error)) / self.spread)

    def compressed(self, far: float) -> Results:
        """The same standardised results with the far worse ones drawn in: beyond ``far`` units
        above the median, distances count by their logarithm. How bad a bad schedule is says nothing
        about the good ones, and would bend a smooth surface."""
        beyond = np.maximum(self.error - far, 0.0)
        return replace(self, error=np.minimum(self.error, far) + np.log1p(beyond))

    def among(self, points: Collection[Candidate]) -> Results:
        """The results of some of the candidates."""
        kept = np.array([point in points for point in self.points])[self.place.astype(int)]
        return replace(self, place=self.place[kept], seed=self.seed[kept], error=self.error[kept])

    def uneven_noise(self, points: Iterable[Candidate], policy: Policy = POLICY) -> float:
        """How noisy the runs of some candidates are beside those of all: the ratio of standard
        deviations, 1 or more.

        The scatter of a candidate's runs about the effects of candidates and seeds is that of its
        own noise, shrunk towards the noise of all as by ``noise_freedom`` further degrees of
        freedom. The runs of k = 1 at a high learning rate, for one, scatter more than others.
        """
        place, count = self.place.astype(int), len(self.points)
        rows = np.bincount(place, minlength=count)[place] > 1  # one run fits its own effect
        if not rows.any():
            return 1.0
        candidate, error = place[rows], self.error[rows]
        residuals, rank = _residuals(candidate, self.seed[rows], error)
        freedom = len(error) - rank
        squares = residuals**2
        if freedom < 1 or squares.sum() <= _EXACT * np.var(error):
            return 1.0
        common, share = squares.sum() / freedom, freedom / len(error)
        own = np.bincount(candidate, squares, count)
        degrees = share * np.bincount(candidate, minlength=count)
        prior = policy.noise_freedom
        variance = (prior * common + own) / (prior + degrees)
        of_point = dict(zip(self.points, variance.tolist(), strict=True))
        compared = [of_point.get(point, common) for point in points]
        return max(1.0, float(np.sqrt(np.mean(compared) / common)))

    def rows(self, points: Sequence[Candidate]) -> NDArray[np.intp]:
        """Index of each run's candidate among ``points``, none of them twice: (runs,)."""
        index = {point: number for number, point in enumerate(points)}
        known = np.array([index.get(point, -1) for point in self.points])
        rows: NDArray[np.intp] = known[self.place.astype(np.intp)]
        return rows

    def ran(self) -> dict[int, frozenset[Candidate]]:
        """The candidates that have run, by seed."""
        if not len(self):
            return {}
        order = np.argsort(self.seed, kind="stable")
        seeds, starts = np.unique(self.seed[order], return_index=True)
        places = np.split(self.place[order].astype(int), starts[1:])
        return {
            int(seed): frozenset(self.points[place] for place in part.tolist())
            for seed, part in zip(seeds, places, strict=True)
        }

    def packed(self) -> bytes:
        """All columns but ``points`` as bytes: a key for results in the same order."""
        return self.place.tobytes() + self.seed.tobytes() + self.error.tobytes()


def _residuals(
    candidate: NDArray[np.intp], seed: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """What least squares leaves of errors beyond an effect of each candidate and of each seed.

    The seeds' effects are eliminated first, so that the system is of the candidates only: its cost
    grows with the number of runs, and not with its product with that of the seeds.

    Returns:
        The residuals (runs,), and the number of independent effects.
    """
    _, row = np.unique(candidate, return_inverse=True)
    _, column = np.unique(seed, return_inverse=True)
    counts = np.zeros((row.max() + 1, column.max() + 1))
    np.add.at(counts, (row, column), 1.0)
    of_seed = counts.sum(axis=0)
    means = np.bincount(column, error) / of_seed
    matrix = np.diag(counts.sum(axis=1)) - counts / of_seed @ counts.T
    information, basis = np.linalg.eigh(matrix)
    kept = information > _EXACT * len(error)
    basis, information = basis[:, kept], information[kept]
    effects = basis @ (basis.T @ np.bincount(row, error - means[column]) / information)
    rest = error - effects[row]
    residuals = rest - (np.bincount(column, rest) / of_seed)[column]
    return residuals, len(of_seed) + int(kept.sum())


def blow_up_limit(errors: Iterable[float], policy: Policy = POLICY) -> float:
    """The error above which a run lies outside what runs of the same kind give.

    Args:
        errors: The other runs' errors; infinite ones do not count.
        policy: Its ``blow_up`` is used.

    Returns:
        ``blow_up`` times as far above the median as the lowest error lies below it; infinite for
        fewer than three errors.
    """
    finite = np.fromiter(errors, float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < _FEWEST_COMPARED:
        return np.inf
    median = float(np.median(finite))
    return median + policy.blow_up * (median - float(finite.min()))
