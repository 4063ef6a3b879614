"""Compare pruning policies on recorded curves: ``python -m benchmarks.pruning CURVES.json``."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import add_processes, counts
from benchmarks.curves import Curves, read
from benchmarks.policies import POLICIES, Policy
from benchmarks.processes import mapping
from benchmarks.replay import Outcome, Replay, Scenario, study_spec
from kdecay_search import __version__
from kdecay_search.errors import KDecayError
from kdecay_search.search.policy import POLICY
from kdecay_search.search.policy import Policy as Constants

NEAR = 0.25
"""Largest mean error above that of the best k, percentage points, of a k that counts as near it."""
FEW_SEEDS, MANY_SEEDS = 3, 4
"""Smallest and largest number of seeds of a study; fewer if fewer were recorded."""


@dataclass(frozen=True)
class Row:
    """Means over the replays of a policy with a number of workers."""

    name: str
    """Name of the policy."""
    workers: int
    """Number of workers."""
    near_best: float
    """Share in which the mean final error of the chosen k is within ``NEAR`` of that of the best
    k."""
    winner_kept: float
    """Share in which no run of the k with the lowest mean was started and then pruned."""
    epochs_share: float
    """Epochs trained as a share of those of the full grid with the same seeds."""
    regret: float
    """Mean error of the chosen k minus that of the best k, percentage points."""


@dataclass(frozen=True)
class Measured(Row):
    """A row with the columns that only the table shows."""

    winner_complete: float
    """Share in which no run of the k with the lowest mean was pruned, and none was skipped."""
    claims: float
    """Share in which ``status`` would say that the chosen k is better than k = 1."""
    probability: float
    """Mean of the stated probability that the chosen k is the best."""


def measure(
    curves: Curves,
    policy: Policy,
    workers: int,
    replays: int,
    seed: int,
    shuffles: bool = False,
    constants: Constants = POLICY,
    mapped: Callable[..., Iterable[list[float]]] = map,
) -> Measured:
    """Replay the study of a file of curves.

    Args:
        curves: The recorded curves.
        policy: The pruning policy.
        workers: Number of workers.
        replays: Number of replays.
        seed: Seed of the replays.
        shuffles: Whether each replay assigns the labels of k at random.
        constants: The constants of the search.
        mapped: Plays the replays, as ``map`` does.
    """
    constants = replace(constants, **policy.constants)
    play = partial(_play, curves, policy, workers, seed, shuffles, constants)
    rows = list(mapped(play, range(replays)))
    return Measured(policy.name, workers, *np.mean(rows, axis=0).tolist())


def _play(
    curves: Curves,
    policy: Policy,
    workers: int,
    seed: int,
    shuffles: bool,
    constants: Constants,
    number: int,
) -> list[float]:
    """The figures of one replay."""
    random = np.random.default_rng((seed, number))
    drawn = curves.shuffled(random) if shuffles else curves
    scenario = draw_scenario(curves.seeds, workers, (seed, number, workers), random)
    spec = study_spec(drawn, len(scenario.seeds), policy.prunes)
    judge = policy.judge(spec, f"{seed}/{number}", constants)
    outcome = Replay(drawn, scenario, spec, judge, constants=constants).run()
    return _figures(drawn, spec.search.seeds, outcome)


def draw_scenario(
    recorded: int, workers: int, key: tuple[int, ...], random: np.random.Generator
) -> Scenario:
    """Draw three or four of the recorded seeds, in random order; all of them if there are fewer."""
    count = min(recorded, int(random.integers(FEW_SEEDS, MANY_SEEDS + 1)))
    return Scenario(tuple(random.permutation(recorded)[:count].tolist()), workers, key)


def _figures(curves: Curves, seeds: int, outcome: Outcome) -> list[float]:
    """One replay's part in each of the means of :class:`Measured`, in their order."""
    means = curves.means
    winner = int(means.argmin())
    regret = float(means[outcome.column] - means[winner])
    kept = winner not in outcome.pruned
    return [
        float(regret <= NEAR + 1e-9),
        float(kept),
        outcome.epochs / (len(curves.ks) * seeds * curves.epochs),
        regret,
        float(kept and winner not in outcome.skipped),
        float(outcome.claims),
        outcome.probability,
    ]


def compare(
    curves: Curves,
    workers: Sequence[int],
    replays: int,
    seed: int,
    labels: str,
    policies: Sequence[Policy] = POLICIES,
    constants: Constants = POLICY,
    processes: int = 1,
) -> list[Measured]:
    """Measure every policy with every number of workers on the same replays."""
    if labels == "reversed":
        curves = curves.reversed()
    is_shuffled, rows = labels == "shuffled", []
    with mapping(processes) as mapped:
        for policy in policies:
            for count in workers:
                started = time.perf_counter()
                rows.append(
                    measure(curves, policy, count, replays, seed, is_shuffled, constants, mapped)
                )
                took = time.perf_counter() - started
                print(f"{policy.name}, {count} workers: {took:.1f} s", file=sys.stderr, flush=True)
    return rows


def as_json(file: str, rows: Sequence[Measured]) -> str:
    """The output of ``--json``."""
    known = Row.__dataclass_fields__
    policies = [{k: v for k, v in asdict(row).items() if k in known} for row in rows]
    return json.dumps({"file": file, "policies": policies})


def as_table(rows: Sequence[Measured], title: str) -> Table:
    table = Table(title=title, title_justify="left", caption=_versions(), caption_justify="left")
    table.add_column("policy")
    names = ("workers", "near best", "winner kept", "nor skipped", "epochs", "regret")
    for name in (*names, "claims", "P(best)"):
        table.add_column(name, justify="right")
    for row in rows:
        shares = (row.near_best, row.winner_kept, row.winner_complete, row.epochs_share)
        percent = [f"{100 * share:.1f} %" for share in shares]
        rest = (f"{row.regret:.3f}", f"{100 * row.claims:.1f} %", f"{row.probability:.2f}")
        table.add_row(row.name, str(row.workers), *percent, *rest)
    return table


def _versions() -> str:
    return (
        "Regret in percentage points. Claims: status would say better than k = 1. "
        f"kdecay-search {__version__}, Optuna {optuna.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )


def _policies(text: str) -> list[Policy]:
    known = {policy.name: policy for policy in POLICIES}
    unknown = set(text.split(",")) - known.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"{sorted(unknown)} are not among {list(known)}")
    return [known[name] for name in text.split(",")]


def _constant(text: str) -> tuple[str, Any]:
    """A name and a value of :class:`kdecay_search.search.policy.Policy`."""
    name, _, value = text.partition("=")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        parsed = None
    known = getattr(POLICY, name, None)
    if isinstance(known, float) and isinstance(parsed, int):
        parsed = float(parsed)
    if isinstance(known, tuple) and isinstance(parsed, list):
        parsed = tuple(map(float, parsed))
    if known is None or type(parsed) is not type(known):
        names = ", ".join(POLICY.__dataclass_fields__)
        raise argparse.ArgumentTypeError(f"{text}: must be NAME=VALUE with a name among {names}")
    return name, parsed


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning", description=__doc__)
    parser.add_argument("file", metavar="CURVES.json", help="recorded curves (benchmarks.record)")
    parser.add_argument("--workers", type=counts, default=[1, 4, 16], help="default: 1,4,16")
    parser.add_argument("--replays", type=int, default=200, help="default: 200")
    parser.add_argument("--seed", type=int, default=0, help="seed of the replays; default: 0")
    parser.add_argument(
        "--window",
        help="use averaged_WINDOW; default: the one nearest to the package's own, 0.08 of T",
    )
    parser.add_argument(
        "--labels",
        choices=("recorded", "reversed", "shuffled"),
        default="recorded",
        help="reversed: small k wins where large k did; shuffled: at random, for each replay",
    )
    parser.add_argument(
        "--policies",
        type=_policies,
        default=POLICIES,
        help="policies to compare, such as none,ours; default: all",
    )
    parser.add_argument(
        "--constant",
        type=_constant,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace a constant of the search (kdecay_search/search/policy.py); repeatable",
    )
    add_processes(parser)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parsed = parser.parse_args(arguments)
    if parsed.replays < 1 or parsed.seed < 0:
        parser.error("--replays must be 1 or more, --seed 0 or more")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a file that cannot be used."""
    given = _arguments(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        curves = read(given.file, given.window)
    except KDecayError as error:
        print(f"benchmarks.pruning: {error}", file=sys.stderr)
        return 2
    constants = replace(POLICY, **dict(given.constant))
    rows = compare(
        curves,
        given.workers,
        given.replays,
        given.seed,
        given.labels,
        given.policies,
        constants,
        given.processes,
    )
    if given.json:
        print(as_json(given.file, rows))
        return 0
    title = (
        f"{given.file}: {len(curves.ks)} ks, {curves.epochs} epochs, {curves.seeds} seeds, "
        f"averaged_{curves.window}, {given.labels} labels, {given.replays} replays each"
    )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(as_table(rows, title))
    return 0


if __name__ == "__main__":
    sys.exit(main())
