"""A worker's threads, and what happens around it when processes die: with real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdecay_search.errors import KDecayError, StorageUnavailable
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.attributes import STOPPED
from kdecay_search.study.spec import WorkersSpec
from kdecay_search.study.trials import State, Trial
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost, Paused, Released
from kdecay_search.worker.heartbeat import Heartbeat, HeartbeatStopped
from kdecay_search.worker.loop import longest_pause
from kdecay_search.worker.reporter import Reporter
from kdecay_search.worker.train import describe_failure
from tests.support.kdecay_command import Kdecay, errors_by_run, simulated_study
from tests.support.queued_runs import queued, request
from tests.support.wait import wait_for

ENDS_IN_TIME = """
import sys, threading, time
from kdecay_search.worker.deadline import Deadline
stop = threading.Event()
with Deadline(stop, 0.2, lambda: print("released", flush=True)):
    stop.set()
    time.sleep(float(sys.argv[1]))
print("ended", flush=True)
"""
FEW_RUNS = {"search__k_max": 2.0, "search__k_cap": 2.0, "search__seeds": 1}


def epoch(number: int) -> Epoch:
    return Epoch(number, 1.0, 20.0, 10.0, 0.1)


class FakeDatabase:
    """Records the epochs that are reported, unless it is unavailable; its answers can be set."""

    def __init__(self) -> None:
        self.reported: list[int] = []
        self.unavailable = False
        self.answers: dict[int, type[Interruption]] = {}

    def report(self, epoch: Epoch) -> type[Interruption] | None:
        if self.unavailable:
            raise StorageUnavailable("unavailable")
        self.reported.append(epoch.number)
        return self.answers.get(epoch.number)


def test_reports_wait_while_the_database_is_unavailable_and_arrive_in_order() -> None:
    database = FakeDatabase()
    database.unavailable = True
    with Reporter(database.report) as reporter:
        for number in range(1, 6):
            reporter.put(epoch(number))
        assert not reporter.wait(0.3)
        assert database.reported == []
        database.unavailable = False
        assert reporter.wait(60)
    assert database.reported == [1, 2, 3, 4, 5]


def test_a_late_decision_to_pause_interrupts_and_later_epochs_still_count() -> None:
    database = FakeDatabase()
    database.answers[1] = Paused
    with Reporter(database.report) as reporter:
        reporter.put(epoch(1))
        reporter.put(epoch(2))
        assert reporter.wait(60)
        assert reporter.interruption is Paused
    assert database.reported == [1, 2]


def test_after_a_trial_is_lost_nothing_more_is_reported() -> None:
    database = FakeDatabase()
    database.answers[1] = Lost
    with Reporter(database.report) as reporter:
        reporter.put(epoch(1))
        wait_for(lambda: reporter.interruption is Lost, "the answer")
        reporter.put(epoch(2))
        assert reporter.wait(60)
    assert database.reported == [1]


def test_the_error_of_a_report_is_kept_for_the_training_to_raise() -> None:
    def refuse(epoch: Epoch) -> None:
        raise KDecayError("no right to write")

    with Reporter(refuse) as reporter:
        reporter.put(epoch(1))
        assert reporter.wait(60)
        assert isinstance(reporter.error, KDecayError)


def test_a_reporter_ends_though_the_database_stays_unavailable() -> None:
    database = FakeDatabase()
    database.unavailable = True
    with Reporter(database.report) as reporter:
        reporter.put(epoch(1))
    reporter._thread.join(60)
    assert not reporter._thread.is_alive()


class BrokenStorage:
    """A storage that raises an unexpected error."""

    @property
    def engine(self) -> Storage:
        raise MemoryError("no thread can live here")


def test_a_heartbeat_that_dies_reports_its_error(storage: Storage) -> None:
    queued(storage, "broken heartbeat", [request(0, 2.0)])
    claim = queue.claim(storage, "broken heartbeat", "me")
    assert claim is not None
    with Heartbeat(BrokenStorage(), claim, WorkersSpec(heartbeat_seconds=0.1)) as heartbeat:  # type: ignore[arg-type]
        wait_for(lambda: heartbeat.error, "the end of the thread")
    assert isinstance(heartbeat.error, HeartbeatStopped)
    assert "no thread can live here" in str(heartbeat.error)


def test_the_worker_of_a_stopped_study_releases_its_trial(storage: Storage) -> None:
    study_id = queued(storage, "halted", [request(0, 2.0)])
    claim = queue.claim(storage, "halted", "me")
    assert claim is not None
    with Heartbeat(storage, claim, WorkersSpec(heartbeat_seconds=0.1)) as heartbeat:
        records.write_attributes(storage, {study_id: {STOPPED: True}})
        wait_for(lambda: heartbeat.interruption, "the request to stop")
    assert heartbeat.interruption is Released


@pytest.mark.parametrize(("seconds", "output"), [("60", ["released"]), ("0", ["ended"])])
def test_a_training_that_does_not_poll_is_ended_in_time(seconds: str, output: list[str]) -> None:
    command = [sys.executable, "-c", ENDS_IN_TIME, seconds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split("\n")[:-1] == output


def test_full_memory_is_described_with_a_hint_and_other_errors_as_they_are() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    reason, message = describe_failure(caught.value, "cpu")
    assert reason == "memory"
    assert "lower the batch size" in message
    assert describe_failure(torch.OutOfMemoryError("CUDA out of memory."), "cuda:0")[0] == "memory"
    assert describe_failure(ValueError("no"), "cpu") == ("error", "ValueError: no")


@pytest.mark.parametrize(("idle", "pause"), [(0, 2), (40, 2), (100, 5), (300, 15), (1e6, 15)])
def test_a_worker_looks_for_work_less_often_the_longer_it_has_had_none(
    idle: float, pause: float
) -> None:
    assert longest_pause(idle) == pytest.approx(pause)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_the_signals_before_a_time_limit_drain_a_worker(
    kdecay: Kdecay, tmp_path: Path, storage: Storage, number: signal.Signals
) -> None:
    name = f"warned-{number.name}"
    file = simulated_study(tmp_path, name=name, task__epoch_seconds=0.5, task__epochs=100)
    kdecay.run("launch", file, "--detach", "--workers", "0")
    worker = kdecay.fork("worker", "--study", name)
    wait_for(lambda: _states(storage, name)[State.RUNNING], "a claim")
    worker.send_signal(number)
    _, log = worker.communicate(timeout=100)
    assert worker.returncode == 0, log
    assert not _states(storage, name)[State.RUNNING]


def test_launch_restarts_a_local_worker_that_was_killed(
    kdecay: Kdecay, tmp_path: Path, storage: Storage
) -> None:
    file = simulated_study(tmp_path, name="restarted", task__epoch_seconds=0.1, **FEW_RUNS)
    launch = kdecay.fork("launch", file, "--workers", "1", "--json")
    wait_for(lambda: _states(storage, "restarted")[State.RUNNING], "a claim")
    held = next(t for t in records.read_trials(storage, "restarted") if t.worker)
    os.kill(process_of(held), signal.SIGKILL)
    out, err = launch.communicate(timeout=200)
    assert launch.returncode == 0, err
    assert '"state": "done"' in out
    lost = [t for t in records.read_trials(storage, "restarted") if t.state == State.FAILED]
    assert [(t.trial_id, t.reason, t.message) for t in lost] == [
        (held.trial_id, "lost", "its worker was killed")
    ]


@pytest.fixture
def own_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kdecay-own-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_an_embedded_server_that_is_killed_is_restarted(
    own_home: Path, kdecay: Kdecay, tmp_path: Path
) -> None:
    calm = simulated_study(tmp_path, name="calm", **FEW_RUNS)
    expected = kdecay.json("launch", calm, "--workers", "1")
    file = simulated_study(tmp_path, name="shaken", task__epoch_seconds=0.3, **FEW_RUNS)
    own = Kdecay(own_home)
    launch = own.fork("launch", file, "--workers", "1", "--json")
    log = own_home / "logs" / "shaken" / "worker-0.log"
    wait_for(lambda: log.exists() and re.search("seed 0: [0-9]", log.read_text()), "a first run")
    server = int((own_home / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(server, signal.SIGKILL)
    out, err = launch.communicate(timeout=200)
    assert launch.returncode == 0, err
    assert errors_by_run(json.loads(out)) == errors_by_run(expected)


def process_of(trial: Trial) -> int:
    """The process that holds a trial, by the name of its worker."""
    return int((trial.worker or "").split(":")[1].partition("-")[0])


def _states(storage: Storage, name: str) -> dict[State, int]:
    trials = records.read_trials(storage, name)
    return {state: sum(t.state == state for t in trials) for state in State}


def test_the_deadline_of_a_run_that_ended_does_not_fire() -> None:
    from kdecay_search.worker.deadline import Deadline

    stop, released = threading.Event(), threading.Event()
    with Deadline(stop, 0.0, released.set) as deadline:
        pass
    stop.set()
    deadline._thread.join(60)
    assert not released.is_set()
