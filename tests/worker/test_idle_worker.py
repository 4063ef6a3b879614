"""An idle worker costs next to nothing, whatever it waits for."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kdecay_search import reconcile
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.file import load
from kdecay_search.study.trials import State
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.wait import wait_for

SECONDS = 20.0
CORE_SHARE = 0.02


def cpu_share(process: subprocess.Popen[str]) -> float:
    """Share of a core that the process and its children use."""

    def spent() -> float:
        times = psutil.Process(process.pid).cpu_times()
        return times.user + times.system + times.children_user + times.children_system

    before = spent()
    time.sleep(SECONDS)
    return (spent() - before) / SECONDS


def done(storage: Storage, name: str) -> bool:
    return read_snapshot(storage, name).state == "done"


def all_held(storage: Storage, name: str) -> bool:
    """Let somebody else hold the study's last runs, which take long."""
    while queue.claim(storage, name, "somebody:1:cpu") is not None:
        continue
    states = {trial.state for trial in records.read_trials(storage, name)}
    return State.RUNNING in states


@pytest.mark.parametrize(
    ("name", "settle", "trained"), [("idle-done", done, 10**6), ("idle-waiting", all_held, 60)]
)
def test_a_worker_that_waits_uses_little_of_a_core(
    name: str,
    settle: Callable[[Storage, str], bool],
    trained: int,
    kdecay: Kdecay,
    storage: Storage,
    tmp_path: Path,
) -> None:
    file = simulated_study(
        tmp_path, name=name, search__k_step=0.05, search__seeds=3, workers__grace_seconds=600.0
    )
    spec = load(file)
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, name)
    worker = kdecay.start("worker", "--study", name, "--device", "cpu")
    try:
        ended = {State.COMPLETE, State.PRUNED}

        def is_far() -> bool:
            trials = records.read_trials(storage, name)
            return sum(t.state in ended for t in trials) >= trained or done(storage, name)

        wait_for(is_far, "enough of the study")
        wait_for(lambda: settle(storage, name), "the end of the work")
        time.sleep(5)
        assert cpu_share(worker) < CORE_SHARE
    finally:
        worker.terminate()
        worker.communicate()


def test_a_worker_of_all_studies_whose_runs_others_hold_uses_little_of_a_core(
    alone: Kdecay, tmp_path: Path
) -> None:
    assert alone.url is not None
    storage = Storage(alone.url)
    for number in range(40):
        name = f"held-{number}"
        spec = load(simulated_study(tmp_path, name=name, workers__grace_seconds=600.0))
        reconcile.launch(storage, spec)
        reconcile.reconcile(storage, name)
        assert all_held(storage, name)
    worker = alone.start("worker", "--device", "cpu")
    try:
        time.sleep(10)  # it has started, and looked around
        assert cpu_share(worker) < CORE_SHARE
        name = "held-39"
        [first, *_] = records.read_trials(storage, name)
        queue.fail(storage, first.trial_id, "error", "somebody gives it up")
        wait_for(lambda: len(records.read_trials(storage, name)) > len([first, *_]), "a retry", 130)
    finally:
        worker.terminate()
        worker.communicate()
    storage.close()
