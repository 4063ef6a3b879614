"""The queue of runs, kept in Optuna's own tables.

A run is queued as a WAITING trial. A worker claims it: one statement locks the first that nobody
else is claiming, sets its state to RUNNING and writes its first heartbeat, so that exactly one
claimer wins and a claimed trial always has a heartbeat. Nobody asks Optuna for a trial, for on an
empty queue it would invent one. What workers write once an epoch or a trial is one statement each,
where Optuna's own functions take several round trips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
)
from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialValueModel
from optuna.trial import TrialState

from kdecay_search.storage.connect import Storage, mapped_errors, retried
from kdecay_search.storage.history import (
    CONTROL,
    LEVEL,
    OUTPUT,
    WORKER,
    read_request,
    request_attributes,
)
from kdecay_search.storage.records import PARAMETER, STOPPED, stage_ids, stage_name
from kdecay_search.study.trials import ERROR, LOST, RunRequest

UserAttrs = Mapping[str, Any]
"""What is kept with a trial for reports to show: values by name, of what JSON can hold."""
NOTHING: UserAttrs = MappingProxyType({})


@dataclass(frozen=True)
class Claim:
    """A trial that this process has claimed."""

    study: str
    study_id: int
    trial_id: int
    request: RunRequest
    worker: str
    """Who holds it."""
    reported: frozenset[int] = frozenset()
    """Epochs that an earlier holder of this very trial has reported."""


@dataclass(frozen=True)
class Ownership:
    """What a heartbeat found: whether the trial still runs, and whether its study was stopped."""

    running: bool
    stopped: bool


_LOCK = "SELECT FROM studies WHERE study_id = :study_id FOR UPDATE"
_QUEUE = """
    WITH queued AS (
      INSERT INTO trials (number, study_id, state)
      SELECT (SELECT count(*) FROM trials WHERE study_id = :study_id), study_id, 'WAITING'
      FROM studies WHERE study_id = :study_id RETURNING trial_id
    ), fixed AS (
      INSERT INTO trial_system_attributes (trial_id, key, value_json)
      SELECT trial_id, 'fixed_params', :fixed FROM queued
    )
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT queued.trial_id, n.* FROM queued,
      unnest(cast(:keys AS text[]), cast(:values AS text[])) AS n
"""


@retried
def enqueue(storage: Storage, study_id: int, requests: Sequence[RunRequest]) -> None:
    """Queue runs, all or none: what comes after them is decided when all of them have ended.
    Repeating it after a dropped connection may queue them twice, which the procedure heals by
    withdrawing one of each.

    As Optuna does it, which numbers the trials under a lock of their study.
    """
    study = {"study_id": study_id}
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(_LOCK), study)
        for request in requests:
            fixed = (
                parameters(request) if request.comparator is None else {CONTROL: request.comparator}
            )
            values = study | {"fixed": json.dumps(fixed)} | _texts(request_attributes(request))
            connection.execute(sqlalchemy.text(_QUEUE), values)


@retried
def skip(storage: Storage, study_id: int, request: RunRequest) -> None:
    """Record a run that lost the race as pruned before it began."""
    lost = optuna.trial.create_trial(
        state=TrialState.PRUNED,
        params=parameters(request),
        distributions=distributions(request),
        user_attrs=request_attributes(request),
    )
    storage.optuna.create_new_trial(study_id, template_trial=lost)


def parameters(request: RunRequest) -> dict[str, Any]:
    """What Optuna shows of a run whose candidate is known; nothing of one that the sampler
    chooses."""
    if request.k is None:
        return {}
    return {PARAMETER: request.k} | ({LEVEL: request.lr_max} if request.levels else {})


def distributions(request: RunRequest) -> dict[str, BaseDistribution]:
    """The stage's search space, by parameter."""
    spaces: dict[str, BaseDistribution] = {PARAMETER: distribution(request)}
    return spaces | ({LEVEL: CategoricalDistribution(request.levels)} if request.levels else {})


def distribution(request: RunRequest) -> FloatDistribution:
    """Of k; logarithmic, since neighbours in log k behave alike."""
    low, high = request.bounds
    if request.k is not None:
        low, high = min(low, request.k), max(high, request.k)
    return FloatDistribution(low, high, log=True)


def claim(
    storage: Storage, name: str, worker: str, prepare: Callable[[], object] = lambda: None
) -> Claim | None:
    """Claim a waiting trial of the study; None if there is none. ``prepare`` is called before one
    is taken, so that no trial is held up by what takes its time."""
    ids = list(stage_ids(storage, name).values())
    if _has_waiting(storage, ids):
        prepare()
        while (taken := _take(storage, ids, worker)) is not None:
            attributes = {key: json.loads(value) for key, value in taken.attributes.items()}
            request = read_request(attributes)
            if request is not None:
                reported = frozenset(taken.reported)
                return Claim(name, taken.study_id, taken.trial_id, request, worker, reported)
            fail(storage, taken.trial_id, ERROR, "no run of this study's: queued by other means")
    return None


@retried
def _has_waiting(storage: Storage, ids: list[int]) -> bool:
    statement = (
        "SELECT EXISTS (SELECT FROM trials WHERE study_id = ANY(:ids) AND state = 'WAITING')"
    )
    with storage.engine.connect() as connection:
        return bool(connection.scalar(sqlalchemy.text(statement), {"ids": ids}))


_TAKE = """
    WITH chosen AS (
      SELECT t.trial_id FROM trials t
      WHERE t.study_id = ANY(:ids) AND t.state = 'WAITING'
      ORDER BY coalesce((SELECT a.value_json FROM trial_system_attributes a
          WHERE a.trial_id = t.trial_id AND a.key = 'fixed_params'), '{}') = '{}',
        t.study_id, t.number
      LIMIT 1 FOR UPDATE OF t SKIP LOCKED
    ), taken AS (
      UPDATE trials t SET state = 'RUNNING', datetime_start = :now FROM chosen
      WHERE t.trial_id = chosen.trial_id RETURNING t.study_id, t.trial_id
    ), beaten AS (
      INSERT INTO trial_heartbeats (trial_id, heartbeat) SELECT trial_id, now() FROM taken
      ON CONFLICT (trial_id) DO UPDATE SET heartbeat = EXCLUDED.heartbeat
    ), noted AS (
      INSERT INTO trial_user_attributes (trial_id, key, value_json)
      SELECT trial_id, :key, :worker FROM taken
      ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
    )
    SELECT study_id, trial_id, coalesce(
      (SELECT json_object_agg(a.key, a.value_json) FROM trial_user_attributes a
       WHERE a.trial_id = taken.trial_id), '{}') AS attributes,
      ARRAY(SELECT i.step FROM trial_intermediate_values i
       WHERE i.trial_id = taken.trial_id) AS reported
    FROM taken
"""


@retried
def _take(storage: Storage, ids: list[int], worker: str) -> sqlalchemy.Row[Any] | None:
    """Take the first waiting trial that nobody else is taking: those whose k is known before those
    whose k the sampler must choose, so that it chooses knowing as much as possible.

    State, heartbeat and holder change together. When a dropped connection hides that they did, the
    repetition takes another trial: the first is then nobody's, and reaped after the grace period.
    """
    values = {"ids": ids, "now": _now(), "key": WORKER, "worker": json.dumps(worker)}
    with storage.engine.begin() as connection:
        return connection.execute(sqlalchemy.text(_TAKE), values).one_or_none()


_GIVE = """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT t.trial_id, p.* FROM trials t, unnest(cast(:names AS text[]),
      cast(:values AS double precision[]), cast(:spaces AS text[])) AS p
    WHERE t.trial_id = :trial_id AND t.state = 'RUNNING'
    ON CONFLICT (trial_id, param_name) DO NOTHING
"""


@retried
def give_parameters(
    storage: Storage,
    trial_id: int,
    given: Mapping[str, Any],
    spaces: Mapping[str, BaseDistribution],
) -> None:
    """Keep what a running trial tries as its parameters, all in one moment."""
    values = {
        "trial_id": trial_id,
        "names": list(given),
        "values": [spaces[name].to_internal_repr(value) for name, value in given.items()],
        "spaces": [distribution_to_json(spaces[name]) for name in given],
    }
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(_GIVE), values)


_REPORT = """
    INSERT INTO trial_intermediate_values
      (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, :step, :value, :type FROM trials
    WHERE trial_id = :trial_id AND state = 'RUNNING'
    ON CONFLICT (trial_id, step) DO UPDATE SET intermediate_value = EXCLUDED.intermediate_value,
      intermediate_value_type = EXCLUDED.intermediate_value_type
"""


def report(storage: Storage, held: Claim, step: int, value: float) -> bool:
    """Tell the value after ``step`` epochs; return whether the trial still runs.

    Raises :class:`StorageError`; it may be repeated.
    """
    stored, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    values = {"trial_id": held.trial_id, "step": step, "value": stored, "type": kind.name}
    with mapped_errors(), storage.engine.begin() as connection:
        return connection.execute(sqlalchemy.text(_REPORT), values).rowcount == 1


_BEAT = """
    WITH beaten AS (
      INSERT INTO trial_heartbeats (trial_id, heartbeat)
      SELECT trial_id, now() FROM trials WHERE trial_id = :trial_id
      ON CONFLICT (trial_id) DO UPDATE SET heartbeat = EXCLUDED.heartbeat
    )
    SELECT t.state = 'RUNNING', a.value_json = 'true' FROM trials t
    LEFT JOIN studies s ON s.study_name = :first
    LEFT JOIN study_user_attributes a ON a.study_id = s.study_id AND a.key = :key
    WHERE t.trial_id = :trial_id
"""


def beat(storage: Storage, held: Claim) -> Ownership:
    """Tell the reaper that this trial's worker lives; learn whether it still is this worker's.

    Raises :class:`StorageError`; the caller decides for how long to go on without beats.
    """
    first = stage_name(held.study, 1)
    values = {"first": first, "key": STOPPED, "trial_id": held.trial_id}
    with mapped_errors(), storage.engine.begin() as connection:
        row = connection.execute(sqlalchemy.text(_BEAT), values).one_or_none()
    return Ownership(running=bool(row and row[0]), stopped=bool(row and row[1]))


def complete(storage: Storage, trial_id: int, error: float, said: UserAttrs = NOTHING) -> None:
    """Finish a trial with its validation error (%)."""
    _finish(storage, trial_id, TrialState.COMPLETE, error, said)


def prune(
    storage: Storage, trial_id: int, averaged_error: float, said: UserAttrs = NOTHING
) -> None:
    """Finish a trial early; Optuna's convention is to give it its last reported value."""
    _finish(storage, trial_id, TrialState.PRUNED, averaged_error, said)


def fail(
    storage: Storage, trial_id: int, reason: str, message: str | None, output: str | None = None
) -> None:
    """Close a trial without a result, saying why. ``output``: a traceback, or a program's last
    words."""
    said = {"reason": reason, "message": message, OUTPUT: output}
    told = {key: value for key, value in said.items() if value is not None}
    _finish(storage, trial_id, TrialState.FAIL, None, told)


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


_NOTE = """
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT t.trial_id, n.* FROM trials t,
      unnest(cast(:keys AS text[]), cast(:values AS text[])) AS n
    WHERE t.trial_id = :trial_id AND t.state IN ('WAITING', 'RUNNING')
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
"""


@retried
def note(storage: Storage, trial_id: int, said: UserAttrs) -> None:
    """Keep values with a trial that has not ended, for reports to show."""
    values = {"trial_id": trial_id, **_texts(said)}
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(_NOTE), values)


def _now() -> datetime:
    """As Optuna's tables have it: UTC, which they do not say."""
    return datetime.now(UTC).replace(tzinfo=None)


def _texts(said: UserAttrs) -> dict[str, list[str]]:
    return {"keys": list(said), "values": [json.dumps(value) for value in said.values()]}


_FINISH = """
    WITH ended AS (
      UPDATE trials SET state = :state, datetime_complete = :now
      WHERE trial_id = :trial_id AND state IN ('WAITING', 'RUNNING') RETURNING trial_id
    ), valued AS (
      INSERT INTO trial_values (trial_id, objective, value, value_type)
      SELECT trial_id, 0, :value, :type FROM ended WHERE cast(:type AS text) IS NOT NULL
      ON CONFLICT (trial_id, objective) DO UPDATE SET value = EXCLUDED.value,
        value_type = EXCLUDED.value_type
    )
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT ended.trial_id, n.* FROM ended,
      unnest(cast(:keys AS text[]), cast(:values AS text[])) AS n
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
"""


@retried
def _finish(
    storage: Storage, trial_id: int, state: TrialState, value: float | None, said: UserAttrs
) -> None:
    """End a trial, unless it was finished or deleted by others in the meantime: state, value and
    what is kept with it (its curves, say) change together."""
    values: dict[str, Any] = {"trial_id": trial_id, "state": state.name, "now": _now()}
    stored, kind = (None, None) if value is None else TrialValueModel.value_to_stored_repr(value)
    values |= {"value": stored, "type": kind and kind.name, **_texts(said)}
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(_FINISH), values)


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
