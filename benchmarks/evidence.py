"""Compare what a study finds with other ways to choose: ``python -m benchmarks.evidence TASK``.

Two real studies of a small task are launched: the joint search, and the paper's grid of k with as
many trainings. Both train what they found on the same fresh seeds and on all training data, and
measure it on the test set. An interrupted command is resumed by the same command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import exit_code, read_object
from kdecay_search.errors import KDecayError
from kdecay_search.statistics import Comparison, Sample, compare, describe, holm
from kdecay_search.study.comparators import FOUND, GIVEN, ORIGINAL
from kdecay_search.study.file import load

HERE = Path(__file__).parent
STUDIES = {
    "digits": HERE.parent / "studies" / "digits.toml",
    "text": HERE / "tasks" / "text.toml",
    "cifar16": HERE / "tasks" / "cifar16.toml",
    "image-folder": HERE.parent / "studies" / "image-folder.toml",
}
"""The tasks, by their study files."""
FEWEST_FOR_THREE_SEEDS = 24
"""Budget from which the grid runs every k on three seeds; below, on two."""
SMALLEST_P = 0.001
"""Smallest p value that a table states."""
GRID = "the paper's grid"
"""Name of what the grid found, beside the comparators of a confirmation."""


class EvidenceError(KDecayError):
    """A study did not end as it should."""


@dataclass(frozen=True)
class Row:
    """One schedule on the fresh seeds, and the found schedule against it."""

    schedule: str
    """One of the confirmation's comparators, or :data:`GRID`."""
    name: str
    """The schedule for people."""
    error: Sample
    """Mean and standard deviation of its errors on the test set."""
    against: Comparison | None
    """The found schedule against this one, with Holm's correction over all rows; None for the
    found schedule."""


def grid_settings(budget: int) -> list[str]:
    """Settings of a full grid k = 1, 2, … that takes at most this number of trainings."""
    seeds = 2 if budget < FEWEST_FOR_THREE_SEEDS else 3
    ks = ", ".join(str(k) for k in range(1, budget // seeds + 1))
    search = {"sampler": '"grid"', "ks": f"[{ks}]", "seeds": seeds, "max_terms": 1}
    settings = [f"search.{key}={value}" for key, value in search.items()]
    return [*settings, "pruning.enabled=false", "confirm.area_matched=false"]


def launch(file: Path, settings: Sequence[str], workers: int, out: Path) -> dict[str, Any]:
    """Run a study to its end, or read its result from a file that an earlier call has written.

    Args:
        file: The study file.
        settings: Values for ``--set``.
        workers: Number of workers.
        out: Where its result is kept.

    Raises:
        EvidenceError: It failed.
    """
    if not out.exists():
        options = [part for each in settings for part in ("--set", each)]
        options += ["--workers", str(workers), "--json"]
        command = [sys.executable, "-m", "kdecay_search", "launch", str(file), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise EvidenceError(f"{file}: kdecay launch ended with {done.returncode}")
        out.write_bytes(done.stdout)
    return read_object(out)


def rows_of(joint: Mapping[str, Any], grid: Mapping[str, Any]) -> list[Row]:
    """All schedules, the found one first.

    Args:
        joint: Result of the joint search, as ``launch --json`` prints it.
        grid: The same of the grid.
    """
    errors, names = {}, {}
    for row in joint["confirm"]["rows"]:
        errors[row["schedule"]] = _errors(row, joint)
        names[row["schedule"]] = row["name"]
    found = next((r for r in grid["confirm"]["rows"] if r["schedule"] == FOUND), None)
    if found:
        errors[GRID], names[GRID] = _errors(found, grid), f"k = {grid['confirm']['ks'][-1]:g}"
    else:  # it found k = 1 as the study file has it
        errors[GRID], names[GRID] = errors.get(GIVEN, errors[ORIGINAL]), "k = 1"
    others = holm({s: compare(e, errors[FOUND]) for s, e in errors.items() if s != FOUND})
    return [Row(s, names[s], describe(e.values()), others.get(s)) for s, e in errors.items()]


def _errors(row: Mapping[str, Any], study: Mapping[str, Any]) -> dict[int, float]:
    """Errors by seed; lower is better."""
    sign = -1.0 if study["metric"]["direction"] == "max" else 1.0
    return dict(zip(row["seeds"], [sign * value for value in row["errors"]], strict=True))


def as_markdown(rows: Sequence[Row], digits: int) -> str:
    """The table of docs/evidence.md."""
    lines = [
        "| schedule | test | n | found is better by | 95 % interval | p (Holm) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"{row.schedule}: {row.name}", f"{row.error.mean:.{digits}f}"]
        cells[1] += f" ± {row.error.sd:.{digits}f}"
        cells.append(str(row.error.n))
        compared = row.against
        if compared is None or compared.interval is None or compared.p_adjusted is None:
            cells += [""] * 3
        else:
            low, high = (f"{end:+.{digits}f}" for end in compared.interval)
            cells += [f"{compared.difference:+.{digits}f}", f"{low} to {high}"]
            p = compared.p_adjusted
            cells.append(f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).replace("-", "−").replace("| −−−", "| ---")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("task", choices=STUDIES, metavar="TASK", help=", ".join(STUDIES))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--seeds", type=int, default=10, help="fresh seeds (10)")
    parser.add_argument("--workers", type=int, default=2, help="workers (2)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for kdecay launch"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for an error, 130 for Ctrl-C."""
    given = _arguments(arguments)

    def run() -> None:
        file = STUDIES[given.task]
        common = [f"confirm.seeds={given.seeds}", *given.set]
        spec = load(file, common)
        given.out.mkdir(parents=True, exist_ok=True)
        kinds = {"joint": [], "grid": grid_settings(spec.search.budget)}
        results = {
            kind: launch(
                file,
                [f"name=evidence-{given.task}-{kind}", *common, *settings],
                given.workers,
                given.out / f"{given.task}-{kind}.json",
            )
            for kind, settings in kinds.items()
        }
        digits = 2 if spec.task.metric.unit == "%" else 4
        print(as_markdown(rows_of(results["joint"], results["grid"]), digits))

    return exit_code("benchmarks.evidence", run)


if __name__ == "__main__":
    sys.exit(main())
