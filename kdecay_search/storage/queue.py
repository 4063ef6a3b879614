"""The queue of runs, kept in Optuna's own tables.

A run is queued as a WAITING trial. A worker claims it: one statement locks the first that nobody
else is claiming, sets its state to RUNNING and writes its first heartbeat, so that exactly one
claimer wins and a claimed trial always has a heartbeat. Nobody asks Optuna for a trial, for on an
empty queue it would invent one. What workers write once an epoch or once a trial is one statement
each, where Optuna's own functions take several round trips.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import sqlalchemy

from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.connect import Storage, mapped_errors, retried
from kdecay_search.storage.parameters import distributions, parameters, stored_parameters
from kdecay_search.storage.records import prefix, stage_name
from kdecay_search.storage.sql import queue as sql
from kdecay_search.study.trials import ERROR, FIRST_STAGE, LOST, WITHDRAWN, RunRequest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

UserAttrs = Mapping[str, Any]
"""What is kept with a trial for reports to show: JSON-serialisable values by name."""
NO_USER_ATTRS: UserAttrs = MappingProxyType({})


@dataclass(frozen=True)
class Claim:
    """A trial that this process has claimed."""

    study: str
    """Name of the study."""
    study_id: int
    """Optuna's study id of the stage."""
    trial_id: int
    """Optuna's id of the trial."""
    request: RunRequest
    """The run to train."""
    worker: str
    """Name of the worker that holds the trial."""
    reported: frozenset[int] = frozenset()
    """Epochs that an earlier holder of this very trial has reported."""
    launch: str | None = None
    """Id of the launch that the trial belongs to; None for a study without one."""
    repeated: int = 0
    """How many of its reports earlier holders have made twice."""
    shared_seconds: float = 0.0
    """How much of the time before its pauses counts for trials that it was trained with."""


@dataclass(frozen=True)
class Ownership:
    """What a heartbeat found out."""

    running: bool
    """Whether the trial still runs."""
    stopped: bool
    """Whether the user has stopped the study."""


@retried
def enqueue(storage: Storage, study_id: int, requests: Sequence[RunRequest]) -> None:
    """Queue runs, all or none: what comes after them is decided when all of them have ended.

    A repetition after a dropped connection may queue them twice; the next reconciliation withdraws
    one of each pair.

    Args:
        storage: The database.
        study_id: Optuna's study id of the stage.
        requests: The runs, in the order in which workers should take them.
    """
    _add_trials(storage, study_id, requests, "WAITING", NO_USER_ATTRS)


@retried
def skip(storage: Storage, study_id: int, requests: Sequence[RunRequest]) -> None:
    """Record runs that are not needed any more, as pruned trials without epochs.

    Optuna has no state for a trial that is never started, so the attribute
    :data:`kdecay_search.storage.attributes.SKIPPED` says what it is.
    """
    _add_trials(storage, study_id, requests, "PRUNED", {attribute.SKIPPED: True})


def _add_trials(
    storage: Storage,
    study_id: int,
    requests: Sequence[RunRequest],
    state: str,
    user_attrs: UserAttrs,
) -> None:
    is_ended = state != "WAITING"
    fixed, given, attributes = [], [], []
    for place, request in enumerate(requests, start=1):
        fixed.append(json.dumps(parameters(request)))
        if is_ended:
            stored = stored_parameters(parameters(request), distributions(request))
            given += [(place, *row) for row in stored]
        values = {**attribute.request_attributes(request), **user_attrs}
        attributes += [(place, key, json.dumps(value)) for key, value in values.items()]
    values = {
        "study_id": study_id,
        "state": state,
        "ended": now() if is_ended else None,
        "fixed": fixed,
        **_columns(given, "param_places", "param_names", "param_values", "param_spaces"),
        **_columns(attributes, "places", "keys", "texts"),
    }
    with storage.engine.begin() as connection:
        connection.execute(sql.LOCK_STAGE, {"study_id": study_id})
        connection.execute(sql.ADD_TRIALS, values)


def _columns(rows: Sequence[tuple[Any, ...]], *names: str) -> dict[str, list[Any]]:
    """The columns of ``rows`` by name, as the arrays that a statement makes rows of again."""
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def claim(
    storage: Storage, name: str, worker: str, prepare: Callable[[], object] = lambda: None
) -> Claim | None:
    """Claim a waiting trial of a study.

    Args:
        storage: The database.
        name: The study.
        worker: Name of the claiming worker.
        prepare: Called before a trial is claimed, if one is waiting, so that no trial waits for
            what takes its time.

    Returns:
        The claimed trial; None if none is waiting.
    """
    if _has_waiting(storage, name):
        prepare()
        while (row := _take(storage, name, worker)) is not None:
            taken = _claim_of(storage, name, worker, row)
            if taken is not None:
                return taken
    return None


def claim_alike(storage: Storage, held: Claim, most: int) -> list[Claim]:
    """Claim further trials of the stage and the seed of a claimed one, for the same worker.

    Args:
        storage: The database.
        held: The claimed trial.
        most: The largest number of trials to claim.

    Raises:
        StorageError: The database cannot be reached. Trials that were claimed nevertheless are
            nobody's, and reaped after the grace period.
    """
    values = {
        **_claiming(held.study, held.worker),
        "study_id": held.study_id,
        "seed": json.dumps(held.request.key.seed),
        "most": most,
    }
    with mapped_errors(), storage.engine.begin() as connection:
        rows = connection.execute(sql.CLAIM_ALIKE, values).all()
    claims = [_claim_of(storage, held.study, held.worker, row) for row in rows]
    return [claim for claim in claims if claim is not None]


def _claim_of(storage: Storage, name: str, worker: str, taken: sqlalchemy.Row[Any]) -> Claim | None:
    """The claim of a trial that was taken; None if it is no run of the study, and has failed."""
    attributes = {}
    for key, text in taken.attributes.items():
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            attributes[key] = json.loads(text)
    request = attribute.read_request(attributes)
    if request is None:
        fail(storage, taken.trial_id, ERROR, "no run of this study's: queued by other means")
        return None
    repeated = attributes.get(attribute.REPEATED, 0)
    shared = attributes.get(attribute.SHARED_SECONDS)
    return Claim(
        study=name,
        study_id=taken.study_id,
        trial_id=taken.trial_id,
        request=request,
        worker=worker,
        reported=frozenset(taken.reported),
        launch=attributes.get(attribute.LAUNCH),
        repeated=repeated if attribute.is_index(repeated) else 0,
        shared_seconds=shared if isinstance(shared, float) else 0.0,
    )


@retried
def _has_waiting(storage: Storage, name: str) -> bool:
    with storage.engine.connect() as connection:
        return bool(connection.scalar(sql.HAS_WAITING, {"prefix": prefix(name)}))


@retried
def _take(storage: Storage, name: str, worker: str) -> sqlalchemy.Row[Any] | None:
    """Take the first waiting trial. When a dropped connection hides that it was taken, the
    repetition takes another: the first is then nobody's, and reaped after the grace period."""
    with storage.engine.begin() as connection:
        return connection.execute(sql.CLAIM, _claiming(name, worker)).one_or_none()


def _claiming(name: str, worker: str) -> dict[str, Any]:
    """Parameters of both statements that claim."""
    return {
        "prefix": prefix(name),
        "now": now(),
        "key": attribute.WORKER,
        "worker": json.dumps(worker),
    }


@retried
def give_parameters(
    storage: Storage,
    trial_id: int,
    given: Mapping[str, Any],
    spaces: Mapping[str, BaseDistribution],
) -> None:
    """Write what a running trial tries as its parameters, all in one moment.

    Args:
        storage: The database.
        trial_id: Optuna's id of the trial.
        given: Values by the name of the parameter.
        spaces: Search space of each parameter.
    """
    rows = stored_parameters(given, spaces)
    values = {"trial_id": trial_id, **_columns(rows, "names", "values", "spaces")}
    with storage.engine.begin() as connection:
        connection.execute(sql.SET_PARAMETERS, values)


def report(storage: Storage, held: Claim, step: int, value: float) -> bool:
    """Report the value after ``step`` epochs; return whether the trial still runs.

    Raises:
        StorageError: The value was not written; the call may be repeated.
    """
    stored, kind = stored_value(value)
    values = {"trial_id": held.trial_id, "step": step, "value": stored, "type": kind}
    with mapped_errors(), storage.engine.begin() as connection:
        return connection.execute(sql.REPORT, values).rowcount == 1


def beat(storage: Storage, held: Claim) -> Ownership:
    """Write a heartbeat, so that this trial is not reaped; learn whether it is still this worker's.

    Raises:
        StorageError: No heartbeat was written; the caller decides for how long to train on.
    """
    values = {
        "first_stage": stage_name(held.study, FIRST_STAGE),
        "key": attribute.STOPPED,
        "trial_id": held.trial_id,
    }
    with mapped_errors(), storage.engine.begin() as connection:
        row = connection.execute(sql.BEAT, values).one_or_none()
    return Ownership(running=bool(row and row.running), stopped=bool(row and row.stopped))


def complete(
    storage: Storage, trial_id: int, error: float, user_attrs: UserAttrs = NO_USER_ATTRS
) -> None:
    """Finish a trial with its validation error (%)."""
    _finish(storage, [trial_id], "COMPLETE", error, user_attrs)


def fail(
    storage: Storage, trial_id: int, reason: str, message: str | None, output: str | None = None
) -> None:
    """Close a trial without a result.

    Args:
        storage: The database.
        trial_id: Optuna's id of the trial.
        reason: One of the reasons in :mod:`kdecay_search.study.trials`.
        message: The error in one line; None if there is nothing to say.
        output: A traceback, or the end of the program's output; None if there is none.
    """
    stored = {attribute.REASON: reason, attribute.MESSAGE: message, attribute.OUTPUT: output}
    user_attrs = {key: value for key, value in stored.items() if value is not None}
    _finish(storage, [trial_id], "FAIL", None, user_attrs)


def withdraw(storage: Storage, trial_ids: Sequence[int]) -> None:
    """Close trials whose runs another trial serves."""
    _finish(storage, trial_ids, "FAIL", None, {attribute.REASON: WITHDRAWN})


@retried
def release(storage: Storage, held: Claim) -> None:
    """Put a claimed trial back into the queue; no attempt is used up.

    Only while it runs under this worker's name: repeated after a connection dropped behind a
    commit, it must not take the trial from its next holder.
    """
    values = {
        "trial_id": held.trial_id,
        "key": attribute.WORKER,
        "worker": json.dumps(held.worker),
    }
    with storage.engine.begin() as connection:
        connection.execute(sql.RELEASE, values)


@retried
def note(storage: Storage, trial_id: int, user_attrs: UserAttrs) -> None:
    """Keep values with a trial that has not ended, for reports to show."""
    values = {"trial_id": trial_id, **attribute_columns(user_attrs)}
    with storage.engine.begin() as connection:
        connection.execute(sql.SET_USER_ATTRS, values)


@retried
def _finish(
    storage: Storage,
    trial_ids: Sequence[int],
    state: str,
    value: float | None,
    user_attrs: UserAttrs,
) -> None:
    """End trials, unless others have ended or deleted them; their value and user attributes (the
    curves, for example) are written in the same moment."""
    stored, kind = (None, None) if value is None else stored_value(value)
    if kind == "NAN":  # which Optuna's models know among the reported values only
        stored, kind = value, "FINITE"
    values: dict[str, Any] = {
        "trial_ids": list(trial_ids),
        "state": state,
        "now": now(),
        "value": stored,
        "type": kind,
        **attribute_columns(user_attrs),
    }
    with storage.engine.begin() as connection:
        connection.execute(sql.FINISH, values)


@retried
def reap(storage: Storage, name: str, grace_seconds: float) -> int:
    """Fail the running trials whose worker has been silent for longer than the grace period.

    Silence is measured by the database's clock. While the server is down nobody can send a
    heartbeat, so the period begins anew when the server starts.

    Args:
        storage: The database.
        name: The study.
        grace_seconds: The grace period.

    Returns:
        How many trials have failed.
    """
    values = {"grace": grace_seconds} | _lost(name, f"no heartbeat for {grace_seconds:g} s")
    with storage.engine.begin() as connection:
        return int(connection.scalar(sql.REAP_SILENT, values) or 0)


@retried
def reap_process(storage: Storage, name: str, process: str) -> int:
    """Fail the running trials of a dead process.

    Args:
        storage: The database.
        name: The study.
        process: What the names of the process's workers begin with.

    Returns:
        How many trials have failed.
    """
    beginning = json.dumps(process).removesuffix('"')
    values = {"worker_key": attribute.WORKER, "beginning": beginning}
    with storage.engine.begin() as connection:
        values |= _lost(name, "its worker was killed")
        return int(connection.scalar(sql.REAP_PROCESS, values) or 0)


def _lost(name: str, message: str) -> dict[str, Any]:
    """Parameters of both statements that fail lost trials."""
    user_attrs = {attribute.REASON: LOST, attribute.MESSAGE: message}
    return {"prefix": prefix(name), "now": now(), **attribute_columns(user_attrs)}


def stored_value(value: float) -> tuple[float | None, str]:
    """A reported value as Optuna's tables hold it: a number, if it is finite, and what it is."""
    if math.isfinite(value):
        return value, "FINITE"
    if math.isnan(value):
        return None, "NAN"
    return None, "INF_POS" if value > 0 else "INF_NEG"


def now() -> datetime:
    """The time as Optuna's tables hold it: in UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)


def attribute_columns(user_attrs: UserAttrs) -> dict[str, list[str]]:
    """User attributes as the parameters of the statements that write them."""
    texts = [json.dumps(value) for value in user_attrs.values()]
    return {"keys": list(user_attrs), "texts": texts}
