"""Looks: averaged errors of runs in mid-training as arrays, for the forecast to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kdecay_search.search.results import Array, Results
from kdecay_search.study.candidate import Candidate


def look_rows(runs: Mapping[int, Mapping[int, float]]) -> Array:
    """The looks of one candidate's runs, a row each: seed, number of the report, averaged error;
    (looks, 3).

    Args:
        runs: Averaged errors by seed, then by number of the report.
    """
    rows = [(seed, number, error) for seed, by in runs.items() for number, error in by.items()]
    return np.array(rows, float).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Looks:
    """What the runs of a stage have shown at their looks, as columns of equal length: one row a
    look, sorted by candidate, seed and number."""

    reports: int
    """Number of reports of a whole run."""
    points: tuple[Candidate, ...]
    """The candidates, ascending."""
    place: Array
    """Index of each look's candidate among ``points``, (looks,)."""
    seed: Array
    """Seed of each look's run, (looks,)."""
    number: Array
    """Number of the report that each look is at, (looks,)."""
    error: Array
    """Averaged errors, (looks,): lower is better."""

    @staticmethod
    def of(reports: int, shown: Iterable[tuple[Candidate, Array]]) -> Looks:
        """Collect the looks of candidates in any order.

        Args:
            reports: Number of reports of a whole run.
            shown: Each candidate with its :func:`look_rows`.
        """
        given = sorted((each for each in shown if len(each[1])), key=lambda each: each[0])
        points = tuple(point for point, _ in given)
        place = np.repeat(np.arange(len(given), dtype=float), [len(rows) for _, rows in given])
        rows = np.concatenate([np.empty((0, 3)), *(rows for _, rows in given)])
        order = np.lexsort((rows[:, 1], rows[:, 0], place))
        seed, number, error = rows[order].T
        return Looks(reports, points, place[order], seed, number, error)

    def __len__(self) -> int:
        return len(self.error)

    def packed(self) -> bytes:
        """All columns as bytes: with ``points``, a key for the same looks."""
        return b"".join(
            column.tobytes() for column in (self.place, self.seed, self.number, self.error)
        )

    @cached_property
    def run(self) -> NDArray[np.intp]:
        """Index of each look's run among all that have looks, (looks,)."""
        is_first = (np.diff(self.place, prepend=-1.0) != 0) | (
            np.diff(self.seed, prepend=-1.0) != 0
        )
        return np.cumsum(is_first) - 1

    def ends(self, results: Results) -> NDArray[np.intp]:
        """Index of the result of each look's run, (looks,); −1 where it has not ended."""
        place = {point: index for index, point in enumerate(self.points)}
        known = np.array([place.get(point, -1) for point in results.points], float)
        code = 1.0 + max(self.seed.max(initial=0.0), results.seed.max(initial=0.0))
        ended = known[results.place.astype(int)] * code + results.seed
        order = np.argsort(ended, kind="stable")
        own = self.place * code + self.seed
        at = np.searchsorted(ended, own, sorter=order)
        found = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(own), int)
        same = ended[found] == own if len(order) else np.zeros(len(own), bool)
        return np.where(same, found, -1)

    def compared(self, results: Results) -> dict[int, float]:
        """The numbers of the reports that runs are compared at: the last looks of those that have
        not ended.

        Args:
            results: The runs that have ended.

        Returns:
            The share of the training that is done at each.
        """
        is_last = np.diff(self.run, append=len(self)) != 0
        numbers = np.unique(self.number[is_last & (self.ends(results) < 0)])
        return {int(number): float(number) / self.reports for number in numbers}
