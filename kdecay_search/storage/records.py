"""Studies and their trials as the storage holds them, read into plain values.

A study NAME is a family of Optuna studies, one for each stage: ``NAME/k1``, ``NAME/k2``, …, and
``NAME/confirm`` for the confirmation. The first carries the study's spec, and whether it was
stopped, in its user attributes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import sqlalchemy

from kdecay_search import __version__
from kdecay_search.errors import InvalidSpec, KDecayError, StudyError, UnreadableStudy
from kdecay_search.storage import attributes as attribute
from kdecay_search.storage import history
from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.sql import studies as study_sql
from kdecay_search.storage.sql import trials as trial_sql
from kdecay_search.study import file as study_file
from kdecay_search.study.metric import OptunaDirection
from kdecay_search.study.spec import NAME_PATTERN, StudySpec
from kdecay_search.study.trials import (
    CONFIRMATION,
    FIRST_STAGE,
    MEMORY,
    Trial,
    Trials,
)

Row = sqlalchemy.Row[Any]
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


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
    launch: str | None = None
    """Id of the launch that made the study; None if a version before there were ids made it."""
    foreign: frozenset[int] = frozenset()
    """Numbers of stages whose names are taken by Optuna studies that this launch did not make."""


@dataclass(frozen=True)
class StoredStage:
    """One of Optuna's studies that has the name of a study's stage."""

    study_id: int
    """Optuna's study id."""
    texts: Mapping[str, str | None]
    """User attributes as they are stored: JSON, if nobody has written anything else."""

    @property
    def launch(self) -> str | None:
        """Id of the launch that made the stage, as it is stored; None if there is none."""
        return self.texts.get(attribute.LAUNCH)

    @property
    def attributes(self) -> dict[str, Any]:
        """The user attributes, decoded; without those that are not JSON."""
        decoded = {}
        for key, text in self.texts.items():
            with contextlib.suppress(TypeError, ValueError, RecursionError):
                decoded[key] = json.loads(text)  # type: ignore[arg-type]
        return decoded


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn an error that a study's records cause, whatever it is, into one line.

    Others write to the database too, and one record that makes no sense must not end what works on
    all studies.

    Raises:
        UnreadableStudy: Something other than a :class:`KDecayError` or an error of the database was
            raised.
    """
    try:
        yield
    except (KDecayError, sqlalchemy.exc.SQLAlchemyError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UnreadableStudy(f"study {name!r} cannot be read: {reason}") from error


def find_study(
    storage: Storage, name: str, connection: sqlalchemy.Connection | None = None
) -> StoredStudy | None:
    """Read a study; None if there is none of that name.

    Args:
        storage: The database.
        name: The study.
        connection: A transaction to read it in.

    Raises:
        InvalidSpec: This version does not understand what is stored.
        UnreadableStudy: What is stored makes no sense.
    """
    stages = read_stages(storage, name) if connection is None else stages_of(connection, name)
    first = stages.get(FIRST_STAGE)
    if first is None or attribute.SPEC not in first.texts:
        return None
    own = {number: stage for number, stage in stages.items() if stage.launch == first.launch}
    with readable(name):
        attributes = {number: stage.attributes for number, stage in own.items()}
        stated = attributes[FIRST_STAGE]
        version = stated.get(attribute.VERSION)
        spec = study_file.from_json(stated.get(attribute.SPEC, ""), version)
        if spec.name != name:
            raise InvalidSpec(f"stored study {name!r}: holds the spec of a study {spec.name!r}")
        return StoredStudy(
            spec=spec,
            stopped=bool(stated.get(attribute.STOPPED, False)),
            stage_ids={number: stage.study_id for number, stage in own.items()},
            attributes=attributes,
            launch=stated.get(attribute.LAUNCH),
            foreign=frozenset(stages.keys() - own.keys()),
        )


def read_study(storage: Storage, name: str) -> StoredStudy:
    """Read a study.

    Raises:
        StudyError: There is no study of that name.
        InvalidSpec: This version does not understand what is stored.
        UnreadableStudy: What is stored makes no sense.
    """
    found = find_study(storage, name)
    if found is None:
        raise no_study(storage, name)
    return found


def stage_ids(storage: Storage, name: str) -> dict[int, int]:
    """Optuna's study id of each stage that has begun, by stage number; the confirmation last."""
    return {number: stage.study_id for number, stage in read_stages(storage, name).items()}


@retried
def read_stages(storage: Storage, name: str) -> dict[int, StoredStage]:
    """Read the stages of a study by number, the confirmation last, whatever they hold."""
    with storage.engine.connect() as connection:
        return stages_of(connection, name)


def stages_of(connection: sqlalchemy.Connection, name: str) -> dict[int, StoredStage]:
    """As :func:`read_stages`, in a transaction."""
    rows = connection.execute(study_sql.READ_STUDY, {"prefix": prefix(name)}).all()
    by_name = {row.stage: StoredStage(row.study_id, row.attributes or {}) for row in rows}
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


STAGES_PATTERN = f"{NAME_PATTERN[:-1]}/(k([1-9]|1[0-{study_sql.MAX_STAGES - 10}])|confirm)$"
"""Pattern of Optuna's names of stages."""
_ALL_STUDIES = {
    "stage_pattern": STAGES_PATTERN,
    "spec": attribute.SPEC,
    "ended_key": attribute.ENDED,
}


@retried
def active_studies(storage: Storage) -> list[str]:
    """Names of the studies that may want work, oldest first: one statement, however many have
    ended."""
    with storage.engine.connect() as connection:
        names = connection.scalars(study_sql.ACTIVE_STUDIES, _ALL_STUDIES)
        return [name.removesuffix("/k1") for name in names]


@retried
def with_waiting(storage: Storage, names: Sequence[str]) -> list[str]:
    """Those of several studies that have waiting trials, in one statement."""
    values = {"study_names": list(names), "stage_pattern": STAGES_PATTERN}
    with storage.engine.connect() as connection:
        found = set(connection.scalars(study_sql.WAITING_STUDIES, values))
    return [name for name in names if name in found]


@retried
def read_overviews(storage: Storage) -> dict[str, dict[str, Any] | None]:
    """Read what is noted about the studies that have ended.

    Returns:
        By the names of all studies, oldest first: the overview; None for a study that has not ended
        or whose overview another version has noted.
    """
    return {name: _overview(row.overview) for name, row in _read_ended(storage).items()}


@retried
def first_stages_of_ended(storage: Storage) -> dict[str, int | None]:
    """Optuna's ids of the first stages of the studies that have ended.

    Returns:
        By the names of all studies, oldest first: the id, which a study that is launched again does
        not have; None for a study that has not ended.
    """
    return {name: row.ended_id for name, row in _read_ended(storage).items()}


def _read_ended(storage: Storage) -> dict[str, Row]:
    values = {**_ALL_STUDIES, "overview_key": attribute.OVERVIEW}
    with storage.engine.connect() as connection:
        rows = connection.execute(study_sql.OVERVIEWS, values).all()
    return {row.study_name.removesuffix("/k1"): row for row in rows}


def _overview(text: str | None) -> dict[str, Any] | None:
    try:
        overview = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(overview, dict) and overview.pop("version", None) == __version__
    return overview if is_ours else None


def no_study(storage: Storage, name: str) -> StudyError:
    """The error for a study that does not exist."""
    if any(number != FIRST_STAGE for number in read_stages(storage, name)):
        return StudyError(
            f"study {name!r} has lost its first stage, which was deleted by other means; "
            f"kdecay delete {name} removes the rest"
        )
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
        raise no_study(storage, name)
    return int(row.trials)


@retried
def create_stage(
    storage: Storage,
    name: str,
    stage: int,
    attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    direction: OptunaDirection = "MINIMIZE",
) -> int:
    """Create a stage if it is new; return Optuna's study id of it.

    Args:
        storage: The database.
        name: The study.
        stage: Number of the stage.
        attributes: User attributes that the stage begins with.
        direction: Which direction of the metric is better.

    Raises:
        StudyError: The name is taken by an Optuna study that another launch, or something else,
            has made.
    """
    with storage.engine.begin() as connection:
        return insert_stage(connection, name, stage, attributes, direction)


def insert_stage(
    connection: sqlalchemy.Connection,
    name: str,
    stage: int,
    attributes: Mapping[str, Any],
    direction: OptunaDirection = "MINIMIZE",
) -> int:
    """As :func:`create_stage`, in a transaction."""
    known = stages_of(connection, name).get(stage)
    if known is None:
        texts = [json.dumps(value) for value in attributes.values()]
        values = {
            "stage_name": stage_name(name, stage),
            "direction": direction,
            "keys": list(attributes),
            "texts": texts,
        }
        made = connection.scalar(study_sql.CREATE_STAGE, values)
        if made is not None:
            return int(made)
        known = stages_of(connection, name)[stage]
    launch = attributes.get(attribute.LAUNCH)
    if known.launch != (None if launch is None else json.dumps(launch)):
        raise taken(name, stage)
    return known.study_id


def taken(name: str, stage: int) -> StudyError:
    """The error for a stage whose name something else has taken."""
    return StudyError(
        f"study {name!r}: there is an Optuna study {stage_name(name, stage)!r} that this launch "
        "did not make; rename or delete it, or give the study another name"
    )


@retried
def write_attributes(storage: Storage, attributes: Mapping[int, Mapping[str, Any]]) -> None:
    """Set user attributes of stages.

    Args:
        storage: The database.
        attributes: JSON-serialisable values by Optuna's study id and name.
    """
    with storage.engine.begin() as connection:
        set_attributes(connection, attributes)


def set_attributes(
    connection: sqlalchemy.Connection, attributes: Mapping[int, Mapping[str, Any]]
) -> None:
    """As :func:`write_attributes`, in a transaction."""
    rows = [
        (study_id, key, json.dumps(value))
        for study_id, values in attributes.items()
        for key, value in values.items()
    ]
    if rows:
        study_ids, keys, texts = (list(column) for column in zip(*rows, strict=True))
        values = {"study_ids": study_ids, "keys": keys, "texts": texts}
        connection.execute(study_sql.WRITE_ATTRIBUTES, values)


@retried
def read_history(storage: Storage, name: str, looks: tuple[int, ...] = ()) -> Trials:
    """Read all trials of all stages of a study.

    A process reads again only what may have changed since it last looked
    (:mod:`kdecay_search.storage.history`). While one thread reads, it alone has what is known:
    another that reads at the same moment reads everything.

    Args:
        storage: The database.
        name: The study.
        looks: The study's looks, for the trials' values there.
    """
    known = storage.histories.pop(name, None)
    if known is None or known.looks != looks:
        known = history.History(looks)
    with readable(name), storage.engine.connect() as connection:
        if not known.refresh(connection, prefix(name)):
            known = history.History(looks)
            known.refresh(connection, prefix(name))
    storage.histories[name] = known
    return known.trials


def read_trials(storage: Storage, name: str) -> list[Trial]:
    """Read all trials of a study as a list: stage by stage, in the order of their numbers."""
    return list(read_history(storage, name))


@retried
def read_progress(
    storage: Storage, workers: Sequence[str], studies: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Read what workers have done in some studies.

    Returns:
        By the name of each worker that has claimed a trial of theirs: how many epochs it has
        reported, and how many of its trials failed for lack of memory.
    """
    names = [json.dumps(worker) for worker in workers]
    values = {"key": attribute.WORKER, "memory": json.dumps(MEMORY), "workers": names}
    values["study_names"] = list(studies)
    with storage.engine.connect() as connection:
        rows = connection.execute(trial_sql.PROGRESS, values).all()
    return {json.loads(row.worker): (int(row.epochs), int(row.failures)) for row in rows}
