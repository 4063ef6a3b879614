"""Measure how long the report of a large study takes: ``python -m benchmarks.report``.

Writes a finished study into an embedded Postgres of its own, and its report into a file, each time
over a new connection that has not read the study before.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.history import machine, versions
from benchmarks.past import full_grid, write
from kdecay_search.errors import KDecayError
from kdecay_search.report import page
from kdecay_search.storage import Storage, embedded_url


@dataclass(frozen=True)
class Measured:
    """What the reports of one study took."""

    trials: int
    """Number of trials of the study."""
    epochs: int
    """Number of epochs of a trial."""
    seconds: list[float]
    """Time of each report, from opening a connection to the written file."""
    megabytes: float
    """Size of the file."""
    points: int
    """Number of points in all figures."""

    @property
    def median_seconds(self) -> float:
        """Median of the reports' times."""
        return statistics.median(self.seconds)


def measure(storage: Storage, trials: int, epochs: int, repeats: int, folder: Path) -> Measured:
    """Write a study once, and its report several times.

    Args:
        storage: Where the study is written.
        trials: Number of its trials, a multiple of 20.
        epochs: Number of epochs of a trial.
        repeats: Number of reports.
        folder: Where the reports are written.
    """
    spec, past = full_grid(trials, 0, epochs)
    write(storage, spec, past)
    file = folder / "report.html"
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        fresh = Storage(storage.secret_url)
        page.write(file, page.study_report(fresh, spec.name, datetime.now(UTC)))
        seconds.append(time.perf_counter() - started)
        fresh.close()
    text = file.read_text()
    size = file.stat().st_size / 1e6
    return Measured(trials, epochs, seconds, size, points(text))


def points(text: str) -> int:
    """Number of points in the figures of a page: the x values of all traces."""
    _, _, rest = text.partition('id="figures">')
    figures = json.loads(rest.partition("</script>")[0])
    return sum(len(trace["x"]) for figure in figures for trace in figure["data"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument(
        "--trials", type=int, default=2000, help="trials, a multiple of 20; default: 2000"
    )
    parser.add_argument("--epochs", type=int, default=200, help="epochs per trial; default: 200")
    parser.add_argument("--repeats", type=int, default=5, help="number of reports; default: 5")
    given = parser.parse_args(arguments)
    folder = tempfile.mkdtemp(prefix="kdecay-bench-")  # short, since it holds a socket
    os.environ["KDECAY_HOME"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server has ended
    try:
        storage = Storage(embedded_url())
        found = measure(storage, given.trials, given.epochs, given.repeats, Path(folder))
    except KDecayError as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 2
    measured = asdict(found) | {"median_seconds": found.median_seconds}
    print(json.dumps(measured | {"machine": machine(), "versions": versions()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
