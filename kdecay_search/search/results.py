"""The results of complete runs as arrays, for the surrogate to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdecay_search.study.candidate import Candidate

Array = NDArray[np.float64]
Result = tuple[Candidate, int, float]
"""A candidate, a seed, and the error (%) of its run."""


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
    """Error of each run in percent, (runs,)."""

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
        """Collect candidates with their errors by seed, seeds ascending."""
        points, tables = zip(*errors, strict=True)
        blocks = [
            (np.full(len(by), float(i)), np.fromiter(by, float), np.fromiter(by.values(), float))
            for i, by in enumerate(tables)
        ]
        return Results(points, *(np.concatenate(column) for column in zip(*blocks, strict=True)))

    def __len__(self) -> int:
        return len(self.error)

    def rows(self, points: Sequence[Candidate]) -> NDArray[np.intp]:
        """Index of each run's candidate among ``points``, none of them twice: (runs,)."""
        index = {point: number for number, point in enumerate(points)}
        known = np.array([index.get(point, -1) for point in self.points])
        rows: NDArray[np.intp] = known[self.place.astype(np.intp)]
        return rows

    def ran(self) -> dict[int, frozenset[Candidate]]:
        """The candidates that have run, by seed."""
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
