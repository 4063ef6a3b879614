"""Paused trials in Optuna's tables: on a real Postgres."""

from __future__ import annotations

import math

import optuna
import pytest

from kdecay_search.storage import Storage, pausing, queue, records
from kdecay_search.storage.durations import read_durations
from kdecay_search.storage.queue import Claim
from kdecay_search.study.trials import RAW_ONLY, State, Trial
from tests.support.queued_runs import queued, request


def claimed(storage: Storage, name: str, worker: str = "me") -> Claim:
    claim = queue.claim(storage, name, worker)
    assert claim is not None
    return claim


def reported(storage: Storage, name: str, values: list[float]) -> Claim:
    """A claimed trial with these reports."""
    claim = claimed(storage, name)
    for step, value in enumerate(values, start=1):
        assert queue.report(storage, claim, step, value)
    return claim


def only(storage: Storage, name: str, looks: tuple[int, ...] = ()) -> Trial:
    (trial,) = records.read_history(storage, name, looks)
    return trial


def test_a_paused_trial_is_left_alone_until_it_is_resumed(storage: Storage) -> None:
    study_id = queued(storage, "pausing", [request(0, 2.0)])
    first = reported(storage, "pausing", [50.0, 40.0])
    pausing.pause(storage, first, 2, {"validation_error": [55.0, 45.0]})
    paused = only(storage, "pausing")
    assert (paused.state, paused.epochs, paused.averaged_error) == (State.PAUSED, 2, 40.0)
    assert not paused.open
    assert queue.claim(storage, "pausing", "other") is None
    assert records.with_waiting(storage, ["pausing", "another"]) == []
    assert queue.reap(storage, "pausing", grace_seconds=0.0) == 0
    [shown] = storage.optuna.get_all_trials(study_id)
    assert shown.state == optuna.trial.TrialState.WAITING
    assert shown.intermediate_values == {1: 50.0, 2: 40.0}
    assert (shown.user_attrs["paused"], shown.user_attrs["validation_error"]) == (2, [55.0, 45.0])

    pausing.resume(storage, [paused.trial_id])
    pausing.resume(storage, [paused.trial_id])
    assert only(storage, "pausing").state == State.WAITING
    again = claimed(storage, "pausing", "other")
    assert (again.trial_id, again.reported) == (first.trial_id, {1, 2})
    queue.complete(storage, again.trial_id, 5.0)
    assert only(storage, "pausing").state == State.COMPLETE


def test_a_repeated_pause_leaves_the_next_holder_alone(storage: Storage) -> None:
    queued(storage, "late-pause", [request(0, 2.0)])
    first = reported(storage, "late-pause", [50.0])
    pausing.pause(storage, first, 1)
    pausing.resume(storage, [first.trial_id])
    second = claimed(storage, "late-pause", "other")
    pausing.pause(storage, first, 1)  # as after a connection that dropped behind the commit
    assert queue.beat(storage, second).running
    pausing.close_paused(storage, [first.trial_id])
    assert only(storage, "late-pause").state == State.RUNNING


@pytest.mark.parametrize("last", [40.0, math.inf, math.nan])
def test_a_closed_trial_has_the_value_that_it_reported_last(storage: Storage, last: float) -> None:
    name = f"closed-{last}"
    study_id = queued(storage, name, [request(0, 2.0)])
    claim = reported(storage, name, [50.0, last])
    pausing.close_paused(storage, [claim.trial_id])
    assert only(storage, name).state == State.RUNNING, "it is not paused"
    pausing.pause(storage, claim, 2)
    for _ in range(2):
        pausing.close_paused(storage, [claim.trial_id])
    assert (only(storage, name).state, only(storage, name).epochs) == (State.PRUNED, 2)
    [shown] = storage.rdb.get_all_trials(study_id)
    assert shown.state == optuna.trial.TrialState.PRUNED
    assert shown.value == pytest.approx(last, nan_ok=True)
    assert shown.datetime_complete is not None
    pausing.resume(storage, [claim.trial_id])
    assert queue.claim(storage, name, "other") is None


def test_the_values_at_looks_are_read_in_every_state(storage: Storage) -> None:
    queued(storage, "looks", [request(i, 2.0 + i) for i in range(4)])
    values = [50.0, 40.0, math.inf, math.nan]
    claims = [reported(storage, "looks", values) for _ in range(4)]
    pausing.pause(storage, claims[1], 4)
    queue.complete(storage, claims[2].trial_id, 5.0)
    queue.note(storage, claims[3].trial_id, {RAW_ONLY: True})
    trials = list(records.read_history(storage, "looks", (2, 3, 4, 9)))
    expected = {2: 40.0, 3: math.inf, 4: math.inf}
    assert [trial.looks for trial in trials] == [expected, expected, expected, {}]
    assert queue.report(storage, claims[0], 9, 7.0)
    trials = list(records.read_history(storage, "looks", (2, 3, 4, 9)))
    assert [trial.looks for trial in trials] == [{**expected, 9: 7.0}, expected, expected, {}]
    assert all(not trial.looks for trial in records.read_history(storage, "looks"))


def test_the_time_in_which_a_trial_was_paused_does_not_count(storage: Storage) -> None:
    queued(storage, "timed", [request(0, 2.0)])
    claim = reported(storage, "timed", [50.0])
    assert read_durations(storage, "timed") == {}
    pausing.pause(storage, claim, 1)
    _change(storage, claim, "UPDATE trial_user_attributes SET value_json = '100.5' "
                            "WHERE trial_id = :trial_id AND key = 'trained_seconds'")  # fmt: skip
    assert read_durations(storage, "timed") == {claim.trial_id: 100.5}
    pausing.resume(storage, [claim.trial_id])
    again = claimed(storage, "timed")
    assert read_durations(storage, "timed") == {}
    _change(storage, again, "UPDATE trials SET datetime_start = datetime_start - interval '1 hour' "
                            "WHERE trial_id = :trial_id")  # fmt: skip
    pausing.pause(storage, again, 1)
    assert read_durations(storage, "timed")[claim.trial_id] == pytest.approx(3700.5, abs=60)
    pausing.close_paused(storage, [claim.trial_id])
    assert read_durations(storage, "timed")[claim.trial_id] == pytest.approx(3700.5, abs=60)


def _change(storage: Storage, claim: Claim, statement: str) -> None:
    import sqlalchemy

    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement), {"trial_id": claim.trial_id})
