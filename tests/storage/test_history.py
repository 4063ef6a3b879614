"""What a process keeps of a study's trials must never be stale: on a real Postgres."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.search import make_plan
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, pausing, queue, records
from kdecay_search.storage.deletion import delete_study
from kdecay_search.storage.queue import Claim
from kdecay_search.study.file import load
from kdecay_search.study.trials import RunKey, RunRequest, State, Trial
from tests.support.kdecay_command import simulated_study


@pytest.fixture
def other(storage: Storage) -> Iterator[Storage]:
    """Another process's connection, with what that process knows."""
    connected = Storage(storage.secret_url)
    yield connected
    connected.close()


def launched(storage: Storage, folder: Path, name: str, **settings: Any) -> None:
    reconcile.launch(storage, load(simulated_study(folder, name=name, **settings)))
    reconcile.reconcile(storage, name)


def claimed(storage: Storage, name: str) -> Claim:
    claim = queue.claim(storage, name, "me")
    assert claim is not None
    return claim


def seen(storage: Storage, name: str) -> dict[int, Trial]:
    return {trial.trial_id: trial for trial in records.read_trials(storage, name)}


def report(storage: Storage, trial_id: int, epochs: int) -> None:
    for step in range(1, epochs + 1):
        storage.optuna.set_trial_intermediate_value(trial_id, step, 50.0 - step)


def test_trial_of_another_process_is_seen_in_every_state(
    storage: Storage, other: Storage, tmp_path: Path
) -> None:
    launched(storage, tmp_path, "watched")
    first, second, third = (claimed(other, "watched") for _ in range(3))
    assert seen(storage, "watched")[first.trial_id].state == State.RUNNING
    report(other, first.trial_id, 2)
    trial = seen(storage, "watched")[first.trial_id]
    assert (trial.epochs, trial.averaged_error, trial.worker) == (2, 48.0, "me")
    report(other, second.trial_id, 1)
    queue.complete(other, first.trial_id, 7.5)
    pausing.pause(other, second, 1)
    pausing.close_paused(other, [second.trial_id])
    queue.fail(other, third.trial_id, "error", "it broke")
    trials = seen(storage, "watched")
    assert (trials[first.trial_id].state, trials[first.trial_id].error) == (State.COMPLETE, 7.5)
    assert (trials[second.trial_id].state, trials[second.trial_id].error) == (State.PRUNED, None)
    lost = trials[third.trial_id]
    assert (lost.state, lost.reason, lost.message) == (State.FAILED, "error", "it broke")


def test_released_trial_is_seen_to_wait_again(
    storage: Storage, other: Storage, tmp_path: Path
) -> None:
    launched(storage, tmp_path, "released")
    claim = claimed(other, "released")
    assert seen(storage, "released")[claim.trial_id].state == State.RUNNING
    queue.release(other, claim)
    assert seen(storage, "released")[claim.trial_id].state == State.WAITING
    assert claimed(storage, "released").trial_id == claim.trial_id


def test_reconcile_acts_on_what_another_process_finished(
    storage: Storage, other: Storage, tmp_path: Path
) -> None:
    launched(storage, tmp_path, "shared", search__seeds=1, search__max_terms=2)
    while (claim := queue.claim(other, "shared", "other")) is not None:
        assert claim.request.k is not None
        queue.complete(other, claim.trial_id, 10 - claim.request.k if claim.request.k < 3 else 9.0)
    snapshot = reconcile.reconcile(storage, "shared")
    assert snapshot is not None
    assert [stage.progress for stage in snapshot.plan.stages] == ["done", "running"]
    assert claimed(other, "shared").request.earlier_ks == (2.5,)
    assert [t.state for t in seen(storage, "shared").values()].count(State.RUNNING) == 1


def test_study_that_is_deleted_and_launched_again_begins_empty(
    storage: Storage, other: Storage, tmp_path: Path
) -> None:
    launched(storage, tmp_path, "reborn")
    queue.complete(storage, claimed(storage, "reborn").trial_id, 5.0)
    before = seen(storage, "reborn")
    delete_study(other, "reborn")
    assert seen(storage, "reborn") == {}
    launched(other, tmp_path, "reborn", search__seeds=1)
    after = seen(storage, "reborn")
    assert len(after) == 5
    assert not before.keys() & after.keys()
    assert {trial.state for trial in after.values()} == {State.WAITING}


def test_deleted_trials_are_queued_again_by_a_process_that_knew_them(
    storage: Storage, tmp_path: Path
) -> None:
    launched(storage, tmp_path, "thinned")
    runs = sorted(str(trial.key) for trial in seen(storage, "thinned").values())
    for _ in range(4):
        queue.complete(storage, claimed(storage, "thinned").trial_id, 5.0)
    known = seen(storage, "thinned")
    gone = [i for i, trial in known.items() if trial.state == State.COMPLETE][1:3]
    with storage.engine.begin() as connection:
        for table in ("trial_user_attributes", "trial_system_attributes", "trial_values",
                      "trial_heartbeats", "trial_params", "trials"):  # fmt: skip
            statement = f"DELETE FROM {table} WHERE trial_id = ANY(:gone)"
            connection.execute(sqlalchemy.text(statement), {"gone": gone})
    reconcile.reconcile(storage, "thinned")
    after = seen(storage, "thinned")
    assert not after.keys() & set(gone)
    assert sorted(str(trial.key) for trial in after.values()) == runs


def test_only_open_and_new_trials_are_read_again(storage: Storage, tmp_path: Path) -> None:
    launched(storage, tmp_path, "frugal")
    for _ in range(6):
        queue.complete(storage, claimed(storage, "frugal").trial_id, 5.0)
    before = records.read_history(storage, "frugal")
    read = []

    @sqlalchemy.event.listens_for(storage.engine, "after_cursor_execute")
    def note(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        read.extend([cursor.rowcount] if "AS last_value" in statement else [])

    after = records.read_history(storage, "frugal")
    assert read == [10 - 6]
    assert all(after.by_candidate[key] is before.by_candidate[key] for key in before.by_candidate)
    queue.complete(storage, claimed(storage, "frugal").trial_id, 5.0)
    third = records.read_history(storage, "frugal")
    assert read == [4, 4]
    assert (
        sum(third.by_candidate[key] is not after.by_candidate[key] for key in after.by_candidate)
        == 1
    )


@pytest.mark.parametrize("prunes", [False, True])
def test_process_that_looked_all_along_plans_as_a_new_one(
    storage: Storage, tmp_path: Path, prunes: bool
) -> None:
    name = f"followed-{prunes}".lower()
    launched(storage, tmp_path, name, pruning__enabled=prunes, search__seeds=3)
    dice = random.Random(1)
    stage = records.stage_ids(storage, name)[1]
    for step in range(40):
        claim = queue.claim(storage, name, "me")
        if claim is not None:
            report(storage, claim.trial_id, dice.randrange(3))
            _end(storage, claim, dice)
        if step % 7 == 0:
            key = RunKey(1, dice.randrange(5), dice.randrange(3))
            queue.enqueue(storage, stage, [RunRequest(key, (), 2.0, (1.0, 3.0))])
        snapshot = reconcile.reconcile(storage, name)
        assert snapshot is not None
    newcomer = Storage(storage.secret_url)
    followed, fresh = read_snapshot(storage, name), read_snapshot(newcomer, name)
    newcomer.close()
    assert list(followed.trials) == list(fresh.trials)
    assert followed.plan == fresh.plan == make_plan(followed.spec, list(fresh.trials))


def _end(storage: Storage, claim: Claim, dice: random.Random) -> None:
    outcome = dice.choice(["complete", "complete", "prune", "fail", "release"])
    if outcome == "complete":
        queue.complete(storage, claim.trial_id, 5 + dice.random())
    elif outcome == "prune":
        pausing.pause(storage, claim, 1)
        pausing.close_paused(storage, [claim.trial_id])
    elif outcome == "fail":
        queue.fail(storage, claim.trial_id, "error", "it broke")
    else:
        queue.release(storage, claim)


def test_text_of_a_trial_holds_nothing_that_a_terminal_acts_on(
    storage: Storage, tmp_path: Path
) -> None:
    launched(storage, tmp_path, "talkative")
    claim = claimed(storage, "talkative")
    queue.note(storage, claim.trial_id, {"worker": ["a", 1], "resumed_epochs": "many"})
    queue.fail(storage, claim.trial_id, "error", "\x1b[2Jgone\nnew line")
    trial = seen(storage, "talkative")[claim.trial_id]
    assert trial.message == "\\x1b[2Jgone\\nnew line"
    assert (trial.worker, trial.resumed_epochs) == ("['a', 1]", 0)


def test_trial_that_appears_late_with_a_smaller_id_is_seen(
    storage: Storage, other: Storage, tmp_path: Path
) -> None:
    """As when two processes add trials to two stages at once, and the first to begin ends last."""
    launched(storage, tmp_path, "late-comer")
    with storage.engine.begin() as connection:
        reserve = sqlalchemy.text("SELECT nextval('trials_trial_id_seq')")
        early = connection.scalar(reserve)
    stage = records.stage_ids(storage, "late-comer")[1]
    queue.enqueue(storage, stage, [RunRequest(RunKey(1, 7, 0), (), 2.0, (1.0, 3.0))])
    before = seen(storage, "late-comer")
    assert max(before) > early
    with other.engine.begin() as connection:
        for statement in (
            "INSERT INTO trials (trial_id, number, study_id, state) "
            "SELECT :early, 99, study_id, state FROM trials WHERE trial_id = :latest",
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) "
            "SELECT :early, key, value_json FROM trial_user_attributes WHERE trial_id = :latest",
        ):
            values = {"early": early, "latest": max(before)}
            connection.execute(sqlalchemy.text(statement), values)
    assert seen(storage, "late-comer").keys() - before.keys() == {early}
