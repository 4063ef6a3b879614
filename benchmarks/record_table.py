"""Record a table of schedules: ``python -m benchmarks.record_table TASK --out FILE.json``.

Trains quasi-random points of the default schedule space, and the usual schedules at five levels, on
a small real task (:mod:`benchmarks.tasks`), one run after another in this process on one core. All
points get seed 0, then all get seed 1, and so on. The file is replaced after every run, and the
same command resumes an interrupted recording, or adds points and seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arguments import count
from benchmarks.files import exit_code, replace_object
from benchmarks.record import describe
from benchmarks.record_points import Point, points
from benchmarks.recording import Column
from kdecay_search.errors import DataError
from kdecay_search.study.file import load
from kdecay_search.study.spec import StudySpec

TASKS = Path(__file__).parent / "tasks"
WARMUPS = {"digits": 0.0, "cifar16": 0.0, "text": 0.05}
"""The tasks, with the warm-up of their usual schedules as a share of the updates."""
RAW, AVERAGED = "raw", "averaged"


@dataclass
class Table:
    """The content of a file."""

    task: str
    """Name of the task."""
    spec: StudySpec
    """The study that describes the task."""
    points: list[Point]
    """The schedules of the table."""
    seeds: int
    """Number of seeds, from 0."""
    source: dict[str, Any]
    """What is trained, by which versions, and where."""
    runs: dict[tuple[int, int], tuple[Column, Column]] = field(default_factory=dict)
    """Recorded curves, raw and averaged, by seed and number of the point."""

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the file; a run that is not recorded yet is null."""
        metric = self.spec.task.metric
        numbers = range(len(self.points))
        found: dict[str, Any] = {}
        for seed in range(self.seeds):
            runs = [self.runs.get((seed, number)) for number in numbers]
            found[str(seed)] = {
                RAW: [run and run[0] for run in runs],
                AVERAGED: [run and run[1] for run in runs],
            }
        return {
            "task": self.task,
            "metric": {
                "name": metric.name,
                "direction": metric.direction,
                "unit": metric.unit,
            },
            "source": self.source,
            "lr_max": self.spec.schedule.lr_max,
            "epochs": self.spec.task.length.reports,
            "points": self.points,
            "seeds": found,
        }

    def write(self, path: Path) -> None:
        """Replace the file as a whole, so that it is never half written."""
        replace_object(path, self.as_json())

    def read(self, path: Path) -> None:
        """Add the runs of a file; points and seeds that this table lacks are kept behind its own.

        Raises:
            DataError: The file is of another task, text or schedule space, or of another command.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            for key in ("task", "text_sha256"):
                if stored["source"].get(key) != self.source.get(key):
                    raise DataError(f"{path}: was recorded with another {key}; give another --out")
            if stored["task"] != self.task:
                raise DataError(f"{path}: is of task {stored['task']}; give another --out")
            self.points += [point for point in stored["points"] if point not in self.points]
            self.seeds = max(self.seeds, len(stored["seeds"]))
            for seed, curves in stored["seeds"].items():
                runs = zip(stored["points"], curves[RAW], curves[AVERAGED], strict=True)
                for point, raw, averaged in runs:
                    if raw is not None:
                        self.runs[int(seed), self.points.index(point)] = raw, averaged
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: is not a file of this command ({type(error).__name__}: {error}); "
                "give another --out"
            ) from None


def source_of(task: str, spec: StudySpec) -> dict[str, Any]:
    """What is trained, by which versions, and where; not in which folder the images are."""
    source = describe(spec, "cpu")
    source["task"].get("data", {}).pop("root", None)
    if task == "text":
        from benchmarks.tasks.text import text_sha256  # noqa: PLC0415 - torch

        source["text_sha256"] = text_sha256()
    return source


def record(task: str, spec: StudySpec, out: Path, number: int, seeds: int) -> Table:
    """Train what a file does not hold yet, and write it there.

    Args:
        task: Name of the task.
        spec: Its study.
        out: The file.
        number: Number of quasi-random points.
        seeds: Number of seeds, from 0.
    """
    wanted = points(spec.schedule.lr_max, WARMUPS[task], number)
    table = Table(task, spec, wanted, seeds, source_of(task, spec))
    if out.exists():
        table.read(out)
    table.write(out)
    from benchmarks.record_tasks import make_trainer  # noqa: PLC0415 - torch

    train = make_trainer(spec)
    for seed in range(seeds):
        for index, point in enumerate(wanted):
            if (seed, index) in table.runs:
                continue
            started = time.perf_counter()
            run = table.runs[seed, index] = train(point, seed)
            table.write(out)
            took = time.perf_counter() - started
            print(f"seed {seed}, point {index}: {run[0][-1]}, {took:.1f} s", file=sys.stderr)
    return table


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_table", description=__doc__)
    parser.add_argument("task", choices=sorted(WARMUPS), metavar="TASK", help=", ".join(WARMUPS))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--points", type=count, default=96, help="quasi-random points (96)")
    parser.add_argument("--seeds", type=count, default=4, help="seeds, from 0 (4)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for kdecay launch"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for an error, 130 for Ctrl-C."""
    given = _arguments(arguments)

    def run() -> None:
        spec = load(TASKS / f"{given.task}.toml", given.set)
        record(given.task, spec, given.out, given.points, given.seeds)

    return exit_code("benchmarks.record_table", run)


if __name__ == "__main__":
    sys.exit(main())
