"""Studies and their trials as the storage holds them, read into plain values.

A study NAME is a family of Optuna studies, one for each stage: ``NAME/k1``, ``NAME/k2``, …, and
``NAME/confirm`` for the confirmation. The first carries the study's spec, and whether it was
stopped, in its user attributes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy

from kdecay_search.errors import InvalidSpec, StudyError
from kdecay_search.storage import attributes as attribute
from kdecay_search.storage import history
from kdecay_search.storage.connect import Storage, mapped_errors, retried
from kdecay_search.storage.sql import studies as study_sql
from kdecay_search.storage.sql import trials as trial_sql
from kdecay_search.study import file as study_file
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import NAME_PATTERN, StudySpec
from kdecay_search.study.trials import (
    CONFIRMATION,
    FIRST_STAGE,
    MEMORY,
    RAW_ONLY,
    RunRequest,
    Trial,
    Trials,
)

Row = sqlalchemy.Row[Any]


def stage_name(name: str, stage: int) -> str:
    """Optuna's name of a stage, or of the confirmation."""
    return f"{name}/confirm" if stage == CONFIRMATION else f"{name}/k{stage}"


def prefix(name: str) -> str:
    """What Optuna's names of the stages of a study begin with."""
    return f"{name}/"


@dataclass(frozen=True)
class StoredStudy:
    """What the storage holds of a study besides its trials."""

    spec: StudySpec
    """The study file's content, as launched."""
    stopped: bool
    """Whether the user has stopped the study."""
    stage_ids: Mapping[int, int]
    """Optuna's study id of each stage that has begun, by stage number; the confirmation last."""
    attributes: Mapping[int, Mapping[str, Any]]
    """User attributes of each of these stages, by stage number."""


def find_study(storage: Storage, name: str) -> StoredStudy | None:
    """Read a study; None if there is none of that name, or its launch was cut short.

    Raises:
        InvalidSpec: This version does not understand what is stored.
    """
    stages = _read_stages(storage, name)
    attributes = {
        number: {key: json.loads(text) for key, text in (row.attributes or {}).items()}
        for number, row in stages.items()
    }
    first = attributes.get(FIRST_STAGE, {})
    if attribute.SPEC not in first:
        return None
    spec = study_file.from_json(first[attribute.SPEC])
    if spec.name != name:
        raise InvalidSpec(f"stored study {name!r}: holds the spec of a study {spec.name!r}")
    return StoredStudy(
        spec=spec,
        stopped=bool(first.get(attribute.STOPPED, False)),
        stage_ids={number: row.study_id for number, row in stages.items()},
        attributes=attributes,
    )


def read_study(storage: Storage, name: str) -> StoredStudy:
    """Read a study.

    Raises:
        StudyError: There is no study of that name.
        InvalidSpec: This version does not understand what is stored.
    """
    found = find_study(storage, name)
    if found is None:
        raise _no_study(storage, name)
    return found


def stage_ids(storage: Storage, name: str) -> dict[int, int]:
    """Optuna's study id of each stage that has begun, by stage number; the confirmation last."""
    return {number: row.study_id for number, row in _read_stages(storage, name).items()}


@retried
def _read_stages(storage: Storage, name: str) -> dict[int, Row]:
    with storage.engine.connect() as connection:
        rows = connection.execute(study_sql.READ_STUDY, {"prefix": prefix(name)}).all()
    by_name = {row.stage: row for row in rows}
    confirmation = by_name.pop("confirm", None)
    stages = {int(stage[1:]): by_name[stage] for stage in by_name}
    in_order = dict(sorted(stages.items()))
    return in_order if confirmation is None else in_order | {CONFIRMATION: confirmation}


@retried
def study_names(storage: Storage) -> list[str]:
    """Names of all studies, oldest first, except of those that no study file can describe."""
    values = {"pattern": f"{NAME_PATTERN[:-1]}/k1$", "spec": attribute.SPEC}
    with storage.engine.connect() as connection:
        names = connection.scalars(study_sql.STUDY_NAMES, values)
        return [name.removesuffix("/k1") for name in names]


def _no_study(storage: Storage, name: str) -> StudyError:
    known = study_names(storage)
    listed = f"; there are: {', '.join(known)}" if known else "; there are no studies yet"
    return StudyError(f"no study named {name!r}{listed}")


@retried
def count_trials(storage: Storage, name: str) -> int:
    """Number of trials in all stages of a study.

    Raises:
        StudyError: There is no study of that name.
    """
    with storage.engine.connect() as connection:
        row = connection.execute(study_sql.COUNT_TRIALS, {"prefix": prefix(name)}).one()
    if not row.stages:
        raise _no_study(storage, name)
    return int(row.trials)


@retried
def create_stage(storage: Storage, name: str, stage: int) -> int:
    """Create a stage if it is new; return Optuna's study id of it."""
    known = stage_ids(storage, name).get(stage)
    if known is not None:  # a failed CREATE would be an error in the server's log
        return known
    from optuna.exceptions import DuplicatedStudyError  # noqa: PLC0415 - a quarter of a second
    from optuna.study import StudyDirection  # noqa: PLC0415

    study_name = stage_name(name, stage)
    with storage.borrow_optuna() as optuna:
        try:
            return optuna.create_new_study([StudyDirection.MINIMIZE], study_name)
        except DuplicatedStudyError:
            return optuna.get_study_id_from_name(study_name)


@retried
def write_attributes(storage: Storage, attributes: Mapping[int, Mapping[str, Any]]) -> None:
    """Set user attributes of stages.

    Args:
        storage: The database.
        attributes: JSON-serialisable values by Optuna's study id and name.
    """
    rows = [
        (study_id, key, json.dumps(value))
        for study_id, values in attributes.items()
        for key, value in values.items()
    ]
    if rows:
        study_ids, keys, texts = (list(column) for column in zip(*rows, strict=True))
        values = {"study_ids": study_ids, "keys": keys, "texts": texts}
        with storage.engine.begin() as connection:
            connection.execute(study_sql.WRITE_ATTRIBUTES, values)


@retried
def delete_study(storage: Storage, name: str) -> None:
    """Delete all stages of a study; the first, which makes it a study, last."""
    with storage.borrow_optuna() as optuna:
        for study_id in reversed(stage_ids(storage, name).values()):
            optuna.delete_study(study_id)


@dataclass(frozen=True)
class SeedTrial:
    """A trial of one seed that has not failed, with all that it has reported."""

    trial_id: int
    """Optuna's id of the trial."""
    request: RunRequest
    """The run that the trial attempts."""
    candidate: Candidate | None
    """The point of the search space that the trial tries; None until the sampler has chosen it."""
    values: Sequence[float]
    """The reported error (%) after each epoch, from the first: averaged unless ``is_raw``."""
    is_raw: bool
    """Whether some of the values are raw errors, for lack of averaged ones."""
    is_pruned: bool
    """Whether the trial was stopped early, or skipped."""


def read_seed(storage: Storage, study_id: int, seed: int) -> list[SeedTrial]:
    """Read the trials of one seed in one of Optuna's studies, except those that failed.

    One statement reads everything, so that all values belong to the same moment. Trials that were
    not queued by this package are left out.

    Raises:
        StorageError: The database does not answer; the call may be repeated.
    """
    values = {
        "study_id": study_id,
        "seed": str(seed),
        "parameter": attribute.K,
        "level": attribute.LR_MAX,
        "attributes": [*attribute.REQUEST, RAW_ONLY],
    }
    with mapped_errors(), storage.engine.connect() as connection:
        rows = connection.execute(trial_sql.OF_SEED, values).all()
    trials = []
    for row in rows:
        attributes = {key: json.loads(text) for key, text in row.attributes.items()}
        request = attribute.read_request(attributes)
        if request is None:
            continue
        k = request.k if row.k is None else row.k
        lr_max = request.lr_max if row.level is None else history.chosen_level(row.level)
        trials.append(
            SeedTrial(
                trial_id=row.trial_id,
                request=request,
                candidate=None if k is None else Candidate(k, lr_max),
                values=row.reported,
                is_raw=bool(attributes.get(RAW_ONLY, False)),
                is_pruned=row.state == "PRUNED",
            )
        )
    return trials


@retried
def read_history(storage: Storage, name: str) -> Trials:
    """Read all trials of all stages of a study.

    A process reads again only what may have changed since it last looked
    (:mod:`kdecay_search.storage.history`).
    """
    known = storage.histories.get(name, history.History())
    with storage.engine.connect() as connection:
        if not known.refresh(connection, prefix(name)):
            known = history.History()
            known.refresh(connection, prefix(name))
    storage.histories[name] = known
    return known.trials


def read_trials(storage: Storage, name: str) -> list[Trial]:
    """Read all trials of a study as a list: stage by stage, in the order of their numbers."""
    return list(read_history(storage, name))


@retried
def read_progress(storage: Storage, workers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Read what workers have done in all studies.

    Returns:
        By the name of each worker that ever claimed a trial: how many epochs it has reported, and
        how many of its trials failed for lack of memory.
    """
    names = [json.dumps(worker) for worker in workers]
    values = {"key": attribute.WORKER, "memory": json.dumps(MEMORY), "workers": names}
    with storage.engine.connect() as connection:
        rows = connection.execute(trial_sql.PROGRESS, values).all()
    return {json.loads(row.worker): (int(row.epochs), int(row.failures)) for row in rows}
