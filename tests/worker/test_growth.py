"""How many processes a device is given: by its throughput, measured on real workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kdecay_search import reconcile
from kdecay_search.storage import Storage
from kdecay_search.study.file import load
from kdecay_search.worker.growth import Growth, grow
from kdecay_search.worker.local_workers import LocalWorkers, WorkerProcess
from tests.support.kdecay_command import Kdecay, simulated_study


def settled(rate_of: Callable[[int], float], most: int = 16) -> int:
    growth = Growth(most)
    for _ in range(50):
        growth.observe(rate_of(growth.count))
    assert growth.settled
    return growth.count


@pytest.mark.parametrize("fills", [1, 2, 3, 7])
def test_it_grows_to_what_fills_the_device(fills: int) -> None:
    assert settled(lambda count: float(min(count, fills))) == fills


def test_a_gain_of_a_few_percent_is_not_worth_a_process() -> None:
    assert settled(lambda count: 1 + 0.05 * count) == 1


def test_it_never_grows_beyond_the_most() -> None:
    assert settled(float, most=5) == 5


def test_full_memory_takes_one_back_and_ends_the_growth() -> None:
    growth = Growth()
    growth.observe(1.0)
    growth.observe(2.0)
    assert growth.count == 3
    growth.shrink()
    assert (growth.count, growth.settled) == (2, True)
    for _ in range(3):
        growth.shrink()
    assert growth.count == 1


def test_real_workers_are_added_while_the_database_counts_more_epochs(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    """Epochs that only sleep are faster with every process: it grows until the work is done."""
    file = simulated_study(
        tmp_path, name="grows", task__epochs=40, task__epoch_seconds=0.1, search__k_step=0.5
    )
    spec = load(file)
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "grows")
    workers, said = LocalWorkers(), []
    environment = kdecay.environment

    def start(device: str) -> WorkerProcess:
        arguments = ["--study", "grows", "--drain", "--device", device]
        return workers.start(arguments, environment, tmp_path / "worker.log")

    devices = grow(storage, workers, ["cpu"], start, threading.Event(), said.append, 1.5)
    assert workers.wait(60)
    assert workers.failure() is None
    assert said[:2] == ["processes: 1 on cpu", "processes: 2 on cpu"]
    assert len(workers.processes) >= 2
    assert devices[0].growth.count <= len(workers.processes)
    snapshot = reconcile.reconcile(storage, "grows")
    assert snapshot is not None
    assert snapshot.state == "done"


def test_a_number_of_processes_that_is_none_is_one_line(kdecay: Kdecay) -> None:
    for text in ("0", "many", "257", "-1"):
        said = kdecay.run("worker", "--per-device", text, code=2).stderr
        assert said == f"kdecay: --per-device {text}: must be 1 to 256, or auto\n"
