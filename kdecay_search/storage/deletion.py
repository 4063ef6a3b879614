"""Deleting a study: all of its stages or nothing, also while workers train it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy

from kdecay_search.errors import StorageError, StudyError
from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.records import no_study, prefix
from kdecay_search.storage.sql import studies as sql

REQUEST_MARK = "earlier_ks"
"""An attribute that every request has, and every stage that was searched."""
MARKS = (attribute.SPEC, attribute.LAUNCH, REQUEST_MARK)
"""User attributes that tell a stage of this program's from an Optuna study of the same name."""


@dataclass(frozen=True)
class Deletion:
    """What a deletion has removed."""

    trials: int
    """Number of trials."""
    running: int
    """How many of them were being trained: their workers find out at their next heartbeat."""


@retried
def delete_study(storage: Storage, name: str) -> Deletion:
    """Delete all stages of a study, in one transaction that holds the study's lock.

    Nothing is added to the study meanwhile: the deletion waits for a process that is writing to it,
    and one that wants to write waits for the deletion and finds nothing. Its workers learn at their
    next heartbeat that their trials are gone, and stop training. Optuna studies that have a stage's
    name, but were not made by this program, are left alone.

    Raises:
        StudyError: There is no study of that name, or this program has not made it.
        StorageError: The database refused, or something remains. Nothing is deleted.
    """
    with storage.hold_lock(name) as lock:
        return _delete(lock.connection, storage, name)


def _delete(connection: sqlalchemy.Connection, storage: Storage, name: str) -> Deletion:
    values = {"prefix": prefix(name), "marks": list(MARKS), "request": REQUEST_MARK}
    stages = connection.execute(sql.OWN_STAGES, values).all()
    if not stages:
        raise no_study(storage, name)
    own = [stage for stage in stages if stage.has_runs or _is_marked(stage.attributes or {}, name)]
    if not own:
        names = ", ".join(repr(stage.study_name) for stage in stages)
        raise StudyError(
            f"study {name!r} was not launched by kdecay: {names} belongs to another program; "
            "delete it with that program, or in Optuna's dashboard"
        )
    ids = {"study_ids": [stage.study_id for stage in own]}
    connection.execute(sql.LOCK_STAGES, ids)
    states = Counter(connection.scalars(sql.LOCK_TRIALS, ids))
    for statement in sql.DELETE_STAGES:
        connection.execute(statement, ids)
    left = {stage.study_id for stage in connection.execute(sql.OWN_STAGES, values)}
    if left & set(ids["study_ids"]) or connection.execute(sql.LOCK_TRIALS, ids).first():
        raise StorageError(f"study {name!r} could not be deleted: parts of it remain")
    storage.histories.pop(name, None)
    return Deletion(trials=states.total(), running=states["RUNNING"])


def _is_marked(texts: Mapping[str, str | None], name: str) -> bool:
    """Whether the marks of a stage were written by this program."""
    if texts.keys() - {attribute.SPEC}:
        return True
    try:  # an attribute of this name may be anybody's
        spec = json.loads(json.loads(texts.get(attribute.SPEC) or "null"))
        return bool(spec["name"] == name)
    except (TypeError, ValueError, LookupError, RecursionError):
        return False
