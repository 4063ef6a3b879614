"""Compare the joint search with Optuna's samplers: ``python -m benchmarks.search``.

All methods search the same space with the same budget and the same noise, on a simulated task whose
best schedule is known or on a recorded table. No method knows the truth.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import landscapes, search_table
from benchmarks.arguments import add_processes, count
from benchmarks.landscapes import LAWS, SURFACES, Landscape, Surface
from benchmarks.processes import mapping
from benchmarks.search_methods import (
    METHODS,
    WHOLE,
    Played,
    Recommended,
    SimulatedGround,
    configuration,
    play_joint,
    play_optuna,
)
from benchmarks.search_table import RecordedTable, TableGround
from kdecay_search.errors import KDecayError
from kdecay_search.search.verdict import Outcome, judge
from kdecay_search.study.candidate import COOLDOWN

NEAR_NATS = 0.003
"""Largest loss above that of the best cooldown, in nats, of a schedule that counts as near it."""
NEAR_K = 0.25
"""Largest relative distance from the stated k of a k that counts as found."""
SMALLEST_BUDGET = 4
"""Smallest budget that a study may have."""
Target = Landscape | RecordedTable


@dataclass(frozen=True)
class LawRow:
    """Regrets on a law, over all seeds."""

    model: str
    """Name of the model."""
    method: str
    """Name of the method."""
    budget: int
    """Number of trainings."""
    regret_mean: float
    """Mean true loss of what is recommended less the lowest that the space holds, in nats."""
    regret_p90: float
    """The regret that 90 % of the seeds do not exceed."""
    near_best: float
    """Share of the seeds in which it is at most :data:`NEAR_NATS` above the best cooldown's."""


@dataclass(frozen=True)
class SurfaceRow:
    """Regrets on a surface, over all seeds."""

    surface: str
    """Name of the surface."""
    method: str
    """Name of the method."""
    budget: int
    """Number of trainings."""
    regret_mean: float
    """Mean true error of what is recommended less that of the optimum, in points."""
    regret_p90: float
    """The regret that 90 % of the seeds do not exceed."""
    k_found: float | None
    """Share of the seeds whose k lies within 25 % of the optimum's; None unless it states a k."""
    false_better: float | None
    """Share of the seeds whose verdict is "better" although nothing is; None for other surfaces and
    for Optuna, which gives no verdict."""


@dataclass(frozen=True)
class TableRow:
    """Regrets on a recorded table, over all replays."""

    table: str
    """Name of the table's task."""
    method: str
    """Name of the method."""
    budget: int
    """Number of trainings."""
    trainings: int | None
    """Median number of trainings until a recommended point first counts as the best; None if it
    does in less than half of the replays."""
    reached: float
    """Share of the replays in which it does within the budget."""
    regret_mean: float
    """Mean of the recommended point's mean error less that of the best point, in its unit."""
    regret_p90: float
    """The regret that 90 % of the replays do not exceed."""


Row = LawRow | SurfaceRow | TableRow


class Job(NamedTuple):
    """One replay of a method."""

    target: Target
    """What is trained."""
    method: str
    """Name of the method."""
    budgets: tuple[int, ...]
    """Budgets of the study. Optuna's samplers know of none, so one study serves all."""
    number: int
    """Number of the replay."""


class Result(NamedTuple):
    """What a replay gave at one of its budgets."""

    error: float
    """True error of what is recommended in the end, or its regret on a table."""
    point: Any
    """The recommended candidate."""
    says_better: bool | None = None
    """Whether the verdict is "better"; None for Optuna."""
    reached: float = math.inf
    """On a table: the trainings until a recommended point first counts as the best."""


def play(job: Job) -> list[Result]:
    """Play a replay: one result for each of its budgets."""
    target, horizon = job.target, max(job.budgets)
    is_table = isinstance(target, RecordedTable)
    ground: TableGround | SimulatedGround
    if isinstance(target, RecordedTable):
        ground = TableGround(target, horizon, job.number)
    else:
        ground = SimulatedGround(target, horizon, job.number)
    if job.method in ("joint", WHOLE):
        played = play_joint(ground, each=is_table, pauses=job.method == "joint")
    else:
        played = play_optuna(ground, horizon, job.number, configuration(job.method))
    return [_result(target, ground, played, budget) for budget in job.budgets]


def _result(
    target: Target, ground: TableGround | SimulatedGround, played: Played, budget: int
) -> Result:
    until = played.recommended[:budget] if played.plan is None else played.recommended
    last: Recommended = until[-1]
    says_better = None
    if played.plan is not None:
        says_better = judge(played.plan, "done").outcome == Outcome.BETTER
    if isinstance(target, RecordedTable):
        near = [place for place, each in enumerate(until, start=1) if target.is_near(each.point)]
        reached = near[0] if near else math.inf
        return Result(target.regret(last.point), last.point, says_better, reached)
    assert isinstance(ground, SimulatedGround)
    return Result(ground.true(last), last.point, says_better)


def measure(
    targets: Iterable[Target],
    budgets: Sequence[int],
    seeds: int,
    methods: Sequence[str],
    processes: int = 1,
) -> list[Row]:
    """Play every method on every target, ``seeds`` times for each budget.

    Args:
        targets: Laws, surfaces or tables.
        budgets: Numbers of trainings.
        seeds: Number of replays.
        methods: Names of methods.
        processes: Number of processes to play in.
    """
    rows: list[Row] = []
    with mapping(processes) as mapped:
        for target in targets:
            summary = _summary(target)
            for method in methods:
                is_ours = method in ("joint", WHOLE)
                own = [(b,) for b in budgets] if is_ours else [tuple(budgets)]
                for each in own:
                    started = time.perf_counter()
                    jobs = [Job(target, method, each, number) for number in range(seeds)]
                    played = list(mapped(play, jobs))
                    for budget, results in zip(each, zip(*played, strict=True), strict=True):
                        rows.append(summary(method, budget, results))
                    took, said = time.perf_counter() - started, ", ".join(map(str, each))
                    done = f"{target.name}, {method}, budget {said}: {took:.1f} s"
                    print(done, file=sys.stderr, flush=True)
    return rows


Summary = Callable[[str, int, Sequence[Result]], Row]


def _summary(target: Target) -> Summary:
    """What turns the results of a method at a budget into a row."""
    if isinstance(target, RecordedTable):
        return lambda method, budget, results: _table_row(target, method, budget, results)
    if isinstance(target, Surface):
        return lambda method, budget, results: _surface_row(target, method, budget, results)
    best, best_cooldown = _lowest(target)

    def row(method: str, budget: int, results: Sequence[Result]) -> Row:
        losses = np.array([result.error for result in results])
        near = float((losses - best_cooldown <= NEAR_NATS).mean())
        return LawRow(target.name, method, budget, *_regrets(losses - best), near)

    return row


@cache
def _lowest(target: Landscape) -> tuple[float, float]:
    """The lowest true error that the space holds, and that of its 1 − √v cooldowns."""
    spec = target.spec(30)
    families = spec.schedule_space().families
    cooldowns = [each for each in families if each.family == COOLDOWN]
    best, _ = landscapes.best_of(spec, target.error, families)
    best_cooldown, _ = landscapes.best_of(spec, target.error, cooldowns)
    return best, best_cooldown


def _surface_row(target: Surface, method: str, budget: int, results: Sequence[Result]) -> Row:
    regrets = np.array([result.error for result in results]) - landscapes.ERROR
    found = better = None
    if target.name == "k04" and target.best and target.best.k:
        k = target.best.k
        ks = [result.point.k for result in results]
        found = float(
            np.mean([each is not None and abs(each / k - 1) <= NEAR_K + 1e-9 for each in ks])
        )
    if target.best is None and results[0].says_better is not None:
        better = float(np.mean([bool(result.says_better) for result in results]))
    return SurfaceRow(target.name, method, budget, *_regrets(regrets), found, better)


def _table_row(target: RecordedTable, method: str, budget: int, results: Sequence[Result]) -> Row:
    reached = np.array([result.reached for result in results])
    middle = float(np.sort(reached)[(len(reached) - 1) // 2])
    regrets = _regrets([result.error for result in results])
    trainings = int(middle) if math.isfinite(middle) else None
    share = float(np.isfinite(reached).mean())
    return TableRow(target.name, method, budget, trainings, share, *regrets)


def _regrets(regrets: Any) -> tuple[float, float]:
    return float(np.mean(regrets)), float(np.quantile(regrets, 0.9))


def as_table(rows: Sequence[Row], title: str) -> Table:
    """The rows for people."""
    table = Table(title=title, title_justify="left")
    for name in asdict(rows[0]):
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(_shown(value) for value in asdict(row).values()))
    return table


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5f}"
    return "" if value is None else str(value)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(",")))
    if min(numbers) < SMALLEST_BUDGET:
        raise argparse.ArgumentTypeError(f"each must be {SMALLEST_BUDGET} or more; not {text}")
    return numbers


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in ("joint", WHOLE):
            try:
                configuration(name)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None
    return names


def _models(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in LAWS]:
        raise argparse.ArgumentTypeError(f"no model {unknown[0]!r}; there are {', '.join(LAWS)}")
    return names


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--landscape", choices=["multi-power"], help="the multi-power law")
    kind.add_argument("--surface", choices=SURFACES, help="a surface with a stated optimum")
    kind.add_argument("--table", type=Path, metavar="FILE", help="a recorded table")
    parser.add_argument("--law", type=Path, metavar="FILE.json", help="parameters of the law")
    parser.add_argument("--models", type=_models, help=f"models of the law; {','.join(LAWS)}")
    parser.add_argument("--budgets", type=_numbers, default=(10, 20, 30, 60), help="10,20,30,60")
    parser.add_argument("--seeds", type=count, default=200, help="replays of each method; 200")
    parser.add_argument("--methods", type=_methods, default=METHODS, help=",".join(METHODS))
    add_processes(parser)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    given = parser.parse_args(arguments)
    if given.law and not given.landscape:
        parser.error("--law needs --landscape multi-power")
    if given.models and (given.law or not given.landscape):
        parser.error("--models needs --landscape multi-power, without --law")
    return given


def _targets(given: argparse.Namespace) -> list[Target]:
    """What is to be played on.

    Raises:
        DataError: A file cannot be used.
    """
    if given.table:
        return [search_table.read(given.table)]
    if given.surface:
        return [SURFACES[given.surface]]
    if given.law:
        return [landscapes.read_law(given.law)]
    return [LAWS[name] for name in given.models or LAWS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a file that cannot be used."""
    given = _arguments(arguments)
    try:
        targets = _targets(given)
    except KDecayError as error:
        print(f"benchmarks.search: {error}", file=sys.stderr)
        return 2
    rows = measure(targets, given.budgets, given.seeds, given.methods, given.processes)
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
        return 0
    title = f"{given.seeds} replays of each method and budget"
    if isinstance(target := targets[0], RecordedTable):
        seeds, points = target.errors.shape
        title += (
            f"; {points} points, {seeds} seeds, noise of a run {target.noise:.3g} {target.unit}"
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(as_table(rows, title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
