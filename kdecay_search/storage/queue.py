"""The queue of runs, kept in Optuna's own tables.

A run is queued as a WAITING trial. A worker claims it: it writes the first heartbeat and *then*
sets the state to RUNNING, which is a compare-and-set under a row lock, so that exactly one
claimer wins and a claimed trial always has a heartbeat. Nobody asks Optuna for a trial, for on an
empty queue it would invent one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from kdecay_search.runs import ERROR, LOST, Token
from kdecay_search.storage.connect import Storage, mapped_errors, retried
from kdecay_search.storage.history import CONTROL, WORKER, read_token, token_attributes
from kdecay_search.storage.records import PARAMETER, STOPPED, stage_ids, stage_name

CLAIM_CHOICES = 32
"""Waiting trials that a worker looks at before it asks again."""


@dataclass(frozen=True)
class Claim:
    """A trial that this process has claimed."""

    study: str
    study_id: int
    trial_id: int
    token: Token
    worker: str
    """Who holds it."""


@dataclass(frozen=True)
class Ownership:
    """What a heartbeat found: whether the trial still runs, and whether its study was stopped."""

    running: bool
    stopped: bool


@retried
def enqueue(storage: Storage, study_id: int, token: Token) -> None:
    """Queue one run. Repeating it after a dropped connection may queue the run twice, which the
    procedure heals by withdrawing one."""
    fixed: dict[str, Any] = {} if token.k is None else {PARAMETER: token.k}
    if token.control is not None:
        fixed = {CONTROL: token.control}
    waiting = optuna.trial.create_trial(
        state=TrialState.WAITING,
        system_attrs={"fixed_params": fixed},
        user_attrs=token_attributes(token),
    )
    storage.optuna.create_new_trial(study_id, template_trial=waiting)


@retried
def skip(storage: Storage, study_id: int, token: Token) -> None:
    """Record a run that lost the race as pruned before it began."""
    assert token.k is not None
    lost = optuna.trial.create_trial(
        state=TrialState.PRUNED,
        params={PARAMETER: token.k},
        distributions={PARAMETER: distribution(token)},
        user_attrs=token_attributes(token),
    )
    storage.optuna.create_new_trial(study_id, template_trial=lost)


def distribution(token: Token) -> FloatDistribution:
    """The stage's search space; logarithmic, since neighbours in log k behave alike."""
    low, high = token.bounds
    if token.k is not None:
        low, high = min(low, token.k), max(high, token.k)
    return FloatDistribution(low, high, log=True)


def claim(
    storage: Storage, name: str, worker: str, prepare: Callable[[], object] = lambda: None
) -> Claim | None:
    """Claim a waiting trial of the study; None if there is none. ``prepare`` is called before one
    is taken, so that no trial is held up by what takes its time."""
    waiting = _waiting(storage, name)
    if waiting:
        prepare()
    for study_id, trial_id in waiting:
        if _take(storage, trial_id):
            _note_worker(storage, trial_id, worker)
            token = read_token(_trial(storage, trial_id).user_attrs)
            if token is not None:
                return Claim(name, study_id, trial_id, token, worker)
            fail(storage, trial_id, ERROR, "no run of this study's: queued by other means")
    return None


@retried
def _waiting(storage: Storage, name: str) -> list[tuple[int, int]]:
    """Ids of waiting trials in the order to be taken: those whose k is known before those whose k
    the sampler must choose, so that it chooses knowing as much as possible."""
    ids = list(stage_ids(storage, name).values())
    statement = """
        SELECT t.study_id, t.trial_id FROM trials t
        WHERE t.study_id = ANY(:ids) AND t.state = 'WAITING'
        ORDER BY coalesce((SELECT a.value_json FROM trial_system_attributes a
            WHERE a.trial_id = t.trial_id AND a.key = 'fixed_params'), '{}') = '{}',
            t.study_id, t.number
        LIMIT :choices
    """
    values = {"ids": ids, "choices": CLAIM_CHOICES}
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(statement), values).all()
    return [(study_id, trial_id) for study_id, trial_id in rows]


@retried
def _take(storage: Storage, trial_id: int) -> bool:
    """Heartbeat first, then the compare-and-set.

    When a dropped connection hides that the compare-and-set succeeded, the repetition reports
    False: the trial is then nobody's and is reaped after the grace period.
    """
    try:
        storage.optuna.record_heartbeat(trial_id)  # type: ignore[attr-defined]
        return storage.optuna.set_trial_state_values(trial_id, TrialState.RUNNING)
    except (UpdateFinishedTrialError, KeyError):
        return False


@retried
def _note_worker(storage: Storage, trial_id: int, worker: str) -> None:
    storage.optuna.set_trial_user_attr(trial_id, WORKER, worker)


@retried
def _trial(storage: Storage, trial_id: int) -> FrozenTrial:
    return storage.optuna.get_trial(trial_id)


def beat(storage: Storage, held: Claim) -> Ownership:
    """Tell the reaper that this trial's worker lives; learn whether it still is this worker's.

    Raises :class:`StorageError`; the caller decides for how long to go on without beats.
    """
    statement = """
        SELECT t.state = 'RUNNING', a.value_json = 'true' FROM trials t
        LEFT JOIN studies s ON s.study_name = :first
        LEFT JOIN study_user_attributes a ON a.study_id = s.study_id AND a.key = :key
        WHERE t.trial_id = :trial_id
    """
    first = stage_name(held.study, 1)
    values = {"first": first, "key": STOPPED, "trial_id": held.trial_id}
    with mapped_errors():
        storage.optuna.record_heartbeat(held.trial_id)  # type: ignore[attr-defined]
        with storage.engine.connect() as connection:
            row = connection.execute(sqlalchemy.text(statement), values).one_or_none()
    return Ownership(running=bool(row and row[0]), stopped=bool(row and row[1]))


@retried
def complete(storage: Storage, trial_id: int, error: float) -> None:
    """Finish a trial with its validation error (%)."""
    _finish(storage, trial_id, TrialState.COMPLETE, [error])


@retried
def prune(storage: Storage, trial_id: int, averaged_error: float) -> None:
    """Finish a trial early; Optuna's convention is to give it its last reported value."""
    _finish(storage, trial_id, TrialState.PRUNED, [averaged_error])


@retried
def fail(storage: Storage, trial_id: int, reason: str, message: str | None) -> None:
    """Close a trial without a result, saying why."""
    try:
        storage.optuna.set_trial_user_attr(trial_id, "reason", reason)
        if message is not None:
            storage.optuna.set_trial_user_attr(trial_id, "message", message)
    except (UpdateFinishedTrialError, KeyError):
        return
    _finish(storage, trial_id, TrialState.FAIL, None)


@retried
def release(storage: Storage, held: Claim) -> None:
    """Put a claimed trial back into the queue; no attempt is used up.

    Only while it runs under this worker's name: repeated after a connection dropped behind a
    commit, it must not take the trial from its next holder.
    """
    statement = """
        UPDATE trials t SET state = 'WAITING' FROM trial_user_attributes a
        WHERE t.trial_id = :trial_id AND t.state = 'RUNNING'
          AND a.trial_id = t.trial_id AND a.key = :key AND a.value_json = :worker
    """
    values = {"trial_id": held.trial_id, "key": WORKER, "worker": json.dumps(held.worker)}
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement), values)


@retried
def note(storage: Storage, trial_id: int, attributes: dict[str, Any]) -> None:
    """Keep values (the curves, say) with a trial, for reports to show."""
    try:
        for key, value in attributes.items():
            storage.optuna.set_trial_user_attr(trial_id, key, value)
    except (UpdateFinishedTrialError, KeyError):
        return


def _finish(storage: Storage, trial_id: int, state: TrialState, values: list[float] | None) -> None:
    """Set the state, unless the trial was finished or deleted by others in the meantime."""
    try:
        storage.optuna.set_trial_state_values(trial_id, state, values)
    except (UpdateFinishedTrialError, KeyError):
        return


@retried
def reap(storage: Storage, name: str, grace_seconds: float) -> int:
    """Fail the running trials whose worker has been silent for longer than the grace period, by
    the database's clock; return how many.

    While the server was down nobody could beat: the period begins anew when it starts.
    """
    statement = """
        SELECT t.trial_id FROM trials t JOIN trial_heartbeats h USING (trial_id)
        WHERE t.study_id = ANY(:ids) AND t.state = 'RUNNING'
          AND greatest(h.heartbeat, pg_postmaster_start_time())
              < now() - make_interval(secs => :grace)
    """
    values = {"ids": list(stage_ids(storage, name).values()), "grace": grace_seconds}
    return _fail_all(storage, statement, values, f"no heartbeat for {grace_seconds:g} s")


@retried
def reap_process(storage: Storage, name: str, process: str) -> int:
    """Fail what a dead process still holds; return how many trials. ``process``: how its workers'
    names begin."""
    statement = """
        SELECT t.trial_id FROM trials t JOIN trial_user_attributes a USING (trial_id)
        WHERE t.study_id = ANY(:ids) AND t.state = 'RUNNING'
          AND a.key = :key AND starts_with(a.value_json, :beginning)
    """
    ids = list(stage_ids(storage, name).values())
    values = {"ids": ids, "key": WORKER, "beginning": json.dumps(process).removesuffix('"')}
    return _fail_all(storage, statement, values, "its worker was killed")


def _fail_all(storage: Storage, statement: str, values: dict[str, Any], message: str) -> int:
    with storage.engine.connect() as connection:
        lost = connection.scalars(sqlalchemy.text(statement), values).all()
    for trial_id in lost:
        fail(storage, trial_id, LOST, message)
    return len(lost)
