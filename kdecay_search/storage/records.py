"""Studies and their trials as the storage holds them, read into plain values.

A study NAME is a family of Optuna studies, one per stage: ``NAME/k1``, ``NAME/k2``, … The first
carries the study's spec and whether it was stopped. A trial's user attributes carry its request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import json_to_distribution
from optuna.study import StudyDirection

from kdecay_search.errors import InvalidSpec, StudyError
from kdecay_search.storage import history
from kdecay_search.storage.connect import Storage, mapped_errors, retried
from kdecay_search.study import file as study_file
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import NAME_PATTERN, StudySpec
from kdecay_search.study.trials import CONFIRMATION, MEMORY, RAW, RunRequest, Trial, Trials

PARAMETER = history.PARAMETER
SPEC = "spec"
STOPPED = "stopped"
RESUMED = history.RESUMED
CURVES = ("validation_error", "averaged_error", "training_loss", "learning_rate")
"""User attributes of a trial: one list each, by epoch."""


def stage_name(name: str, stage: int) -> str:
    """What Optuna calls the study of a stage, or of the confirmation."""
    return f"{name}/confirm" if stage == CONFIRMATION else f"{name}/k{stage}"


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
    """Optuna's study id of each stage that was opened, by stage number; the confirmation last."""
    statement = "SELECT study_name, study_id FROM studies WHERE starts_with(study_name, :prefix)"
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(statement), {"prefix": f"{name}/"}).all()
    ids = {str(row.study_name): int(row.study_id) for row in rows}
    confirmation = ids.pop(stage_name(name, CONFIRMATION), None)
    numbered = {study_name.removeprefix(f"{name}/k"): ids[study_name] for study_name in ids}
    stages = sorted(int(number) for number in numbered if number.isdigit())
    found = {stage: numbered[str(stage)] for stage in stages if str(stage) in numbered}
    return found if confirmation is None else found | {CONFIRMATION: confirmation}


@retried
def read_attributes(storage: Storage, name: str) -> dict[str, Any] | None:
    """The study's own attributes; None if there is no such study."""
    statement = """
        SELECT a.key, a.value_json FROM studies s
        LEFT JOIN study_user_attributes a USING (study_id) WHERE s.study_name = :name
    """
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(statement), {"name": stage_name(name, 1)}).all()
    return {row.key: json.loads(row.value_json) for row in rows if row.key} if rows else None


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
    known = stage_ids(storage, name).get(stage)
    if known is not None:  # a vain attempt to create it would be an error in the server's log
        return known
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


@dataclass(frozen=True)
class SeedTrial:
    """A trial of one seed that has not failed, with all that it has reported."""

    trial_id: int
    request: RunRequest
    candidate: Candidate | None
    """The point of the search space that the trial tries; None until the sampler has chosen it."""
    values: Sequence[float]
    """The reported error (%) after each epoch, from the first: averaged unless ``is_raw``."""
    is_raw: bool
    """Whether some of the values are raw errors, for lack of averaged ones."""
    is_pruned: bool
    """Whether the trial was stopped early, or skipped."""


_SEED = """
    SELECT t.trial_id, t.state,
      (SELECT p.param_value FROM trial_params p
       WHERE p.trial_id = t.trial_id AND p.param_name = :parameter) AS k,
      (SELECT json_build_array(p.param_value, p.distribution_json) FROM trial_params p
       WHERE p.trial_id = t.trial_id AND p.param_name = :level) AS level,
      (SELECT json_object_agg(a.key, a.value_json) FROM trial_user_attributes a
       WHERE a.trial_id = t.trial_id AND a.key = ANY(:attributes)) AS attributes,
      ARRAY(SELECT CASE i.intermediate_value_type WHEN 'FINITE' THEN i.intermediate_value
              WHEN 'INF_POS' THEN 'Infinity' WHEN 'INF_NEG' THEN '-Infinity' ELSE 'NaN' END
            FROM trial_intermediate_values i
            WHERE i.trial_id = t.trial_id ORDER BY i.step) AS reported
    FROM trials t JOIN trial_user_attributes s USING (trial_id)
    WHERE t.study_id = :study_id AND t.state <> 'FAIL' AND s.key = 'seed' AND s.value_json = :seed
    ORDER BY t.trial_id
"""


def read_seed(storage: Storage, study_id: int, seed: int) -> list[SeedTrial]:
    """The trials of one seed in one of Optuna's studies, except those that failed.

    One statement reads everything, so that all values belong to the same moment. Trials that were
    not queued by this package are left out.

    Raises:
        StorageError: The database does not answer; the call may be repeated.
    """
    values = {
        "study_id": study_id,
        "seed": str(seed),
        "parameter": PARAMETER,
        "level": history.LEVEL,
        "attributes": [*history.REQUEST, history.CONTROL, history.LEVEL, history.LEVELS, RAW],
    }
    with mapped_errors(), storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(_SEED), values).all()
    trials = []
    for row in rows:
        attributes = {key: json.loads(text) for key, text in row.attributes.items()}
        request = history.read_request(attributes)
        if request is None:
            continue
        k, lr_max = request.k if row.k is None else row.k, request.lr_max
        if row.level is not None:
            place, choices = row.level
            lr_max = json_to_distribution(choices).to_external_repr(place)
        trials.append(
            SeedTrial(
                trial_id=row.trial_id,
                request=request,
                candidate=None if k is None else Candidate(k, lr_max),
                values=row.reported,
                is_raw=bool(attributes.get(RAW, False)),
                is_pruned=row.state == "PRUNED",
            )
        )
    return trials


@retried
def read_history(storage: Storage, name: str) -> Trials:
    """All trials of all stages. A process reads again only what may have changed since it last
    looked (:mod:`kdecay_search.storage.history`)."""
    known = storage.histories.get(name, {})
    ids = stage_ids(storage, name).values()
    histories = {study_id: known.get(study_id) or history.History(study_id) for study_id in ids}
    storage.histories[name] = histories
    with storage.engine.connect() as connection:
        for each in histories.values():
            each.refresh(connection)
    return Trials({k: group for each in histories.values() for k, group in each.groups.items()})


@retried
def read_progress(storage: Storage, workers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Of each of these workers, over all studies: epochs that it reported, and trials of its that
    failed for want of memory."""
    statement = """
        SELECT a.value_json AS worker,
          sum((SELECT count(*) FROM trial_intermediate_values i
               WHERE i.trial_id = a.trial_id)) AS epochs,
          count(r.trial_id) AS failures
        FROM trial_user_attributes a LEFT JOIN trial_user_attributes r
          ON r.trial_id = a.trial_id AND r.key = 'reason' AND r.value_json = :memory
        WHERE a.key = :key AND a.value_json = ANY(:workers) GROUP BY a.value_json
    """
    names = [json.dumps(worker) for worker in workers]
    values = {"key": history.WORKER, "memory": json.dumps(MEMORY), "workers": names}
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(statement), values).all()
    return {json.loads(row.worker): (int(row.epochs), int(row.failures)) for row in rows}


def read_trials(storage: Storage, name: str) -> list[Trial]:
    """The same as a list: stage by stage, in the order in which they were queued."""
    return list(read_history(storage, name))
