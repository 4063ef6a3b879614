"""Postgres's clock is set back: who is dead is still found out."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.file import load
from kdecay_search.study.trials import LOST, State
from tests.chaos import clocks
from tests.support.kdecay_command import simulated_study
from tests.support.postgres_servers import PASSWORD, password_server
from tests.support.wait import wait_for

GRACE_SECONDS = 0.6
WORKERS = {"workers__heartbeat_seconds": 0.2, "workers__grace_seconds": GRACE_SECONDS}


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
    reconcile.launch(storage, load(simulated_study(tmp_path, name="clock", **WORKERS)))
    reconcile.reconcile(storage, "clock")
    dead, alive = claimed(storage)
    for claim in (dead, alive):
        set_clock_back(storage, claim.trial_id)
    assert_that_the_dead_one_is_failed(storage, dead, alive)


@pytest.mark.skipif(clocks.unavailable_reason() is not None, reason="no clock can step here")
def test_so_it_is_by_a_server_that_started_before_its_clock_is_set_back(tmp_path: Path) -> None:
    """The period begins anew when the server starts, and that moment lies ahead, too."""
    with TemporaryDirectory(prefix="kdecay-clock-") as folder:
        Path(folder).chmod(0o755)  # the server has a user of its own
        clock = clocks.Clocks(Path(folder) / "clocks").new("server")
        clock.step(7200)
        with password_server(environment=clock.environment) as server:
            storage = Storage(server.url(PASSWORD))
            reconcile.launch(storage, load(simulated_study(tmp_path, name="clock", **WORKERS)))
            reconcile.reconcile(storage, "clock")
            dead, alive = claimed(storage)
            clock.step(-7200)
            assert_that_the_dead_one_is_failed(storage, dead, alive)
            storage.close()


def claimed(storage: Storage) -> list[queue.Claim]:
    """Two trials, of a worker that is dead and of one that lives."""
    claims = [queue.claim(storage, "clock", worker) for worker in ("dead", "alive")]
    return [claim for claim in claims if claim is not None]


def assert_that_the_dead_one_is_failed(
    storage: Storage, dead: queue.Claim, alive: queue.Claim
) -> None:
    seen_at = time.monotonic()

    def is_failed() -> bool:
        assert queue.beat(storage, alive).running
        queue.reap(storage, "clock", GRACE_SECONDS)
        trials = {trial.trial_id: trial for trial in records.read_trials(storage, "clock")}
        assert trials[alive.trial_id].state == State.RUNNING
        return trials[dead.trial_id].reason == LOST

    wait_for(is_failed, "reaping")
    assert time.monotonic() - seen_at >= GRACE_SECONDS
