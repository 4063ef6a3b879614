"""How many processes a device is given: by its throughput, measured on real workers."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kdecay_search import reconcile
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.file import load
from kdecay_search.study.trials import MEMORY
from kdecay_search.worker.autoscaling import Autoscaler, autoscale
from kdecay_search.worker.local_workers import LocalWorkers, WorkerProcess
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.queued_runs import queued, request


def settled_count(throughput: Callable[[int], float], limit: int = 16) -> int:
    scaler = Autoscaler(limit)
    for _ in range(50):
        scaler.observe(throughput(scaler.count))
    assert scaler.settled
    return scaler.count


@pytest.mark.parametrize("fills", [1, 2, 3, 7])
def test_scales_up_to_what_fills_the_device(fills: int) -> None:
    assert settled_count(lambda count: float(min(count, fills))) == fills


def test_a_gain_of_a_few_percent_is_not_worth_a_process() -> None:
    assert settled_count(lambda count: 1 + 0.05 * count) == 1


def test_never_scales_beyond_the_limit() -> None:
    assert settled_count(float, limit=5) == 5


def test_full_memory_removes_one_process_and_ends_the_scaling() -> None:
    scaler = Autoscaler()
    scaler.observe(1.0)
    scaler.observe(2.0)
    assert scaler.count == 3
    scaler.scale_down()
    assert (scaler.count, scaler.settled) == (2, True)
    for _ in range(3):
        scaler.scale_down()
    assert scaler.count == 1


def test_real_workers_are_added_while_the_database_counts_more_epochs(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    """Epochs that only sleep are faster with every process, so workers are added to the end."""
    file = simulated_study(
        tmp_path,
        name="scales",
        task__epochs=40,
        task__epoch_seconds=0.1,
        search__k_step=0.5,
        search__seeds=1,
    )
    spec = load(file)
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "scales")
    workers, notices = LocalWorkers(), []
    environment = kdecay.environment

    def start(device: str) -> WorkerProcess:
        arguments = ["--study", "scales", "--drain", "--device", device]
        return workers.start(arguments, environment, tmp_path / "worker.log")

    devices = autoscale(storage, workers, ["cpu"], start, threading.Event(), notices.append, 1.5)
    assert workers.wait(60)
    assert workers.failure() is None
    assert notices[:2] == ["processes: 1 on cpu", "processes: 2 on cpu"]
    assert len(workers.processes) >= 2
    assert devices[0].scaler.count <= len(workers.processes)
    snapshot = reconcile.reconcile(storage, "scales")
    assert snapshot is not None
    assert snapshot.state == "done"


def test_progress_is_read_of_the_named_studies_only(storage: Storage) -> None:
    for name, memory in (("progress-a", True), ("progress-b", False)):
        queued(storage, name, [request(0, k=1.0), request(1, k=2.0)])
        claims = [queue.claim(storage, name, "host:1-abcdefgh:cpu") for _ in range(2)]
        for claim in claims:
            assert claim is not None
            queue.report(storage, claim, 1, 50.0)
            if memory:
                queue.fail(storage, claim.trial_id, MEMORY, "full")
    workers = ["host:1-abcdefgh:cpu", "host:2-abcdefgh:cpu"]
    read = functools.partial(records.read_progress, storage, workers)
    assert read(["progress-a"]) == {workers[0]: (2, 2)}
    assert read(["progress-b"]) == {workers[0]: (2, 0)}
    assert read(["progress-a", "progress-b"]) == {workers[0]: (4, 2)}
    assert read([]) == {}


def test_an_invalid_number_of_processes_is_refused_in_one_line(kdecay: Kdecay) -> None:
    for text in ("0", "many", "257", "-1"):
        stderr = kdecay.run("worker", "--per-device", text, code=2).stderr
        assert stderr == f"kdecay: --per-device {text}: must be 1 to 256, or auto\n"
