"""Bringing the storage to the plan: one idempotent :func:`tick`, under the study's lock.

``launch`` ticks, and so does every worker that is idle or has just finished a trial, so a study
goes on when the terminal that launched it is closed. Killed anywhere, the next tick heals it.
"""

from __future__ import annotations

from kdecay_search.errors import StudyError
from kdecay_search.search import Plan
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.connect import Lock
from kdecay_search.study import file as study_file
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, WITHDRAWN


def launch(storage: Storage, spec: StudySpec) -> bool:
    """Create the study, or go on with it; return whether it is new.

    Raises :class:`StudyError` if it exists with a spec that would mix results.
    """
    attributes = records.read_attributes(storage, spec.name)
    is_new = attributes is None or records.SPEC not in attributes
    if attributes is not None and not is_new:
        stored = study_file.from_json(attributes[records.SPEC])
        _refuse_mixture(stored, spec)
        if not spec.confirm.seeds:  # kdecay confirm has asked for it: that stands
            spec = spec.model_copy(update={"confirm": stored.confirm})
    _write(storage, spec)
    return is_new


def _write(storage: Storage, spec: StudySpec) -> None:
    study_id = records.create_stage(storage, spec.name, 1)
    launched = {records.SPEC: spec.to_json(), records.STOPPED: False}
    records.write_attributes(storage, study_id, launched)


def confirm(storage: Storage, spec: StudySpec) -> None:
    """Let the study end with the confirmation that ``spec`` asks for.

    Raises :class:`StudyError` if one with the same first seed has results and another number of
    seeds: to add seeds until the verdict pleases is no test.
    """
    snapshot = read_snapshot(storage, spec.name)
    last = snapshot.plan.confirmation
    begun = last is not None and any(row.errors for row in last.rows)
    old, new = snapshot.spec.confirm, spec.confirm
    if begun and new.first_seed == old.first_seed and new.seeds != old.seeds:
        raise StudyError(
            f"study {spec.name!r} is being confirmed with {old.seeds} seeds, and to add some after "
            f"a look at the result is no test; --again repeats it with {new.seeds} fresh ones"
        )
    _write(storage, spec)


def _refuse_mixture(old: StudySpec, new: StudySpec) -> None:
    changed = study_file.differences(old, new)
    if changed:
        raise StudyError(
            f"study {new.name!r} exists with other settings, and its results would mix: "
            f"{'; '.join(changed)}. Give the new study another name (--set name=...), "
            f"or delete the old one (kdecay delete {new.name})"
        )


def stop(storage: Storage, name: str) -> None:
    """Ask the workers to put their trials back and to take no more of this study."""
    records.read_study(storage, name)
    first = records.stage_ids(storage, name)[1]
    records.write_attributes(storage, first, {records.STOPPED: True})


def reconcile(storage: Storage, name: str) -> StudySnapshot | None:
    """Reap, plan, and bring the storage to the plan; None if another process is at it just now.

    Returns the study as it stood; what was queued by this very call is not yet in the snapshot.
    """
    with storage.lock(name) as held:
        if held is None:
            return None
        spec, _ = records.read_study(storage, name)
        queue.reap(storage, name, spec.workers.grace_seconds)
        snapshot = read_snapshot(storage, name)
        if not snapshot.stopped:
            _apply(storage, name, snapshot.plan, held)
        return snapshot


def _apply(storage: Storage, name: str, plan: Plan, held: Lock) -> None:
    """Write what differs, asking before every write that the plan is still the newest one."""
    for trial in plan.withdraw:
        held.confirm()
        queue.fail(storage, trial.trial_id, WITHDRAWN, None)
    if plan.enqueue or plan.skip:  # of one stage, always
        held.confirm()
        stage = (*plan.enqueue, *plan.skip)[0].key.stage
        study_id = records.create_stage(storage, name, stage)
        if plan.enqueue:
            held.confirm()
            queue.enqueue(storage, study_id, plan.enqueue)
        for request in plan.skip:
            held.confirm()
            queue.skip(storage, study_id, request)
    _describe_stages(storage, name, plan)


def _describe_stages(storage: Storage, name: str, plan: Plan) -> None:
    """Keep what each stage is, and what came of it, where the dashboard shows it."""
    ids = records.stage_ids(storage, name)
    for stage in plan.stages:
        if stage.n in ids:
            described = {
                "stage": stage.n,
                "earlier_ks": list(stage.earlier_ks),
                "state": str(stage.progress),
                "best_k": stage.best.k if stage.best else None,
                "kept": stage.kept,
            }
            if stage.best and stage.best.lr_max is not None:
                described["best_lr_max"] = stage.best.lr_max
            records.write_attributes(storage, ids[stage.n], described)
    if plan.confirmation and CONFIRMATION in ids:
        described = {
            "ks": list(plan.confirmation.ks),
            "state": str(plan.progress),
            "verdict": plan.confirmation.comparison.verdict,
        }
        records.write_attributes(storage, ids[CONFIRMATION], described)
