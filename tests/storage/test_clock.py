"""Postgres's clock is set back: who is dead is still found out."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.file import load
from kdecay_search.study.trials import LOST, State
from tests.support.kdecay_command import simulated_study
from tests.support.wait import wait_for

GRACE_SECONDS = 0.6


def set_clock_back(storage: Storage, trial_id: int) -> None:
    """All that was written of a trial lies two hours ahead."""
    ahead = sqlalchemy.text(
        "UPDATE trial_heartbeats SET heartbeat = heartbeat + interval '2 hours' "
        "WHERE trial_id = :trial"
    )
    with storage.engine.begin() as connection:
        connection.execute(ahead, {"trial": trial_id})


def test_trial_of_a_dead_worker_is_failed_though_the_clock_is_set_back(
    storage: Storage, tmp_path: Path
) -> None:
    workers = {"workers__heartbeat_seconds": 0.2, "workers__grace_seconds": GRACE_SECONDS}
    reconcile.launch(storage, load(simulated_study(tmp_path, name="clock", **workers)))
    reconcile.reconcile(storage, "clock")
    dead, alive = (queue.claim(storage, "clock", worker) for worker in ("dead", "alive"))
    assert dead is not None
    assert alive is not None
    for claim in (dead, alive):
        set_clock_back(storage, claim.trial_id)
    seen_at = time.monotonic()

    def is_failed() -> bool:
        assert queue.beat(storage, alive).running
        queue.reap(storage, "clock", GRACE_SECONDS)
        trials = {trial.trial_id: trial for trial in records.read_trials(storage, "clock")}
        assert trials[alive.trial_id].state == State.RUNNING
        return trials[dead.trial_id].reason == LOST

    wait_for(is_failed, "reaping", seconds=30)
    assert time.monotonic() - seen_at >= GRACE_SECONDS
