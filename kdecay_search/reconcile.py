"""Bringing the storage in line with the plan: one idempotent step, under the study's lock.

``launch`` reconciles, and so does every worker that is idle or has just finished a trial, so a
study continues when the terminal that launched it is closed. A process may be killed anywhere: the
next reconciliation completes what it left unfinished.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy

from kdecay_search import __version__
from kdecay_search.errors import StudyError
from kdecay_search.search.store import carry_out, wants_changes
from kdecay_search.snapshot import StudySnapshot, overview, take_snapshot
from kdecay_search.storage import Storage, pausing, queue, records
from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.connect import Lock, retried
from kdecay_search.storage.records import StoredStudy
from kdecay_search.study import file as study_file
from kdecay_search.study.candidate import candidate_name
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, FIRST_STAGE, RunRequest, State, Trial


@retried
def launch(storage: Storage, spec: StudySpec) -> bool:
    """Create a study, or resume it if it exists; return whether it is new.

    What is there is looked at, and the study written, in one transaction that holds the study's
    lock: of several launches at once, one creates the study, and the others find it.

    Raises:
        StudyError: The study exists with other settings, and its results would mix; or its name is
            taken by Optuna studies that kdecay did not launch.
    """
    name = spec.name
    with storage.hold_lock(name) as lock:
        stored = records.find_study(storage, name, lock.connection)
        if stored is None:
            _refuse_remains(lock.connection, name)
            written = _launched(spec) | {
                attribute.LAUNCH: uuid.uuid4().hex,
                attribute.VERSION: __version__,
            }
            direction = spec.task.metric.optuna_direction
            records.insert_stage(lock.connection, name, FIRST_STAGE, written, direction)
            return True
        spec = study_file.resumed(stored.spec, spec)
        changed = study_file.differences(stored.spec, spec)
        if changed:
            raise StudyError(
                f"study {name!r} exists with other settings, and its results would mix: "
                f"{'; '.join(changed)}. Give the new study another name (--set name=...), "
                f"or delete the old one (kdecay delete {name})"
            )
        if not spec.confirm.seeds:  # a confirmation that kdecay confirm has asked for stays
            spec = spec.model_copy(update={"confirm": stored.spec.confirm})
        records.set_attributes(lock.connection, {stored.stage_ids[FIRST_STAGE]: _launched(spec)})
        return False


def _refuse_remains(connection: sqlalchemy.Connection, name: str) -> None:
    """Refuse to launch a study into Optuna studies that have the names of its stages."""
    found = records.stages_of(connection, name)
    if not found:
        return
    names = ", ".join(repr(records.stage_name(name, stage)) for stage in found)
    if any(stage.launch for stage in found.values()):
        raise StudyError(
            f"study {name!r} was deleted in part: {names} is left of an earlier launch; remove it "
            f"by kdecay delete {name}, or choose another name (--set name=...)"
        )
    raise StudyError(
        f"the name {name!r} is taken: {names} is an Optuna study that kdecay did not launch; "
        "choose another name (--set name=...)"
    )


@retried
def confirm(storage: Storage, spec: StudySpec) -> None:
    """Let a study end with the confirmation that ``spec`` asks for.

    Raises:
        StudyError: There is no such study; or a confirmation with the same first seed has results,
            and ``spec`` asks for another number of seeds: to add seeds after a look at the result
            is no test.
    """
    with storage.hold_lock(spec.name) as lock:
        study = records.read_study(storage, spec.name)
        snapshot = take_snapshot(storage, study)
        last = snapshot.plan.confirmation
        has_results = last is not None and any(row.errors for row in last.rows)
        old, new = snapshot.spec.confirm, spec.confirm
        if has_results and new.first_seed == old.first_seed and new.seeds != old.seeds:
            raise StudyError(
                f"study {spec.name!r} is being confirmed with {old.seeds} seeds, and to add some "
                f"after a look at the result is no test; --again repeats it with {new.seeds} fresh "
                "ones"
            )
        records.set_attributes(lock.connection, {study.stage_ids[FIRST_STAGE]: _launched(spec)})


def _launched(spec: StudySpec) -> dict[str, Any]:
    """What the first stage of a study holds that has just been launched or resumed."""
    return {attribute.SPEC: spec.to_json(), attribute.STOPPED: False, attribute.ENDED: None}


def stop(storage: Storage, name: str) -> None:
    """Ask the workers to put their trials of a study back, and to claim no more of them.

    Nothing else of the study is read: one that this version does not understand can be stopped.

    Raises:
        StudyError: There is no such study.
    """
    first = records.read_stages(storage, name).get(FIRST_STAGE)
    if first is None or attribute.SPEC not in first.texts:
        raise records.no_study(storage, name)
    records.write_attributes(storage, {first.study_id: {attribute.STOPPED: True}})


def reconcile(
    storage: Storage,
    name: str,
    closed: Callable[[StoredStudy, Sequence[Trial]], None] = lambda study, trials: None,
) -> StudySnapshot | None:
    """Fail what was lost, make a plan, and let the storage hold what the plan wants.

    Args:
        storage: The database.
        name: The study.
        closed: Called with the paused trials that have ended as pruned, whose checkpoints nobody
            needs any more.

    Returns:
        The study after these changes; None if another process is reconciling it just now.

    Raises:
        StudyError: There is no such study, or its records make no sense.
        InvalidSpec: This version does not understand its spec.
        StorageUnavailable: The database cannot be reached, or the lock was lost in the meantime.
    """
    with storage.lock(name) as lock:
        if lock is None:
            return None
        study = records.read_study(storage, name)
        queue.reap(storage, name, study.spec.workers.grace_seconds)
        snapshot = take_snapshot(storage, study)
        plan = snapshot.plan
        store = _LockedStore(storage, study, lock)
        if not study.stopped and wants_changes(plan):
            carry_out(plan, store)
            snapshot = take_snapshot(storage, store.study)
        if snapshot.state in ("done", "failed"):
            left = [trial for trial in snapshot.trials if trial.state == State.PAUSED]
            if left:
                store.close(left)
                snapshot = take_snapshot(storage, store.study)
        study = store.study
        if store.closed:
            closed(study, store.closed)
        described = {}
        for stage, values in _descriptions(snapshot, study).items():
            stored = study.attributes.get(stage, {})
            differing = {k: v for k, v in values.items() if k not in stored or stored[k] != v}
            if differing and stage in study.stage_ids:
                described[study.stage_ids[stage]] = differing
        if described:
            lock.confirm()
            records.write_attributes(storage, described)
        return snapshot


class _LockedStore:
    """A study in the database as the :class:`~kdecay_search.search.store.Store` of its plan.

    Before every write it asks whether the lock is still held.
    """

    def __init__(self, storage: Storage, study: StoredStudy, lock: Lock) -> None:
        self.study = study
        """The study, with the stage that was opened last."""
        self.closed: list[Trial] = []
        """The paused trials that were closed."""
        self._storage, self._lock = storage, lock

    def withdraw(self, trials: Sequence[Trial]) -> None:
        self._lock.confirm()
        queue.withdraw(self._storage, [trial.trial_id for trial in trials])

    def resume(self, trials: Sequence[Trial]) -> None:
        self._lock.confirm()
        pausing.resume(self._storage, [trial.trial_id for trial in trials])

    def close(self, trials: Sequence[Trial]) -> None:
        self._lock.confirm()
        pausing.close_paused(self._storage, [trial.trial_id for trial in trials])
        self.closed += trials

    def enqueue(self, requests: Sequence[RunRequest]) -> None:
        queue.enqueue(self._storage, self._opened(requests[0].key.stage), requests)

    def skip(self, requests: Sequence[RunRequest]) -> None:
        queue.skip(self._storage, self._opened(requests[0].key.stage), requests)

    def _opened(self, stage: int) -> int:
        """Optuna's study id of a stage, which is created if it is new."""
        study, spec = self.study, self.study.spec
        self._lock.confirm()
        if stage in study.foreign:
            raise records.taken(spec.name, stage)
        if stage not in study.stage_ids:
            made_by = {} if study.launch is None else {attribute.LAUNCH: study.launch}
            direction = spec.task.metric.optuna_direction
            made = records.create_stage(self._storage, spec.name, stage, made_by, direction)
            self.study = replace(study, stage_ids={**study.stage_ids, stage: made})
            self._lock.confirm()
        return self.study.stage_ids[stage]


def _descriptions(snapshot: StudySnapshot, study: StoredStudy) -> dict[int, dict[str, Any]]:
    """What each stage is and what came of it, by stage number: Optuna's dashboard shows it."""
    plan = snapshot.plan
    descriptions: dict[int, dict[str, Any]] = {}
    for stage in plan.stages:
        descriptions[stage.n] = {
            "stage": stage.n,
            "earlier_ks": list(stage.earlier_ks),
            "state": str(stage.progress),
            "best_k": stage.best.k if stage.best else None,
            "kept": stage.kept,
        }
        if stage.best and stage.best.lr_max is not None:
            descriptions[stage.n]["best_lr_max"] = stage.best.lr_max
        if stage.best and stage.best.whole is not None:
            descriptions[stage.n]["best"] = candidate_name(stage.best.whole, stage.earlier_ks)
    if plan.confirmation is not None and snapshot.confirmed is not None:
        descriptions[CONFIRMATION] = {
            "ks": list(plan.confirmation.ks),
            "state": str(plan.progress),
            "verdict": str(snapshot.confirmed.outcome),
        }
    descriptions[FIRST_STAGE] |= _ending(snapshot, study)
    return descriptions


def _ending(snapshot: StudySnapshot, study: StoredStudy) -> dict[str, Any]:
    """What is noted of a study that wants no work any more, so that nobody looks at its trials."""
    if snapshot.state == "running" or snapshot.count(State.RUNNING):
        return {attribute.ENDED: None}
    return {
        attribute.ENDED: len(study.stage_ids) + len(study.foreign),
        attribute.OVERVIEW: {"version": __version__, **overview(snapshot)},
    }
