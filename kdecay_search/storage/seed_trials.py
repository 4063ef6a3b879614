"""The trials of one seed with their curves: what early stopping compares a run with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy

from kdecay_search.storage import attributes as attribute
from kdecay_search.storage import history
from kdecay_search.storage.connect import Storage, mapped_errors
from kdecay_search.storage.sql import trials as trial_sql
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import RAW_ONLY, RunRequest

Row = sqlalchemy.Row[Any]


@dataclass(frozen=True)
class SeedTrial:
    """A trial of one seed that has not failed, with all that it has reported."""

    trial_id: int
    """Optuna's id of the trial."""
    request: RunRequest
    """The run that the trial attempts."""
    candidate: Candidate | None
    """The point of the search space that the trial tries; None until the sampler has chosen it."""
    errors: Sequence[float]
    """The error after each report, from the first: averaged unless ``is_raw``; lower is better."""
    is_raw: bool
    """Whether some of the errors are those of the raw weights, for lack of averaged ones."""
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
    return [trial for row in rows if (trial := _seed_trial(row)) is not None]


def _seed_trial(row: Row) -> SeedTrial | None:
    """The trial of a row; None if it makes no sense, or is no run's."""
    try:
        attributes = {key: json.loads(text) for key, text in row.attributes.items()}
        request = attribute.read_request(attributes)
        if request is None:
            return None
        candidate = request.point or _chosen(request, row)
    except (TypeError, ValueError, LookupError, RecursionError):
        return None
    return SeedTrial(
        trial_id=row.trial_id,
        request=request,
        candidate=candidate,
        errors=[history.error_of(value, row.direction) for value in row.reported],
        is_raw=bool(attributes.get(RAW_ONLY, False)),
        is_pruned=row.state == "PRUNED",
    )


def _chosen(request: RunRequest, row: Row) -> Candidate | None:
    """What a trial's parameters, or else its request, say of k and the level."""
    k = request.k if row.k is None else row.k
    lr_max = request.lr_max if row.level is None else history.chosen_level(row.level)
    return None if k is None else Candidate(k, lr_max)
