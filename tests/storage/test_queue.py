"""The queue in Optuna's tables: on a real Postgres."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

import optuna
import pytest
import sqlalchemy

from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.attributes import PAUSED
from kdecay_search.study.trials import RunKey, RunRequest, State
from tests.support.queued_runs import queued, request

CLAIMER = """
import sys
from kdecay_search.storage import Storage, queue
storage = Storage(sys.argv[1])
while (claim := queue.claim(storage, sys.argv[2], "test")) is not None:
    print(claim.trial_id, claim.request.key.candidate)
"""


def test_every_run_is_claimed_exactly_once(storage: Storage) -> None:
    queued(storage, "claims", [request(i, 1.0 + i / 10) for i in range(40)])
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, storage.secret_url, "claims"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    claimed = [line for process in claimers for line in process.communicate()[0].splitlines()]
    assert sorted(int(line.split()[1]) for line in claimed) == list(range(40))
    assert {t.state for t in records.read_trials(storage, "claims")} == {State.RUNNING}


def test_enqueue_is_all_or_none(storage: Storage) -> None:
    """What comes next is decided when all have ended: half of them would be another batch."""
    broken = request(2, cast(float, {3.0}))
    with pytest.raises(TypeError, match="not JSON serializable"):
        queued(storage, "together", [request(1, 2.0), broken])
    assert records.read_trials(storage, "together") == []
    queued(storage, "together", [request(1, 2.0), request(2, 3.0)])
    assert [t.key.candidate for t in records.read_trials(storage, "together")] == [1, 2]


def test_runs_are_numbered_in_their_order_and_keep_their_own_requests(storage: Storage) -> None:
    first = [request(candidate, 1.0 + candidate) for candidate in (3, 1, 4)]
    second = [request(candidate, 1.0 + candidate) for candidate in (0, 2)]
    study_id = queued(storage, "numbered", first)
    queue.enqueue(storage, study_id, second)
    trials = records.read_trials(storage, "numbered")
    assert [trial.number for trial in trials] == list(range(5))
    assert [trial.request for trial in trials] == first + second
    assert [trial.trial_id for trial in trials] == sorted(trial.trial_id for trial in trials)


def test_skipped_run_says_so_wherever_it_is_shown(storage: Storage) -> None:
    study_id = queued(storage, "skipped", [request(0, 1.5)])
    levels = replace(request(1, 2.0), lr_max=0.1, levels=(0.1, 0.2))
    queue.skip(storage, study_id, [levels, request(2, 3.0)])
    _, *shown = storage.rdb.get_all_trials(study_id)
    assert [trial.state for trial in shown] == [optuna.trial.TrialState.PRUNED] * 2
    assert [trial.user_attrs["skipped"] for trial in shown] == [True, True]
    assert [trial.params for trial in shown] == [{"k": 2.0, "lr_max": 0.1}, {"k": 3.0}]
    assert all(trial.datetime_complete for trial in shown)
    waiting, *skipped = records.read_trials(storage, "skipped")
    assert [trial.request for trial in skipped] == [levels, request(2, 3.0)]
    assert [(trial.state, trial.epochs) for trial in skipped] == [(State.PRUNED, 0)] * 2
    assert [trial.lr_max for trial in skipped] == [0.1, None]
    claim = queue.claim(storage, "skipped", "me")
    assert claim is not None
    assert claim.trial_id == waiting.trial_id
    assert queue.claim(storage, "skipped", "me") is None


def test_request_is_read_as_it_was_queued(storage: Storage) -> None:
    sent = RunRequest(RunKey(2, 3, 1), (1.5,), 2.25, (2.0, 5.0), protected=True)
    study_id = records.create_stage(storage, "requests", 2)
    queue.enqueue(storage, study_id, [sent])
    assert [trial.request for trial in records.read_trials(storage, "requests")] == [sent]


def test_known_candidates_are_claimed_before_the_sampler_s(
    storage: Storage,
) -> None:
    queued(storage, "order", [request(0), request(1), request(2, 3.0), request(3, 2.0)])
    claims = [queue.claim(storage, "order", "me") for _ in range(5)]
    assert [c.request.key.candidate if c else None for c in claims] == [2, 3, 0, 1, None]


def test_trials_of_the_same_stage_and_seed_are_claimed_alike(storage: Storage) -> None:
    seeds = (1, 0, 1, 1, 1, 1)
    runs = [RunRequest(RunKey(1, index, s), (), 2.0, (1.0, 5.0)) for index, s in enumerate(seeds)]
    study_id = queued(storage, "alike", runs)
    second = records.create_stage(storage, "alike", 2)
    queue.enqueue(storage, second, [RunRequest(RunKey(2, 0, 1), (2.0,), 3.0, (2.0, 5.0))])
    queue.note(storage, records.read_trials(storage, "alike")[3].trial_id, {PAUSED: 2})
    strange = {"seed": 1, "candidate": "none"}
    optuna.load_study(study_name="alike/k1", storage=storage.optuna).enqueue_trial({}, strange)
    first = queue.claim(storage, "alike", "me")
    assert first is not None
    assert first.study_id == study_id
    claims = [c for most in (2, 9, 9) for c in queue.claim_alike(storage, first, most)]
    assert [claim.request.key.candidate for claim in claims] == [2, 4, 5]
    assert {(claim.worker, claim.study) for claim in claims} == {("me", "alike")}
    assert queue.reap_process(storage, "alike", "me") == 4


def test_silent_trial_is_reaped_by_the_database_s_clock(
    storage: Storage,
) -> None:
    queued(storage, "silent", [request(0, 2.0), request(1, 3.0), request(2, 4.0)])
    silent, beating = queue.claim(storage, "silent", "me"), queue.claim(storage, "silent", "me")
    assert silent is not None
    assert beating is not None
    _age_heartbeat(storage, silent.trial_id, seconds=9999)
    grace = _uptime(storage) / 2
    assert queue.beat(storage, beating).running
    assert queue.reap(storage, "silent", grace) == 1
    assert queue.beat(storage, beating).running
    assert not queue.beat(storage, silent).running
    states = {t.key.candidate: (t.state, t.reason) for t in records.read_trials(storage, "silent")}
    assert states == {
        0: (State.FAILED, "lost"),
        1: (State.RUNNING, None),
        2: (State.WAITING, None),
    }


def test_silence_while_the_server_was_down_does_not_count(storage: Storage) -> None:
    queued(storage, "down", [request(0, 2.0)])
    claim = queue.claim(storage, "down", "me")
    assert claim is not None
    _age_heartbeat(storage, claim.trial_id, seconds=9999)
    assert queue.reap(storage, "down", grace_seconds=_uptime(storage) + 60) == 0
    assert queue.beat(storage, claim).running


def test_reap_process_fails_its_trials_and_no_others(storage: Storage) -> None:
    queued(storage, "dead", [request(i, 2.0 + i) for i in range(3)])
    for worker in ("host:12:cuda:0", "host:123:cuda:0", 'h"ost:12:cpu'):
        assert queue.claim(storage, "dead", worker) is not None
    assert queue.reap_process(storage, "dead", "host:12:") == 1
    assert queue.reap_process(storage, "dead", 'h"ost:12:') == 1
    reasons = [trial.reason for trial in records.read_trials(storage, "dead")]
    assert reasons == ["lost", None, "lost"]


def test_repeated_release_leaves_the_next_holder_alone(
    storage: Storage,
) -> None:
    queued(storage, "repeated", [request(0, 2.0)])
    first = queue.claim(storage, "repeated", "me")
    assert first is not None
    queue.release(storage, first)
    second = queue.claim(storage, "repeated", "other")
    queue.release(storage, first)  # as after a connection that dropped behind the commit
    assert second is not None
    assert queue.beat(storage, second).running


def test_reaped_worker_cannot_change_the_record(storage: Storage) -> None:
    queued(storage, "late", [request(0, 2.0)])
    claim = queue.claim(storage, "late", "me")
    assert claim is not None
    queue.fail(storage, claim.trial_id, "lost", "silent")
    queue.note(storage, claim.trial_id, {"averaged_error": [1.0]})
    queue.complete(storage, claim.trial_id, 5.0)
    queue.release(storage, claim)
    (trial,) = records.read_trials(storage, "late")
    assert (trial.state, trial.reason, trial.error) == (State.FAILED, "lost", None)


def test_released_trial_keeps_its_number(storage: Storage) -> None:
    queued(storage, "again", [request(0, 2.0)])
    first = queue.claim(storage, "again", "me")
    assert first is not None
    queue.release(storage, first)
    again = queue.claim(storage, "again", "other")
    assert again == replace(first, worker="other")


def test_times_are_utc_in_every_time_zone(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = queued(storage, "zones", [request(0, 2.0)])
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    before = datetime.now().astimezone()
    claim = queue.claim(storage, "zones", "me")
    assert claim is not None
    queue.complete(storage, claim.trial_id, 5.0)
    [trial] = storage.optuna.get_all_trials(study_id)
    monkeypatch.undo()
    time.tzset()
    for moment in (trial.datetime_start, trial.datetime_complete):
        assert moment is not None
        assert abs(moment.replace(tzinfo=before.tzinfo) - before) < timedelta(minutes=10)


def _uptime(storage: Storage) -> float:
    """Seconds since the server started."""
    statement = "SELECT extract(epoch FROM now() - pg_postmaster_start_time())"
    with storage.engine.connect() as connection:
        return float(connection.scalar(sqlalchemy.text(statement)))


def _age_heartbeat(storage: Storage, trial_id: int, seconds: float) -> None:
    statement = """
        UPDATE trial_heartbeats SET heartbeat = heartbeat - make_interval(secs => :seconds)
        WHERE trial_id = :trial_id
    """
    with storage.engine.begin() as connection:
        values = {"seconds": seconds, "trial_id": trial_id}
        connection.execute(sqlalchemy.text(statement), values)
