"""Measure how well a joint search over k and lr_max finds the best pair, and at what cost.

Studies whose truth is known are simulated (:mod:`kdecay_search.tasks.simulated` with
``best_lr_max``). The real search and early stopping run on their curves, in the simulated
asynchronous time of :mod:`benchmarks.replay`, and are compared with the full grid: every pair on
every seed, to its end.

    python -m benchmarks.levels --studies 200 --workers 1,4,16 [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import count, counts
from benchmarks.curves import Curves
from benchmarks.policies import NoPruning, Ours
from benchmarks.replay import Judge, Replay, Scenario
from kdecay_search import __version__
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.simulated import curve, final_error
from kdecay_search.training.device_inventory import cpu_info

KS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
EPOCHS, SEEDS = 30, 3
NEAR = 0.1
"""Largest true error above that of the best pair, percentage points, of a pair that counts as near
it."""
TRUTHS: dict[str, dict[str, Any]] = {
    "k* = 3 at the middle level": {"best_ks": [3.0], "best_lr_max": 0.1},
    "k* = 3 at the highest": {"best_ks": [3.0], "best_lr_max": 0.2},
    "k* = 7 at the lowest": {"best_ks": [7.0], "best_lr_max": 0.05},
    "k* = 1, the original": {"best_ks": [1.0], "best_lr_max": 0.1},
}
SPACINGS = {"1 : 2 : 4": (0.05, 0.1, 0.2), "1 : 1.2 : 1.4": (0.085, 0.1, 0.12)}
"""Learning-rate levels of a study; a truth's best level is moved to the nearest of them."""
NOISE = {"seed_noise": 0.3, "run_noise": 0.3, "curvature": 15.0}


@dataclass(frozen=True)
class Row:
    """Means over the studies of one truth."""

    truth: str
    """One of ``TRUTHS``."""
    levels: str
    """One of ``SPACINGS``."""
    policy: str
    """One of ``POLICIES``."""
    workers: int
    """Number of workers."""
    right: float
    """Share of studies that found the pair with the lowest true error."""
    near: float
    """Share of studies that found a pair within ``NEAR`` of it."""
    right_level: float
    """Share of studies that found the level of that pair."""
    regret: float
    """Mean true error above that of the best pair, percentage points."""
    baseline_right: float
    """Share of studies in which k = 1 was given its best level."""
    baseline_regret: float
    """Mean true error of k = 1 above that at its best level, percentage points."""
    epochs: float
    """Epochs trained as a share of the full grid's, which has the same pairs on all seeds."""
    baseline_runs: float
    """Mean number of complete runs of k = 1; the full grid has one for each level and seed."""


@dataclass(frozen=True)
class Case:
    """A simulated study."""

    spec: StudySpec
    """The study."""
    points: tuple[Candidate, ...]
    """Its pairs of k and level."""
    curves: Curves
    """The curves of its pairs."""

    @staticmethod
    def of(truth: dict[str, Any], levels: tuple[float, ...], prunes: bool, number: int) -> Case:
        """Simulate a study.

        Args:
            truth: One of ``TRUTHS``.
            levels: One of ``SPACINGS``.
            prunes: Whether the study has ``pruning.enabled``.
            number: Seed of its noise.
        """
        best = min(levels, key=lambda level: abs(level - truth["best_lr_max"]))
        surface = NOISE | truth | {"best_lr_max": best, "noise_seed": number}
        table = {
            "name": "levels",
            "task": {"kind": "simulated", "epochs": EPOCHS, "surface": surface},
            "search": {"ks": KS, "k_max": KS[-1], "k_cap": KS[-1], "k_step": KS[-1]}
            | {"lr_max": levels, "seeds": SEEDS, "max_terms": 1},
            "pruning": {"enabled": prunes},
        }
        spec = StudySpec.model_validate_json(json.dumps(table))
        points = tuple(Candidate(k, level) for k in KS for level in levels)
        return Case(spec, points, _curves(spec, points))

    def truths(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """True final error (%) of each pair."""
        task = self.spec.task
        assert isinstance(task, SimulatedTask)
        return np.array([final_error(task.surface, (p.k,), p.lr_max) for p in self.points])


def _curves(spec: StudySpec, points: Sequence[Candidate]) -> Curves:
    task = spec.task
    assert isinstance(task, SimulatedTask)
    runs = [[curve(task, (p.k,), seed, p.lr_max) for p in points] for seed in range(SEEDS)]
    raw, averaged = (
        np.array([[[getattr(e, name) for e in run] for run in of_seed] for of_seed in runs])
        for name in ("validation_error", "averaged_error")
    )
    ks = tuple(point.k for point in points)
    turned = (each.transpose(0, 2, 1) for each in (raw, averaged))
    return Curves("simulated", ks, EPOCHS, *turned, window="simulated")


POLICIES: dict[str, tuple[bool, Callable[[StudySpec], Judge]]] = {
    "none": (False, lambda spec: NoPruning()),
    "ours": (True, Ours),
}
"""Whether the study has ``pruning.enabled``, and what judges its runs."""


def measure(studies: int, workers: Sequence[int]) -> list[Row]:
    """Simulate this number of studies for each truth, spacing, policy and number of workers."""
    rows = []
    for name, truth in TRUTHS.items():
        for spacing, levels in SPACINGS.items():
            for policy, (prunes, judge) in POLICIES.items():
                for served_by in workers if prunes else workers[:1]:
                    started = time.perf_counter()
                    play = partial(_study, truth, levels, prunes, judge, served_by)
                    figures = np.mean([play(number) for number in range(studies)], axis=0)
                    rows.append(Row(name, spacing, policy, served_by, *figures.tolist()))
                    took = time.perf_counter() - started
                    print(
                        f"{name}, {spacing}, {policy}, {served_by}: {took:.0f} s", file=sys.stderr
                    )
    return rows


def _study(
    truth: dict[str, Any],
    levels: tuple[float, ...],
    prunes: bool,
    judge: Callable[[StudySpec], Judge],
    workers: int,
    number: int,
) -> list[float]:
    """One study's part in each of the means of :class:`Row`, in their order."""
    case = Case.of(truth, levels, prunes, number)
    scenario = Scenario(tuple(range(SEEDS)), workers, (number, workers))
    outcome = Replay(case.curves, scenario, case.spec, judge(case.spec), case.points).run()
    true = case.truths()
    best, base = int(true.argmin()), min(_baselines(case), key=true.__getitem__)
    lost = float(true[outcome.column] - true[best])
    return [
        outcome.column == best,
        lost <= NEAR,
        case.points[outcome.column].lr_max == case.points[best].lr_max,
        lost,
        outcome.baseline == base,
        float(true[outcome.baseline] - true[base]),
        outcome.epochs / (len(case.points) * SEEDS * EPOCHS),
        outcome.baseline_runs,
    ]


def _baselines(case: Case) -> list[int]:
    return [column for column, point in enumerate(case.points) if point.k == 1.0]


def as_json(studies: int, rows: Iterable[Row]) -> str:
    """The output of ``--json``."""
    setting = {"studies": studies, "ks": KS, "epochs": EPOCHS, "seeds": SEEDS, "noise": NOISE}
    rest = {
        "rows": [asdict(row) for row in rows],
        "machine": cpu_info()["name"],
        "versions": versions(),
    }
    return json.dumps(setting | rest)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter here."""
    packages = {package: version(package) for package in ("numpy", "optuna")}
    return {"kdecay-search": __version__, "python": platform.python_version(), **packages}


def as_table(studies: int, rows: Sequence[Row]) -> Table:
    caption = f"{cpu_info()['name']}; " + ", ".join(f"{k} {v}" for k, v in versions().items())
    title = f"{studies} studies each; shares in %, regret in points; mean regret {_regret(rows)}"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    headings = ("truth", "levels", "policy", "workers", "right", "near", "level", "regret")
    for heading in (*headings, "k = 1", "its regret", "epochs", "its runs"):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = [f"{100 * each:.1f}" for each in (row.right, row.near, row.right_level)]
        table.add_row(row.truth, row.levels, row.policy, str(row.workers), *shares,
                      f"{row.regret:.3f}", f"{100 * row.baseline_right:.1f}",
                      f"{row.baseline_regret:.3f}", f"{100 * row.epochs:.1f}",
                      f"{row.baseline_runs:.1f}")  # fmt: skip
    return table


def _regret(rows: Sequence[Row]) -> str:
    by_policy = {name: [row.regret for row in rows if row.policy == name] for name in POLICIES}
    return ", ".join(f"{name} {fmean(each):.3f}" for name, each in by_policy.items() if each)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.levels", description=__doc__)
    parser.add_argument(
        "--studies", type=count, default=200, help="studies of each truth; default: 200"
    )
    parser.add_argument(
        "--workers", type=counts, default=[1, 4, 16], help="numbers of workers; default: 1,4,16"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    given = parser.parse_args(arguments)
    rows = measure(given.studies, given.workers)
    if given.json:
        print(as_json(given.studies, rows))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(as_table(given.studies, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
