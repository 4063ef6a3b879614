"""The best schedule so far, in the forms that ``kdecay best`` prints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from kdecay_search.errors import StudyError
from kdecay_search.report.summary import summarise
from kdecay_search.schedules import export
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.forms import Form
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.own_parameters import own_text

_JSON_KEYS = ("study", "state", "metric", "schedule", "error", "baseline", "gain")
_SOURCES = {
    Form.PYTHON: export.kdecay_python_source,
    Form.TIMM: export.timm_source,
    Form.PYTORCH: export.pytorch_source,
    Form.HUGGINGFACE: export.huggingface_source,
    Form.KERAS: export.keras_source,
    Form.OPTAX: export.optax_source,
    Form.NANOGPT: export.nanogpt_source,
    Form.TORCHTITAN: export.torchtitan_source,
    Form.ULTRALYTICS: export.ultralytics_source,
}


def winner_as(snapshot: StudySnapshot, form: Form, total_steps: int | None = None) -> str:
    """The best schedule of a study as text.

    Args:
        snapshot: The study.
        form: The form of the text, such as Python source.
        total_steps: Optimizer updates of the training that the schedule is for; None leaves them
            as an argument of the source, and gives a CSV one row per epoch or step of the study.

    Raises:
        StudyError: The study has no result yet, or its schedule has a warm-up, which is counted in
            updates, and ``total_steps`` is None.
        InvalidSchedule: The library of this form cannot express the schedule.
    """
    if not snapshot.plan.leader.errors:
        raise StudyError(f"study {snapshot.spec.name!r} has no result yet; see kdecay status")
    length = snapshot.spec.task.length.total
    if form == Form.JSON:
        chosen = {key: each for key, each in summarise(snapshot).items() if key in _JSON_KEYS}
        return json.dumps(chosen, indent=2, allow_nan=False) + "\n"
    if form == Form.CSV:
        rows = total_steps or length
        return export.schedule_csv(best_schedule(snapshot, rows / length), rows)
    if total_steps is None and _has_open_warmup(snapshot):
        raise StudyError("the schedule has a warm-up, counted in updates: give --total-steps")
    schedule = best_schedule(snapshot, (total_steps or length) / length)
    if form == Form.LIGHTNING:
        return _own(snapshot) + _lightning(snapshot, schedule, total_steps)
    return _own(snapshot) + _SOURCES[form](schedule, total_steps)


def _own(snapshot: StudySnapshot) -> str:
    """A comment that says with which of the user's own parameters the schedule is the best; empty
    if the study has none."""
    point = snapshot.plan.leader.point
    if point is None or not point.args:
        return ""
    values = ", ".join(f"{name} = {own_text(value)}" for name, value in point.args)
    return f"# Found together with {values}.\n"


def _lightning(snapshot: StudySnapshot, schedule: Schedule, total_steps: int | None) -> str:
    """Source for Lightning, with the study's optimizer if that is known."""
    task = snapshot.spec.task
    sgd = task.optimizer.model_dump() if isinstance(task, ImagesTask) else None
    return export.lightning_source(schedule, total_steps, sgd)


def _has_open_warmup(snapshot: StudySnapshot) -> bool:
    """Whether the number of updates of the warm-up follows from that of the training."""
    point = snapshot.plan.leader.point
    if point is not None and point.warmup is not None:
        return point.warmup > 0
    return snapshot.spec.schedule.warmup_epochs > 0


def best_schedule(snapshot: StudySnapshot, steps_per_epoch: float) -> Schedule:
    """The best schedule of a study so far.

    Args:
        snapshot: The study.
        steps_per_epoch: Optimizer updates for each epoch, or for each step, of the study.
    """
    leader, length = snapshot.plan.leader, snapshot.spec.task.length
    found: Any = snapshot.schedule_of(leader, steps_per_epoch)
    point = leader.point
    if point is not None and point.warmup is not None and length.counts_steps:
        updates = max(1, round(length.total * steps_per_epoch))
        found = replace(found, warmup_steps=min(round(point.warmup * updates), updates - 1))
    schedule: Schedule = found
    return schedule
