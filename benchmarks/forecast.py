"""How often final errors lie in the 90 % interval of their forecasts.

Studies in mid-training are drawn from recorded curves: some runs of each seed have ended, the
others stand at a look. Their final errors, which the forecast has not seen, are compared with it.
A forecast follows from the joint posterior that a search decides by (search/forecast.py).

    python -m benchmarks.forecast CURVES.json [CURVES.json ...] [--json]

A file holds recorded curves (benchmarks.record) or a recorded table (benchmarks.record_table).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import curves as curve_files
from benchmarks import search_table
from benchmarks.files import read_object
from benchmarks.replay import study_ks
from kdecay_search.errors import KDecayError
from kdecay_search.search.forecast import outlook
from kdecay_search.search.looks import Looks, look_rows
from kdecay_search.search.policy import POLICY
from kdecay_search.search.results import Look, Point, Result, Results
from kdecay_search.study.candidate import Candidate

SHARES = (0.3, 0.5, 0.7, 0.9)
"""Shares of the training at which the runs stand."""
INSIDE = (0.05, 0.95)
"""Quantiles at the ends of the interval."""
MOST = 16
"""Candidates of a study."""
GOOD_SHARE = 0.5
"""Share of a table's points, the best ones, that studies are drawn from: a search leaves the others
early."""
NOISE = 1.3
"""Factor on the variance of the noise in forecasts, by which their intervals hold what they say on
recorded curves (docs/pruning.md)."""


@dataclass(frozen=True)
class Recorded:
    """Recorded runs."""

    points: tuple[Candidate, ...]
    """The candidates."""
    final: NDArray[np.float64]
    """Their final errors, (seeds, points)."""
    averaged: NDArray[np.float64]
    """Their averaged errors, (seeds, points, reports)."""


@dataclass(frozen=True)
class Row:
    """Forecasts of one file at one share of the training."""

    file: str
    """Path of the file."""
    share: float
    """Share of the training that is done."""
    inside: float
    """Share of the final errors that lie in the 90 % interval."""
    width: float
    """Mean width of the interval, in standard deviations of all final errors of a seed."""
    forecasts: int
    """Number of forecasts."""


def read(path: str) -> Recorded:
    """Read a file of curves or a table.

    Raises:
        DataError: It is neither; the message is one line.
    """
    if "points" in read_object(path):
        table = search_table.read(Path(path))
        order = np.argsort(table.means)[: max(2, round(GOOD_SHARE * len(table.points)))]
        points = tuple(table.points[i] for i in order)
        return Recorded(points, table.errors[:, order], table.averaged[:, order])
    curves = curve_files.read(path)
    points = tuple(map(Candidate, study_ks(curves)))
    return Recorded(points, curves.raw[:, -1], curves.averaged.transpose(0, 2, 1))


def measure(file: str, recorded: Recorded, share: float, studies: int, seed: int) -> Row:
    """Forecast the runs of several studies that stand at the same share of their trainings."""
    hits, widths = [], []
    for number in range(studies):
        random = np.random.default_rng((seed, number))
        for draws, truth, scale in _forecasts(recorded, share, random):
            low, high = np.quantile(draws, INSIDE)
            hits.append(low <= truth <= high)
            widths.append((high - low) / scale)
    return Row(file, share, float(np.mean(hits)), float(np.mean(widths)), len(hits))


def _forecasts(
    recorded: Recorded, share: float, random: np.random.Generator
) -> Iterator[tuple[NDArray[np.float64], float, float]]:
    """Samples, final error and the seed's spread, for runs of one study: one of each seed."""
    seeds, every, reports = recorded.averaged.shape
    number = max(1, round(share * reports))
    chosen = random.permutation(every)[: min(every, MOST)].tolist()
    points = [recorded.points[i] for i in chosen]
    ended: list[Result] = []
    open_runs: list[Result] = []
    looks: dict[Candidate, dict[int, dict[int, float]]] = defaultdict(dict)
    for seed in random.permutation(seeds)[:3].tolist():
        done = set(random.permutation(len(chosen))[: random.integers(1, len(chosen))].tolist())
        for place, i in enumerate(chosen):
            looks[points[place]][seed] = {number: float(recorded.averaged[seed, i, number - 1])}
            if place in done:
                ended.append((points[place], seed, float(recorded.final[seed, i])))
            else:
                open_runs.append((points[place], seed, float(recorded.final[seed, i])))
    seen = Looks.of(reports, ((point, look_rows(runs)) for point, runs in looks.items()))
    for place in random.permutation(len(open_runs))[:3].tolist():
        point, seed, truth = open_runs[place]
        scale = float(recorded.final[seed].std())
        yield forecast(points, ended, seen, (point, seed)), truth, scale


def forecast(
    points: Sequence[Candidate], ended: Sequence[Result], looks: Looks, run: tuple[Candidate, int]
) -> NDArray[np.float64]:
    """Samples of the final error of a run that has not ended.

    Args:
        points: K different candidates, among them all that have results or looks.
        ended: The runs that have ended, one of the run's seed among them.
        looks: The looks of all runs.
        run: Candidate and seed of the run.

    Returns:
        Samples in the metric's unit, (N,).
    """
    point, seed = run
    of_seed = looks.seed == seed
    own = of_seed & (looks.place == looks.points.index(point))
    number = int(looks.number[own].max())
    same = np.flatnonzero(of_seed & (looks.number == number))
    there = {Look(looks.points[int(looks.place[i])], number): float(looks.error[i]) for i in same}
    surrogate = outlook(points, Results.of(ended), looks, wanted=list(there))
    draws = surrogate.draws

    def off(errors: Mapping[Point, float]) -> dict[Point, NDArray[np.float64]]:
        """What errors deviate by from the samples of their candidates' and looks' own ones."""
        columns = surrogate.columns(errors)
        pairs = zip(errors.items(), columns, strict=True)
        return {each: error - draws[:, column] for (each, error), column in pairs}

    offsets = off({each: error for each, of, error in ended if of == seed})
    # What the look deviates by from those of the seed's other runs is in part the run's own noise.
    deviations = off(there)
    residual = deviations.pop(Look(point, number))
    others = list(deviations.values())
    residual = residual - np.mean(others, axis=0) if others else 0.0 * residual
    common = POLICY.look_correlation * (number / looks.reports)
    kept = common / (1.0 + 1.0 / max(1, len(others)))
    spread = NOISE * surrogate.noise * (1.0 - kept * common + 1.0 / len(offsets))
    random = np.random.default_rng(1)
    freedom = max(3, int(looks.run[-1]) + 1 - len(np.unique(looks.seed)))
    normal = random.standard_normal(len(draws))
    normal *= np.sqrt(freedom / random.chisquare(freedom, len(draws)))
    final = draws[:, surrogate.columns([point])[0]] + np.mean(list(offsets.values()), axis=0)
    found: NDArray[np.float64] = final + kept * residual + np.sqrt(spread) * normal
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--studies", type=int, default=100, help="of each share; default: 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    given = parser.parse_args(arguments)
    rows = []
    try:
        for file in given.files:
            recorded = read(file)
            rows += [measure(file, recorded, s, given.studies, given.seed) for s in SHARES]
    except KDecayError as error:
        print(f"benchmarks.forecast: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
        return 0
    for row in rows:
        print(
            f"{row.file}, after {row.share:.0%}: {row.inside:.1%} of {row.forecasts} inside, "
            f"width {row.width:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
