"""Measure what a run of own code costs beside its work: ``python -m benchmarks.own_runs``.

A worker trains a study of a Python function that imports some libraries and then only sleeps, once
with runs that are forked (``task.fork``) and once with runs that start Python anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from kdecay_search import __version__, reconcile
from kdecay_search.storage import Storage, embedded_url
from kdecay_search.storage.queue import Claim
from kdecay_search.study.search_spec import SearchSpec
from kdecay_search.study.spec import PruningSpec, StudySpec
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.training.device_inventory import cpu_info
from kdecay_search.user_code.allowance import Allowance
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext

EPOCHS = 2
CODE = """
{imports}
import time

def train(run):
    for epoch in run.remaining_epochs():
        time.sleep({seconds})
        run.report(epoch, 40.0 / epoch, 40.0 / epoch)
"""


@dataclass(frozen=True)
class Row:
    """What a worker's runs of one function cost beside their work, in seconds."""

    libraries: str
    """What the function's module imports."""
    forked: bool
    """Whether the runs may be forked."""
    runs: int
    """Number of runs."""
    first: float
    """Of the first run, with what the worker itself needs to begin."""
    later: float
    """The median of the others."""
    mean: float
    """The mean of all."""


class _TimingWorker(Worker):
    ended: list[float]
    """When each trial ended."""

    def trial_ended(self, claim: Claim, outcome: str) -> None:
        super().trial_ended(claim, outcome)
        if outcome.startswith("failed"):
            raise RuntimeError(f"a run has {outcome}")
        self.ended.append(time.perf_counter())


def measure(storage: Storage, libraries: str, forked: bool, runs: int, seconds: float) -> Row:
    """Let a worker train a study of a function; the working folder gets its module.

    Args:
        storage: Where the study is created.
        libraries: Names of what to import, with commas; may be empty.
        forked: Whether the runs may be forked.
        runs: Number of runs.
        seconds: How long a run sleeps.
    """
    module = f"mine_{libraries.replace(',', '_')}"
    imports = f"import {libraries}" if libraries else ""
    Path(f"{module}.py").write_text(CODE.format(imports=imports, seconds=seconds / EPOCHS))
    ks = [round(1.0 + 4.0 * number / (runs - 1), 9) for number in range(runs)]
    spec = StudySpec(
        name=f"{module}-{'forked' if forked else 'anew'}",
        task=PythonTask(kind="python", epochs=EPOCHS, entry=f"{module}:train", fork=forked),
        search=SearchSpec(ks=ks, k_cap=5.0, seeds=1, max_terms=1),
        pruning=PruningSpec(enabled=False),
    )
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, spec.name)
    context = WorkerContext("cpu", CheckpointFolder(Path("kept").resolve()), threading.Event())
    worker = _TimingWorker(storage, Options(spec.name, True, Allowance.of(spec)), context)
    worker.ended = [time.perf_counter()]
    worker.serve()
    costs = [end - begin - seconds for begin, end in pairwise(worker.ended)]
    return Row(libraries, forked, len(costs), costs[0], median(costs[1:]), sum(costs) / len(costs))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_runs", description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="of each study; default: 40")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a run; default: 0.2")
    what = "what the code imports, repeatable; default: nothing, and torch"
    parser.add_argument("--libraries", action="append", metavar="A,B", help=what)
    parser.add_argument("--forked", action="store_true", help="measure forked runs only")
    parser.add_argument("--json", action="store_true", help="JSON instead of lines")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one line each."""
    given = _arguments(arguments)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with TemporaryDirectory(prefix="kdecay-bench-") as folder, chdir(folder):
        os.environ["KDECAY_HOME"] = folder
        storage = Storage(embedded_url())
        rows = [
            measure(storage, libraries, forked, given.runs, given.seconds)
            for libraries in given.libraries or ["", "torch"]
            for forked in ([True] if given.forked else [True, False])
        ]
        storage.close()
    if given.json:
        environment = {
            "machine": platform.machine(),
            "cpu": cpu_info(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "kdecay-search": __version__,
        }
        shown = {"rows": [asdict(row) for row in rows], "environment": environment}
        print(json.dumps(shown, default=str))
        return 0
    for row in rows:
        print(
            f"{row.libraries or 'no library':12} {'forked' if row.forked else 'anew':6} "
            f"{row.runs} runs: {row.mean:.3f} s a run beside its work; the first "
            f"{row.first:.2f} s, the others {row.later:.3f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
