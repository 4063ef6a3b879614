"""The queue in Optuna's tables, the study's lock, and connecting: on a real Postgres."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import optuna
import pytest
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.errors import StorageError, StorageUnavailable
from kdecay_search.storage import Storage, connect, queue, records
from kdecay_search.storage.connect import parse_url
from kdecay_search.study.file import load
from kdecay_search.study.trials import RunKey, RunRequest, State
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.postgres_servers import PASSWORD, Server, password_server
from tests.support.queued_runs import queued, request
from tests.support.wait import wait_for

CLAIMER = """
import sys
from kdecay_search.storage import Storage, queue
storage = Storage(sys.argv[1])
while (claim := queue.claim(storage, sys.argv[2], "test")) is not None:
    print(claim.trial_id, claim.request.key.candidate)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with password_server() as started:
        yield started


def test_four_processes_claim_each_of_forty_runs_exactly_once(storage: Storage) -> None:
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


def test_runs_that_belong_together_are_queued_all_or_none(storage: Storage) -> None:
    """What comes after them is decided once all have ended: half of them would be another race."""
    broken = request(2, cast(float, {3.0}))
    with pytest.raises(TypeError, match="not JSON serializable"):
        queued(storage, "together", [request(1, 2.0), broken])
    assert records.read_trials(storage, "together") == []
    queued(storage, "together", [request(1, 2.0), request(2, 3.0)])
    assert [t.key.candidate for t in records.read_trials(storage, "together")] == [1, 2]


def test_a_token_comes_back_from_the_storage_as_it_was_queued(storage: Storage) -> None:
    sent = RunRequest(RunKey(2, 3, 1), (1.5,), 2.25, (2.0, 5.0), protected=True)
    study_id = records.create_stage(storage, "requests", 2)
    queue.enqueue(storage, study_id, [sent])
    assert [trial.request for trial in records.read_trials(storage, "requests")] == [sent]


def test_runs_whose_k_is_known_are_claimed_before_those_left_to_the_sampler(
    storage: Storage,
) -> None:
    queued(storage, "order", [request(0), request(1), request(2, 3.0), request(3, 2.0)])
    claims = [queue.claim(storage, "order", "me") for _ in range(5)]
    assert [c.request.key.candidate if c else None for c in claims] == [2, 3, 0, 1, None]


def test_a_claimed_trial_that_falls_silent_is_reaped_by_the_database_s_clock(
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


def test_nobody_is_reaped_for_a_silence_in_which_the_server_was_down(storage: Storage) -> None:
    queued(storage, "down", [request(0, 2.0)])
    claim = queue.claim(storage, "down", "me")
    assert claim is not None
    _age_heartbeat(storage, claim.trial_id, seconds=9999)
    assert queue.reap(storage, "down", grace_seconds=_uptime(storage) + 60) == 0
    assert queue.beat(storage, claim).running


def test_what_a_killed_process_held_is_reaped_at_once_and_nothing_else(storage: Storage) -> None:
    queued(storage, "dead", [request(i, 2.0 + i) for i in range(3)])
    for worker in ("host:12:cuda:0", "host:123:cuda:0", 'h"ost:12:cpu'):
        assert queue.claim(storage, "dead", worker) is not None
    assert queue.reap_process(storage, "dead", "host:12:") == 1
    assert queue.reap_process(storage, "dead", 'h"ost:12:') == 1
    reasons = [trial.reason for trial in records.read_trials(storage, "dead")]
    assert reasons == ["lost", None, "lost"]


def test_a_release_that_is_repeated_does_not_take_the_trial_from_its_next_holder(
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


def test_a_holder_of_the_lock_that_falls_silent_loses_it_and_is_told(storage: Storage) -> None:
    other = Storage(storage.secret_url)
    with pytest.raises(StorageUnavailable), storage.lock("silent lock", 0.3) as held:  # noqa: PT012
        assert held is not None
        held.confirm()
        wait_for(lambda: _is_free(other, "silent lock"), "the lock's release", seconds=60)
        held.confirm()
    other.close()


def test_a_worker_that_was_reaped_cannot_change_the_record(storage: Storage) -> None:
    queued(storage, "late", [request(0, 2.0)])
    claim = queue.claim(storage, "late", "me")
    assert claim is not None
    queue.fail(storage, claim.trial_id, "lost", "silent")
    queue.note(storage, claim.trial_id, {"averaged_error": [1.0]})
    queue.complete(storage, claim.trial_id, 5.0)
    queue.release(storage, claim)
    (trial,) = records.read_trials(storage, "late")
    assert (trial.state, trial.reason, trial.error) == (State.FAILED, "lost", None)


def test_a_released_trial_is_claimed_again_and_keeps_its_number(storage: Storage) -> None:
    queued(storage, "again", [request(0, 2.0)])
    first = queue.claim(storage, "again", "me")
    assert first is not None
    queue.release(storage, first)
    again = queue.claim(storage, "again", "other")
    assert again == replace(first, worker="other")


def test_times_are_the_same_moments_in_every_time_zone(
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


def test_the_study_s_lock_is_held_by_one_connection_at_a_time(storage: Storage) -> None:
    other = Storage(storage.secret_url)
    with storage.lock("a") as held, other.lock("a") as refused, other.lock("b") as unrelated:
        assert [lock is not None for lock in (held, refused, unrelated)] == [True, False, True]
    with other.lock("a") as released:
        assert released is not None
    other.close()


def test_a_tick_is_idempotent_and_heals_half_a_stage(storage: Storage, tmp_path: Path) -> None:
    spec = load(simulated_study(tmp_path, name="ticked"))
    assert reconcile.launch(storage, spec)
    assert not reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "ticked")
    runs = sorted(str(t.key) for t in records.read_trials(storage, "ticked"))
    assert len(runs) == len(set(runs)) == 5 * 2
    with storage.engine.begin() as connection:  # as if the first tick had been killed half-way
        for table in ("trial_user_attributes", "trial_system_attributes", "trials"):
            connection.execute(sqlalchemy.text(
                f"DELETE FROM {table} WHERE trial_id IN (SELECT trial_id FROM trials JOIN studies "
                "USING (study_id) WHERE study_name = 'ticked/k1' AND number >= 3)"
            ))  # fmt: skip
    healer = Storage(storage.secret_url)
    reconcile.reconcile(healer, "ticked")
    reconcile.reconcile(healer, "ticked")
    assert sorted(str(t.key) for t in records.read_trials(healer, "ticked")) == runs
    healer.close()


def test_a_run_that_was_queued_twice_loses_its_second_trial(
    storage: Storage, tmp_path: Path
) -> None:
    spec = load(simulated_study(tmp_path, name="double"))
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "double")
    trial = records.read_trials(storage, "double")[0]
    queue.enqueue(storage, records.stage_ids(storage, "double")[1], [trial.request])
    reconcile.reconcile(storage, "double")
    twins = [t for t in records.read_trials(storage, "double") if t.key == trial.key]
    assert [(t.state, t.reason) for t in twins] == [
        (State.WAITING, None),
        (State.FAILED, "withdrawn"),
    ]


def test_trials_that_others_added_to_a_stage_are_left_alone(
    storage: Storage, tmp_path: Path
) -> None:

    spec = load(simulated_study(tmp_path, name="guest"))
    reconcile.launch(storage, spec)
    study = optuna.load_study(study_name="guest/k1", storage=storage.optuna)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    reconcile.reconcile(storage, "guest")
    assert len(records.read_trials(storage, "guest")) == 5 * 2


def test_study_names_are_not_prefixes_of_each_other(storage: Storage, tmp_path: Path) -> None:
    for name in ("net", "net.k1", "net-2"):
        reconcile.launch(storage, load(simulated_study(tmp_path, name=name)))
        reconcile.reconcile(storage, name)
    records.delete_study(storage, "net")
    assert records.read_trials(storage, "net") == []
    assert {"net.k1", "net-2"} <= set(records.study_names(storage))
    assert len(records.read_trials(storage, "net-2")) == 5 * 2


def test_a_server_with_a_password_serves_a_study_over_tcp(
    home: Path, server: Server, tmp_path: Path
) -> None:
    remote = Kdecay(home, server.url(PASSWORD, scheme="postgres"))
    summary = remote.json("launch", simulated_study(tmp_path, name="remote"), "--workers", "2")
    assert summary["state"] == "done"
    logs = "".join(path.read_text() for path in (home / "logs" / "remote").iterdir())
    assert "s3cret" not in logs + json.dumps(summary)


def test_a_wrong_password_is_one_line_that_does_not_show_it(home: Path, server: Server) -> None:
    refused = Kdecay(home, server.url("hunter2")).run("list", code=2)
    assert refused.stderr.count("\n") == 1
    assert "password authentication failed" in refused.stderr
    assert "***" in refused.stderr
    assert "hunter2" not in refused.stderr + refused.stdout


def test_a_connection_holds_two_sockets_at_most(server: Server) -> None:
    connected = Storage(server.url(PASSWORD))
    with connected.lock("a"), connected.engine.connect() as second:
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kdecay'"
        assert second.scalar(sqlalchemy.text(count)) == 2
    connected.close()


def new_database(server: Server, name: str) -> str:
    """Its URL."""
    admin = sqlalchemy.create_engine(parse_url(server.url(PASSWORD)), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return server.url(PASSWORD).removesuffix("postgres") + name


def test_a_process_waits_for_the_last_of_the_tables_that_another_makes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(server, "half_made")
    first = Storage(url)
    with first.engine.begin() as maker:
        maker.execute(sqlalchemy.text("DROP TABLE alembic_version"))
    monkeypatch.setattr(connect, "RETRY_SECONDS", 0.3)
    with first.engine.begin() as maker:
        assert connect._try_lock(maker, connect._CREATION)
        with pytest.raises(StorageUnavailable, match="still making the tables"):
            Storage(url)
    Storage(url).close()
    first.close()


def test_a_command_that_only_looks_imports_neither_optuna_nor_alembic(storage: Storage) -> None:
    """Both together take half a second."""
    code = (
        "import sys; from kdecay_search.storage import Storage, records; "
        "records.study_names(Storage(sys.argv[1])); print({'optuna', 'alembic'} & set(sys.modules))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code, storage.secret_url], text=True)
    assert printed == "set()\n"


def test_many_processes_may_make_the_tables_of_a_new_database_at_once(server: Server) -> None:
    url = new_database(server, "fresh")
    code = "import sys; from kdecay_search.storage import Storage; Storage(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(6)]
    assert [process.wait() for process in processes] == [0] * 6


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://u:hunter2@h/d", "nonsense", "", "://"])
def test_other_databases_and_malformed_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(StorageError) as refused:
        parse_url(url)
    assert "postgresql://" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_a_postgres_url_means_psycopg2(scheme: str) -> None:
    assert parse_url(f"{scheme}://u:p@host/db").drivername == "postgresql+psycopg2"


def test_an_unreachable_server_is_unavailable() -> None:
    with pytest.raises(StorageUnavailable, match="refused"):
        Storage("postgresql://u:p@127.0.0.1:9/d")


def _uptime(storage: Storage) -> float:
    """Seconds since the server started."""
    statement = "SELECT extract(epoch FROM now() - pg_postmaster_start_time())"
    with storage.engine.connect() as connection:
        return float(connection.scalar(sqlalchemy.text(statement)))


def _is_free(storage: Storage, lock: str) -> bool:
    with storage.lock(lock) as held:
        return held is not None


def _age_heartbeat(storage: Storage, trial_id: int, seconds: float) -> None:
    statement = """
        UPDATE trial_heartbeats SET heartbeat = heartbeat - make_interval(secs => :seconds)
        WHERE trial_id = :trial_id
    """
    with storage.engine.begin() as connection:
        values = {"seconds": seconds, "trial_id": trial_id}
        connection.execute(sqlalchemy.text(statement), values)
