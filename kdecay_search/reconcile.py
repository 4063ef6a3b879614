"""Bringing the storage in line with the plan: one idempotent step, under the study's lock.

``launch`` reconciles, and so does every worker that is idle or has just finished a trial, so a
study continues when the terminal that launched it is closed. A process may be killed anywhere: the
next reconciliation completes what it left unfinished.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdecay_search.errors import StudyError
from kdecay_search.search import Plan
from kdecay_search.snapshot import StudySnapshot, read_snapshot, take_snapshot
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.connect import Lock
from kdecay_search.storage.records import StoredStudy
from kdecay_search.study import file as study_file
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, FIRST_STAGE


def launch(storage: Storage, spec: StudySpec) -> bool:
    """Create a study, or resume it if it exists; return whether it is new.

    Raises:
        StudyError: The study exists with other settings, and its results would mix.
    """
    stored = records.find_study(storage, spec.name)
    if stored is not None:
        changed = study_file.differences(stored.spec, spec)
        if changed:
            raise StudyError(
                f"study {spec.name!r} exists with other settings, and its results would mix: "
                f"{'; '.join(changed)}. Give the new study another name (--set name=...), "
                f"or delete the old one (kdecay delete {spec.name})"
            )
        if not spec.confirm.seeds:  # a confirmation that kdecay confirm has asked for stays
            spec = spec.model_copy(update={"confirm": stored.spec.confirm})
    _write_spec(storage, spec)
    return stored is None


def confirm(storage: Storage, spec: StudySpec) -> None:
    """Let a study end with the confirmation that ``spec`` asks for.

    Raises:
        StudyError: There is no such study; or a confirmation with the same first seed has results,
            and ``spec`` asks for another number of seeds: to add seeds after a look at the result
            is no test.
    """
    snapshot = read_snapshot(storage, spec.name)
    last = snapshot.plan.confirmation
    has_results = last is not None and any(row.errors for row in last.rows)
    old, new = snapshot.spec.confirm, spec.confirm
    if has_results and new.first_seed == old.first_seed and new.seeds != old.seeds:
        raise StudyError(
            f"study {spec.name!r} is being confirmed with {old.seeds} seeds, and to add some after "
            f"a look at the result is no test; --again repeats it with {new.seeds} fresh ones"
        )
    _write_spec(storage, spec)


def _write_spec(storage: Storage, spec: StudySpec) -> None:
    study_id = records.create_stage(storage, spec.name, FIRST_STAGE)
    launched = {attribute.SPEC: spec.to_json(), attribute.STOPPED: False}
    records.write_attributes(storage, {study_id: launched})


def stop(storage: Storage, name: str) -> None:
    """Ask the workers to put their trials of a study back, and to claim no more of them.

    Raises:
        StudyError: There is no such study.
    """
    first = records.read_study(storage, name).stage_ids[FIRST_STAGE]
    records.write_attributes(storage, {first: {attribute.STOPPED: True}})


def reconcile(storage: Storage, name: str) -> StudySnapshot | None:
    """Fail what was lost, make a plan, and let the storage hold what the plan wants.

    Args:
        storage: The database.
        name: The study.

    Returns:
        The study after these changes; None if another process is reconciling it just now.

    Raises:
        StudyError: There is no such study.
        InvalidSpec: This version does not understand its spec.
        StorageUnavailable: The database cannot be reached, or the lock was lost in the meantime.
    """
    with storage.lock(name) as lock:
        if lock is None:
            return None
        study = records.read_study(storage, name)
        queue.reap(storage, name, study.spec.workers.grace_seconds)
        snapshot = take_snapshot(storage, study)
        if study.stopped:
            return snapshot
        plan = snapshot.plan
        if plan.withdraw or plan.enqueue or plan.skip:
            study = _apply(storage, study, plan, lock)
            snapshot = take_snapshot(storage, study)
        described = {}
        for stage, values in _descriptions(snapshot).items():
            stored = study.attributes.get(stage, {})
            differing = {k: v for k, v in values.items() if k not in stored or stored[k] != v}
            if differing and stage in study.stage_ids:
                described[study.stage_ids[stage]] = differing
        if described:
            lock.confirm()
            records.write_attributes(storage, described)
        return snapshot


def _apply(storage: Storage, study: StoredStudy, plan: Plan, lock: Lock) -> StoredStudy:
    """Write what a plan wants, asking before every write whether the lock is still held.

    Returns:
        The study, with the stage that the plan has opened, if it has.
    """
    if plan.withdraw:
        lock.confirm()
        queue.withdraw(storage, [trial.trial_id for trial in plan.withdraw])
    for add, requests in ((queue.enqueue, plan.enqueue), (queue.skip, plan.skip)):
        if requests:
            stage = requests[0].key.stage  # all of one stage
            lock.confirm()
            if stage not in study.stage_ids:
                study_id = records.create_stage(storage, study.spec.name, stage)
                study = replace(study, stage_ids={**study.stage_ids, stage: study_id})
                lock.confirm()
            add(storage, study.stage_ids[stage], requests)
    return study


def _descriptions(snapshot: StudySnapshot) -> dict[int, dict[str, Any]]:
    """What each stage is and what came of it, by stage number: Optuna's dashboard shows it."""
    plan, descriptions = snapshot.plan, {}
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
    if plan.confirmation is not None and snapshot.confirmed is not None:
        descriptions[CONFIRMATION] = {
            "ks": list(plan.confirmation.ks),
            "state": str(plan.progress),
            "verdict": str(snapshot.confirmed.outcome),
        }
    return descriptions
