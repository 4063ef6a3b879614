"""Measure how often a study's claims are wrong: ``python -m benchmarks.honesty``.

Studies whose truth is known are simulated. The real procedure finds k; then fresh seeds compare it
with k = 1, as a confirmation does. The search's own numbers are listed beside that. With
``--search joint``, whole schedules are searched where no schedule matters.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import honesty_joint
from benchmarks.arguments import add_processes, count
from benchmarks.noise import METRICS, Measured, Noise
from kdecay_search import __version__
from kdecay_search.search import Plan, Progress, make_plan
from kdecay_search.search.selection import Gain
from kdecay_search.statistics import Comparison, Sample, compare, paired_gain, pooled_noise
from kdecay_search.statistics import Noise as PairedNoise
from kdecay_search.study.metric import VALIDATION_ERROR, Metric
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from kdecay_search.training.device_inventory import cpu_info

TRUTHS = (0.0, 2 / 3, 5 / 3)
"""By how much the best k is truly better than k = 1, in standard deviations of a run's noise."""
CONFIRMATIONS = (5, 10)
"""Numbers of fresh seeds."""
BEST_K = 2.0
"""The k with the lowest true error."""
FIRST_FRESH_SEED = 100
"""Smallest seed of the confirmations."""
SEARCHES = {"grid": False, "allocated": True}
"""Kinds of search, with ``pruning.enabled``: a full grid, or runs chosen by allocation. No run ends
early, since there are no curves here."""
WORLDS = (*((measured, Noise.NORMAL) for measured in METRICS), (METRICS[0], Noise.UNEVEN),
          (METRICS[0], Noise.HEAVY))  # fmt: skip
"""The metrics and kinds of noise that are simulated."""


@dataclass(frozen=True)
class Claim:
    """A claimed gain on k = 1, and the truth; in standard deviations of a run's noise."""

    truth: float
    """The true gain."""
    difference: float
    """The claimed gain."""
    interval: tuple[float, float] | None
    """95 % interval of the claimed gain; None if there is none."""
    says_better: bool
    """Whether the claim is that the schedule is better."""

    @staticmethod
    def of(truth: float, sample: Sample) -> Claim:
        """Claim by Student's t from paired differences."""
        interval = sample.interval()
        assert sample.mean is not None
        return Claim(truth, sample.mean, interval, interval is not None and interval[0] > 0)

    @staticmethod
    def of_confirmation(truth: float, found: Comparison) -> Claim:
        """Claim of a confirmation."""
        assert found.difference is not None
        return Claim(truth, found.difference, found.interval, found.verdict == "better")

    @staticmethod
    def of_curve(truth: float, gain: Gain) -> Claim:
        """Claim by the smooth curve."""
        return Claim(truth, gain.mean, gain.interval, gain.is_sure)

    def per(self, unit: float) -> Claim:
        """The same claim with its difference and interval, so far in the metric's unit, in units of
        ``unit``."""
        interval = self.interval and (self.interval[0] / unit, self.interval[1] / unit)
        return replace(self, difference=self.difference / unit, interval=interval)


@dataclass(frozen=True)
class Study:
    """What a simulated study claimed; nothing if it found k = 1."""

    noise: PairedNoise | None
    """Noise of paired differences, estimated from the search's runs."""
    confirmed: Mapping[int, Claim]
    """Claims of the confirmations, by their number of fresh seeds."""
    search: Claim | None
    """Claim by the search's own paired gain of the k that it found."""
    smooth: Claim | None
    """Claim of the smooth curve through all runs about the same k."""
    lowest: Claim | None
    """Claim about the k with the lowest mean, which the procedure does not choose; full grids
    only."""


@dataclass(frozen=True)
class Row:
    """Shares and means over the studies that found a k other than 1; None where there is none.

    What is stated of the confirmation follows for the search's paired gain (``search_``), for the
    smooth curve (``smooth_``) and for the k with the lowest mean (``lowest_``).
    """

    metric: str
    """Name of the metric."""
    noise: str
    """Kind of noise."""
    truth: float
    """True gain of the best k on k = 1, in standard deviations of a run's noise, as are all
    differences."""
    search: str
    """Kind of search."""
    n: int
    """Number of fresh seeds of the confirmation."""
    found: float
    """Share of all studies that found a k other than 1."""
    found_truth: float | None
    """Mean true gain of the k that was found on k = 1."""
    coverage: float | None
    """Share in which the confirmation's interval contains the true gain of the k that was found."""
    found_better: float | None
    """Share in which the confirmation says "better"."""
    falsely_better: float | None
    """Share in which the confirmation says "better" although the true gain is not above zero."""
    bias: float | None
    """Mean of the confirmation's gain minus the true one."""
    search_coverage: float | None
    search_better: float | None
    search_falsely_better: float | None
    search_bias: float | None
    smooth_coverage: float | None
    smooth_better: float | None
    smooth_falsely_better: float | None
    smooth_bias: float | None
    lowest_coverage: float | None
    lowest_better: float | None
    lowest_falsely_better: float | None
    lowest_bias: float | None
    noise_ratio: float | None
    """Root mean square, over the studies, of the estimated noise divided by the true one."""
    noise_coverage: float | None
    """Share in which the interval of the noise contains the true one."""


def true_gain(truth: float, k: float) -> float:
    """The true gain of k on k = 1: a parabola over log k that is 0 at k = 1 and 4, ``truth`` at 2,
    and falls below 0 beyond 4."""
    return truth * (1 - (math.log(k / BEST_K) / math.log(BEST_K)) ** 2)


def study_spec(prunes: bool, metric: Metric = VALIDATION_ERROR) -> StudySpec:
    """A study by the grid's defaults: k = 1, 1.5, … 5, growing to 10, on three seeds."""
    table = {
        "name": "honesty",
        "task": {"kind": "python", "entry": "simulated:train", "epochs": 1}
        | {"metric": metric.model_dump()},
        "search": {"sampler": "grid", "max_terms": 1},
        "pruning": {"enabled": prunes},
    }
    return StudySpec.model_validate_json(json.dumps(table))


def simulate(
    spec: StudySpec,
    truth: float,
    key: tuple[int, ...],
    measured: Measured = METRICS[0],
    kind: Noise = Noise.NORMAL,
) -> Study:
    """Simulate one study and its confirmations.

    Args:
        spec: The study.
        truth: True gain of the best k, in standard deviations of a run's noise.
        key: Seed of its random numbers.
        measured: The study's metric.
        kind: How the noise of a run is distributed.
    """
    metric = measured.metric
    effects = np.random.default_rng(key).normal(size=FIRST_FRESH_SEED + max(CONFIRMATIONS)).tolist()

    def error(k: float, seed: int) -> float:
        own = kind.draw(np.random.default_rng((*key, seed, round(1000 * k))), k)
        worse = measured.noise * (effects[seed] + own - true_gain(truth, k))
        return metric.error(measured.original + metric.sign * worse)

    stage = search(spec, error).stages[0]
    errors = {c.k: c.errors for c in stage.candidates if c.k is not None}
    noise = pooled_noise(errors.values())
    lowest = None if spec.pruning.enabled else _lowest(truth, errors)
    lowest = lowest and lowest.per(measured.noise)
    if not stage.kept or stage.best is None or stage.best.k is None:
        return Study(noise, {}, None, None, lowest)
    k = stage.best.k
    true = true_gain(truth, k)
    assert stage.smooth_gain is not None
    unit = measured.noise
    return Study(
        noise,
        {n: Claim.of_confirmation(true, confirm(error, k, n)).per(unit) for n in CONFIRMATIONS},
        Claim.of(true, stage.gain).per(unit),
        Claim.of_curve(true, stage.smooth_gain).per(unit),
        lowest,
    )


def search(spec: StudySpec, error: Callable[[float, int], float]) -> Plan:
    """Search as reconciling and workers do together, on trials in memory."""
    trials: list[Trial] = []
    while (plan := make_plan(spec, trials)).progress == Progress.RUNNING:
        for request in plan.enqueue:
            assert request.k is not None
            done = Trial(len(trials), request, State.COMPLETE, request.k, trial_id=len(trials))
            trials.append(replace(done, error=error(request.k, request.key.seed), epochs=1))
        for request in plan.skip:
            number = len(trials)
            trials.append(Trial(number, request, State.PRUNED, request.k, trial_id=number))
    return plan


def confirm(error: Callable[[float, int], float], k: float, n: int) -> Comparison:
    """Compare ``k`` with k = 1 on ``n`` seeds that the search has not used."""
    old, new = (
        {seed: error(each, seed) for seed in range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + n)}
        for each in (1.0, k)
    )
    return compare(old, new)


def _lowest(truth: float, errors: Mapping[float, Mapping[int, float]]) -> Claim | None:
    k = min(errors, key=lambda k: fmean(errors[k].values()))
    if k == 1:
        return None
    return Claim.of(true_gain(truth, k), paired_gain(errors[1.0], errors[k]))


def measure(studies: int, seed: int) -> list[Row]:
    """Simulate this number of studies of each truth and kind of search."""
    rows = []
    for world, (measured, kind) in enumerate(WORLDS):
        for (name, prunes), (place, truth) in product(SEARCHES.items(), enumerate(TRUTHS)):
            spec = study_spec(prunes, measured.metric)
            started = time.perf_counter()
            done = [
                simulate(spec, truth, (seed, world, place, number), measured, kind)
                for number in range(studies)
            ]
            rows += [_row(measured, kind, truth, name, n, done) for n in CONFIRMATIONS]
            took = time.perf_counter() - started
            what = f"{measured.metric.name}, {kind} noise, truth {truth:.2g}, {name}"
            print(f"{what}: {took:.1f} s", file=sys.stderr, flush=True)
    return rows


def _row(
    measured: Measured, kind: Noise, truth: float, name: str, n: int, studies: Sequence[Study]
) -> Row:
    confirmed = [study.confirmed[n] for study in studies if study.confirmed]
    return Row(
        measured.metric.name,
        kind.value,
        truth,
        name,
        n,
        len(confirmed) / len(studies),
        _mean(claim.truth for claim in confirmed),
        *_figures(confirmed),
        *_figures([study.search for study in studies if study.search]),
        *_figures([study.smooth for study in studies if study.smooth]),
        *_figures([study.lowest for study in studies if study.lowest]),
        *_noise_figures(measured, [study.noise for study in studies if study.noise]),
    )


def _figures(claims: Sequence[Claim]) -> tuple[float | None, ...]:
    """The coverage, the shares of "better" and of a false "better", and the bias."""
    return (
        _mean(c.interval[0] <= c.truth <= c.interval[1] for c in claims if c.interval),
        _mean(c.says_better for c in claims),
        _mean(c.says_better and c.truth <= 0 for c in claims),
        _mean(c.difference - c.truth for c in claims),
    )


def _noise_figures(measured: Measured, noises: Sequence[PairedNoise]) -> tuple[float | None, ...]:
    true = math.sqrt(2) * measured.noise
    square = _mean((noise.sd / true) ** 2 for noise in noises)
    covered = _mean(noise.interval[0] <= true <= noise.interval[1] for noise in noises)
    return None if square is None else square**0.5, covered


def _mean(values: Iterable[float]) -> float | None:
    numbers = [float(value) for value in values]
    return fmean(numbers) if numbers else None


def as_json(studies: int, rows: Sequence[Row]) -> str:
    """The output of ``--json``."""
    setting: dict[str, object] = {"studies": studies}
    rest = {
        "rows": [asdict(row) for row in rows],
        "machine": cpu_info()["name"],
        "versions": versions(),
    }
    return json.dumps(setting | rest)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter here."""
    packages = {package: version(package) for package in ("numpy", "scipy")}
    return {"kdecay-search": __version__, "python": platform.python_version(), **packages}


def as_table(studies: int, rows: Sequence[Row]) -> Table:
    caption = f"{cpu_info()['name']}; " + ", ".join(f"{k} {v}" for k, v in versions().items())
    title = f"{studies} studies of each truth and search; shares of those that found a k, %"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    headings = ("metric", "noise", "truth", "search", "found", "claimed by")
    headings += ("covers", "better", "falsely", "bias")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        begins = (row.metric, row.noise, f"{row.truth:.2g}", row.search, _percent(row.found))
        kinds = {f"{row.n} fresh seeds": "", "search": "search_"}
        kinds |= {"smooth curve": "smooth_", "lowest mean": "lowest_"}
        for claimed_by, prefix in kinds.items():
            unneeded = (
                prefix and row.n != CONFIRMATIONS[0]
            )  # the search's own claims are the same for each n
            if unneeded or (prefix == "lowest_" and row.search == "allocated"):
                continue
            names = ("coverage", f"{'' if prefix else 'found_'}better", "falsely_better")
            shares = [_percent(getattr(row, prefix + name)) for name in names]
            bias = getattr(row, f"{prefix}bias")
            shown = "" if bias is None else f"{bias:+.3f}"
            table.add_row(*begins, claimed_by, *shares, shown)
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.honesty", description=__doc__)
    parser.add_argument(
        "--search", choices=("grids", "joint"), default="grids", help="what finds k; default: grids"
    )
    parser.add_argument(
        "--studies",
        type=count,
        default=200,
        help="studies of each metric, noise, truth and search; default: 200",
    )
    parser.add_argument("--budget", type=count, default=30, help="trainings of joint; default: 30")
    add_processes(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation; default: 0")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    given = parser.parse_args(arguments)
    if given.search == "joint":
        found = honesty_joint.measure(given.studies, given.budget, given.seed, given.processes)
        print(honesty_joint.as_json(found) if given.json else honesty_joint.as_text(found))
        return 0
    rows = measure(given.studies, given.seed)
    if given.json:
        print(as_json(given.studies, rows))
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(as_table(given.studies, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
