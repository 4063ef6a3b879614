"""Studies and their trials as the storage holds them, read into plain values.

A study NAME is a family of Optuna studies, one per stage: ``NAME/k1``, ``NAME/k2``, … The first
carries the study's spec and whether it was stopped. A trial's user attributes carry its token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import optuna
import sqlalchemy
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdecay_search import study_file
from kdecay_search.errors import InvalidSpec, StudyError
from kdecay_search.runs import LOST, RunKey, State, Token, Trial
from kdecay_search.spec import NAME_PATTERN, StudySpec
from kdecay_search.storage.connect import Storage, retried

PARAMETER = "k"
SPEC = "spec"
STOPPED = "stopped"
WORKER = "worker"
RESUMED = "resumed_epochs"
CURVES = ("validation_error", "averaged_error", "training_loss", "learning_rate")
"""User attributes of a trial: one list each, by epoch."""

_STATES = {
    TrialState.WAITING: State.WAITING,
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}


def stage_name(name: str, stage: int) -> str:
    """What Optuna calls the study of a stage."""
    return f"{name}/k{stage}"


@retried
def study_names(storage: Storage) -> list[str]:
    """All studies, oldest first. A name that no study file can have is nobody's study."""
    statement = """
        SELECT s.study_name FROM studies s JOIN study_user_attributes a USING (study_id)
        WHERE s.study_name ~ :ours AND a.key = :key ORDER BY s.study_id
    """
    values = {"ours": f"{NAME_PATTERN[:-1]}/k1$", "key": SPEC}
    with storage.engine.connect() as connection:
        names = connection.scalars(sqlalchemy.text(statement), values)
        return [name.removesuffix("/k1") for name in names]


@retried
def stage_ids(storage: Storage, name: str) -> dict[int, int]:
    """Optuna's study id of each stage that was opened, by stage number."""
    statement = "SELECT study_name, study_id FROM studies WHERE starts_with(study_name, :prefix)"
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(statement), {"prefix": f"{name}/k"}).all()
    numbered = {study_name.removeprefix(f"{name}/k"): study_id for study_name, study_id in rows}
    return {int(stage): numbered[stage] for stage in sorted(numbered, key=int) if stage.isdigit()}


@retried
def read_attributes(storage: Storage, name: str) -> dict[str, Any] | None:
    """The study's own attributes; None if there is no such study."""
    try:
        study_id = storage.optuna.get_study_id_from_name(stage_name(name, 1))
    except KeyError:
        return None
    return dict(storage.optuna.get_study_user_attrs(study_id))


def read_study(storage: Storage, name: str) -> tuple[StudySpec, bool]:
    """The study file's content as launched, and whether the user asked the study to stop.

    Raises :class:`StudyError` if there is no such study, :class:`InvalidSpec` if this version
    does not understand what is stored.
    """
    attributes = read_attributes(storage, name)
    if attributes is None or SPEC not in attributes:
        raise _no_study(storage, name)
    spec = study_file.from_json(attributes[SPEC])
    if spec.name != name:
        raise InvalidSpec(f"stored study {name!r}: holds the spec of a study {spec.name!r}")
    return spec, bool(attributes.get(STOPPED, False))


def _no_study(storage: Storage, name: str) -> StudyError:
    known = study_names(storage)
    listed = f"; there are: {', '.join(known)}" if known else "; there are no studies yet"
    return StudyError(f"no study named {name!r}{listed}")


@retried
def count_trials(storage: Storage, name: str) -> int:
    """Trials of all stages. Raises :class:`StudyError` if there is no such study."""
    ids = stage_ids(storage, name).values()
    if not ids:
        raise _no_study(storage, name)
    return sum(storage.optuna.get_n_trials(study_id) for study_id in ids)


@retried
def create_stage(storage: Storage, name: str, stage: int) -> int:
    """Optuna's study id of a stage, which is created if it is new."""
    study_name = stage_name(name, stage)
    try:
        return storage.optuna.create_new_study([StudyDirection.MINIMIZE], study_name)
    except optuna.exceptions.DuplicatedStudyError:
        return storage.optuna.get_study_id_from_name(study_name)


@retried
def write_attributes(storage: Storage, study_id: int, attributes: dict[str, Any]) -> None:
    """Set those user attributes of one of Optuna's studies that differ."""
    present = storage.optuna.get_study_user_attrs(study_id)
    for key, value in attributes.items():
        if key not in present or present[key] != value:
            storage.optuna.set_study_user_attr(study_id, key, value)


@retried
def delete_study(storage: Storage, name: str) -> None:
    """Delete all stages; the first, which makes it a study, last."""
    for study_id in reversed(stage_ids(storage, name).values()):
        storage.optuna.delete_study(study_id)


@retried
def read_trials(storage: Storage, name: str) -> list[Trial]:
    """All trials of all stages."""
    return [
        record(trial)
        for study_id in stage_ids(storage, name).values()
        for trial in _tokens_only(storage.optuna.get_all_trials(study_id, deepcopy=False))
    ]


def _tokens_only(trials: Sequence[FrozenTrial]) -> Iterable[FrozenTrial]:
    """Without trials that somebody added by other means, which belong to no run."""
    return (trial for trial in trials if "candidate" in trial.user_attrs)


def record(trial: FrozenTrial) -> Trial:
    """One of Optuna's trials as a plain value."""
    attributes = trial.user_attrs
    token = read_token(trial)
    steps = trial.intermediate_values
    return Trial(
        number=trial.number,
        token=token,
        state=_STATES[trial.state],
        k=trial.params.get(PARAMETER, token.k),
        error=trial.value if trial.state == TrialState.COMPLETE else None,
        epochs=len(steps),
        averaged_error=steps[max(steps)] if steps else None,
        reason=attributes.get("reason", LOST) if trial.state == TrialState.FAIL else None,
        message=attributes.get("message"),
        worker=attributes.get(WORKER),
        resumed_epochs=attributes.get(RESUMED, 0),
        trial_id=trial._trial_id,
    )


def read_token(trial: FrozenTrial) -> Token:
    """The token that a trial was queued with."""
    attributes = trial.user_attrs
    low, high = attributes["bounds"]
    return Token(
        key=RunKey(attributes["stage"], attributes["candidate"], attributes["seed"]),
        earlier_ks=tuple(attributes["earlier_ks"]),
        k=attributes["k"],
        bounds=(low, high),
        protected=attributes["protected"],
    )


def token_attributes(token: Token) -> dict[str, Any]:
    """The user attributes that a trial is queued with."""
    return {
        "stage": token.key.stage,
        "candidate": token.key.candidate,
        "seed": token.key.seed,
        "earlier_ks": list(token.earlier_ks),
        "k": token.k,
        "bounds": list(token.bounds),
        "protected": token.protected,
    }
