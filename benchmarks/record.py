"""Record curves for :mod:`benchmarks.pruning`: ``python -m benchmarks.record STUDY.toml --out F``.

Trains every candidate of a study's first stage on every seed to the end, one run after another in
this process. The file is written after every run. The same command resumes an interrupted
recording, and adds further ks or seeds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.curves import RAW, read_table
from benchmarks.files import exit_code, replace_object
from benchmarks.recording import TRAIN_LOSS, Recorded, averaged_name, make_recorder
from kdecay_search import __version__
from kdecay_search.errors import DataError
from kdecay_search.search import BASELINE_KS
from kdecay_search.study.base import AVERAGING_SHARE
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.file import load
from kdecay_search.study.search_spec import LARGEST_K, SMALLEST_K, grid
from kdecay_search.study.spec import StudySpec

SHARES = (1 / 60, 1 / 30, AVERAGING_SHARE, 1 / 8)
"""Default half-lives of the averages, as shares of the training."""


@dataclass
class Recording:
    """The content of a file."""

    source: dict[str, Any]
    """What is trained, by which versions, and where."""
    epochs: int
    """Number of epochs of a training."""
    columns: tuple[str, ...]
    """Names of the recorded values: ``raw``, ``averaged_W`` for each window, ``train_loss``."""
    runs: dict[tuple[int, float], Recorded] = field(default_factory=dict)
    """Recorded runs by seed and k."""
    ks: list[float] = field(default_factory=list)
    """The ks that the file has a place for, ascending."""
    seeds: list[int] = field(default_factory=list)
    """The seeds that the file has a place for, ascending."""

    def include(self, ks: Iterable[float], seeds: Iterable[int]) -> None:
        """Give each of these ks and seeds a place in the file."""
        self.ks = sorted({*self.ks, *ks})
        self.seeds = sorted({*self.seeds, *seeds})

    def table(self) -> dict[str, Any]:
        """The JSON object of the file; runs that are not recorded yet are columns of null."""
        nothing = dict.fromkeys(self.columns, [None] * self.epochs)
        seeds = {}
        for seed in self.seeds:
            runs = [self.runs.get((seed, k), nothing) for k in self.ks]
            seeds[str(seed)] = {
                name: [list(row) for row in zip(*(run[name] for run in runs), strict=True)]
                for name in self.columns
            }
        return {"source": self.source, "ks": self.ks, "epochs": self.epochs, "seeds": seeds}

    def write(self, path: Path) -> None:
        """Replace the file as a whole, so that it is never half written."""
        replace_object(path, self.table())

    def read(self, path: Path) -> None:
        """Add what a file holds.

        Raises:
            DataError: The file was recorded with another study or other windows.
        """
        table = read_table(path)
        try:
            self._check(path, table)
            self.include(map(float, table["ks"]), map(int, table["seeds"]))
            for seed, curves in table["seeds"].items():
                for column, k in enumerate(table["ks"]):
                    run = {name: [row[column] for row in curves[name]] for name in self.columns}
                    if None not in run[RAW]:
                        self.runs[int(seed), float(k)] = run
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(
                f"{path}: is not a file of this command ({type(error).__name__}: {error}); "
                "give another --out"
            ) from None

    def _check(self, path: Path, table: dict[str, Any]) -> None:
        for key in ("task", "schedule", "device"):
            if table["source"][key] != self.source[key]:
                raise DataError(f"{path}: was recorded with another {key}; give another --out")
        stored = {name for curves in table["seeds"].values() for name in curves}
        if stored != set(self.columns):
            raise DataError(f"{path}: was recorded with other --windows; give another --out")


def describe(spec: StudySpec, device: str) -> dict[str, Any]:
    """The ``source`` of a file: what is trained, by which versions, and where."""
    return {
        "study": spec.name,
        "task": spec.task.model_dump(mode="json"),
        "schedule": spec.schedule.model_dump(mode="json"),
        "device": device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "kdecay-search": __version__,
            "python": platform.python_version(),
            **_versions("torch", "numpy"),
        },
    }


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def candidates(spec: StudySpec) -> tuple[float, ...]:
    """The ks of stage 1: those of the study file or of its grid, and the baseline."""
    search = spec.search
    ks = search.ks or grid(search.k_min, search.k_max, search.k_step)
    return tuple(sorted({*BASELINE_KS, *ks}))


def record(
    spec: StudySpec,
    out: Path,
    ks: Sequence[float],
    seeds: int,
    windows: Sequence[float],
    device: str,
) -> Recording:
    """Train what a file does not hold yet, seed after seed, and write it there.

    Args:
        spec: The study.
        out: The file.
        ks: Exponents to record.
        seeds: Number of seeds, from 0.
        windows: Half-lives of the averages, in epochs.
        device: Where to train, as for a worker.
    """
    if isinstance(spec.task, SimulatedTask):
        windows, device = [1.0], "cpu"
    else:
        from kdecay_search.training.device import resolve_device  # noqa: PLC0415 - torch

        device = str(resolve_device(device))
    columns = (RAW, *(averaged_name(window) for window in windows), TRAIN_LOSS)
    recording = Recording(describe(spec, device), spec.task.length.reports, columns)
    if out.exists():
        recording.read(out)
    recording.include(ks, range(seeds))
    train = make_recorder(spec, windows, device)
    for seed in recording.seeds:
        for k in recording.ks:
            if (seed, k) in recording.runs:
                continue
            started = time.perf_counter()
            run = recording.runs[seed, k] = train(k, seed)
            recording.write(out)
            took = time.perf_counter() - started
            last = run[RAW][-1]
            print(f"seed {seed}, k = {k:g}: {last:.2f} %, {took:.1f} s", file=sys.stderr)
    recording.write(out)
    return recording


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _exponents(text: str) -> list[float]:
    numbers = _numbers(text)
    if not all(SMALLEST_K <= k <= LARGEST_K for k in numbers):
        raise ValueError
    return sorted(set(numbers))


def _windows(text: str) -> list[float]:
    numbers = _numbers(text)
    if not all(0 < number < float("inf") for number in numbers):
        raise ValueError
    return sorted(set(numbers))


def _seeds(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=__doc__)
    parser.add_argument("study", metavar="STUDY.toml")
    parser.add_argument("--out", type=Path, required=True, metavar="CURVES.json")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for kdecay launch"
    )
    parser.add_argument("--ks", type=_exponents, help="default: the study's, and k = 1")
    parser.add_argument("--seeds", type=_seeds, help="default: the study's")
    parser.add_argument(
        "--windows",
        type=_windows,
        help="half-lives in epochs; default: 1/60, 1/30, 0.08 and 1/8 of the training",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for an error, 130 for Ctrl-C."""
    given = _arguments(arguments)

    def run() -> None:
        spec = load(given.study, given.set)
        ks, seeds = given.ks or candidates(spec), given.seeds or spec.search.seeds
        length = spec.task.length.reports
        windows = given.windows or [float(f"{share * length:.4g}") for share in SHARES]
        record(spec, given.out, ks, seeds, windows, given.device)

    return exit_code("benchmarks.record", run)


if __name__ == "__main__":
    sys.exit(main())
