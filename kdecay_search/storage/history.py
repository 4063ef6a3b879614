"""The trials of a stage as plain values, kept by a process between its looks at them.

A trial that has finished does not change any more, so each is read once. Of the curves only the
number of epochs and the last averaged error are read, which is all that the procedure asks for:
Optuna's own cache would keep every value of every curve in every worker.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import sqlalchemy
from optuna.distributions import json_to_distribution

from kdecay_search.errors import printable
from kdecay_search.study.comparators import COMPARATORS
from kdecay_search.study.spec import LARGEST_K, SMALLEST_K
from kdecay_search.study.trials import (
    CONFIRMATION,
    LOST,
    RAW,
    CandidateKey,
    Replicates,
    RunKey,
    RunRequest,
    State,
    Trial,
)

Row = sqlalchemy.Row[Any]

PARAMETER = "k"
LEVEL, LEVELS = "lr_max", "levels"
"""User attributes of the trials of a study that searches the level; the first is also the
parameter, beside k, of its first stage."""
CONTROL = "schedule"
"""Parameter and user attribute of a confirmation's trials."""
WORKER = "worker"
OUTPUT = "output"
"""User attribute of a failed trial: its traceback, or its program's last words. Long, and read
only for who asks."""
RESUMED = "resumed_epochs"

_STATES = {
    "WAITING": State.WAITING,
    "RUNNING": State.RUNNING,
    "COMPLETE": State.COMPLETE,
    "PRUNED": State.PRUNED,
    "FAIL": State.FAILED,
}
REQUEST = ("stage", "candidate", "seed", "earlier_ks", "k", "bounds", "protected")
_ATTRIBUTES = (*REQUEST, CONTROL, LEVEL, LEVELS, "reason", "message", WORKER, RESUMED, RAW)

_COUNT = "SELECT count(*) FROM trials WHERE study_id = :study_id AND trial_id <= :latest"
_ROWS = """
    SELECT t.trial_id, t.number, t.state,
      (SELECT p.param_value FROM trial_params p
       WHERE p.trial_id = t.trial_id AND p.param_name = :parameter) AS k,
      (SELECT json_build_array(p.param_value, p.distribution_json) FROM trial_params p
       WHERE p.trial_id = t.trial_id AND p.param_name = :level) AS level,
      (SELECT v.value FROM trial_values v
       WHERE v.trial_id = t.trial_id AND v.objective = 0) AS error,
      (SELECT count(*) FROM trial_intermediate_values i
       WHERE i.trial_id = t.trial_id) AS epochs,
      (SELECT coalesce(i.intermediate_value, 'NaN') FROM trial_intermediate_values i
       WHERE i.trial_id = t.trial_id ORDER BY i.step DESC LIMIT 1) AS last_error,
      (SELECT json_object_agg(a.key, a.value_json) FROM trial_user_attributes a
       WHERE a.trial_id = t.trial_id AND a.key = ANY(:attributes)) AS attributes
    FROM trials t
    WHERE t.study_id = :study_id AND (t.trial_id = ANY(:open) OR t.trial_id > :latest)
    ORDER BY t.trial_id
"""


class History:
    """What this process knows of one of Optuna's studies.

    A trial gets its id under a lock of its study, so none can turn up later with an id below one
    that was seen.
    """

    def __init__(self, study_id: int) -> None:
        self._study_id = study_id
        self._forget()

    def _forget(self) -> None:
        self.groups: dict[CandidateKey, Replicates] = {}
        self._open: dict[int, Trial | None] = {}
        """By id, as last seen; None for what others added, which belongs to no run."""
        self._count = 0
        self._latest = -1

    def refresh(self, connection: sqlalchemy.Connection) -> None:
        """Read what is new, and what was not finished at the last look."""
        seen = {"study_id": self._study_id, "latest": self._latest}
        if connection.scalar(sqlalchemy.text(_COUNT), seen) != self._count:
            self._forget()  # trials were deleted
        values = {
            "study_id": self._study_id,
            "latest": self._latest,
            "open": list(self._open),
            "parameter": PARAMETER,
            "level": LEVEL,
            "attributes": list(_ATTRIBUTES),
        }
        rows = connection.execute(sqlalchemy.text(_ROWS), values).all()
        changed = defaultdict(list)
        for row in rows:
            trial = _trial(row)
            if trial is not None and trial != self._open.get(row.trial_id):
                changed[trial.candidate_key].append(trial)
            self._keep(row, trial)
        for key, trials in changed.items():
            self.groups[key] = self.groups.get(key, Replicates(())).updated(trials)

    def _keep(self, row: Row, trial: Trial | None) -> None:
        if row.trial_id > self._latest:
            self._latest = row.trial_id
            self._count += 1
        if row.state in ("WAITING", "RUNNING"):
            self._open[row.trial_id] = trial
        else:
            self._open.pop(row.trial_id, None)


def _trial(row: Row) -> Trial | None:
    attributes = {key: json.loads(value) for key, value in (row.attributes or {}).items()}
    request = read_request(attributes)
    if request is None:
        return None
    state = _STATES[row.state]
    return Trial(
        number=row.number,
        request=request,
        state=state,
        k=request.k if row.k is None else row.k,
        error=row.error if state == State.COMPLETE else None,
        epochs=row.epochs,
        averaged_error=None if RAW in attributes else row.last_error,
        raw_error=row.last_error if RAW in attributes else None,
        reason=_text(attributes.get("reason", LOST)) if state == State.FAILED else None,
        message=_text(attributes.get("message")),
        worker=_text(attributes.get(WORKER)),
        resumed_epochs=resumed if _is_index(resumed := attributes.get(RESUMED, 0)) else 0,
        trial_id=row.trial_id,
        lr_max=request.lr_max if row.level is None else _level(*row.level),
    )


def _level(value: float, distribution: str) -> float | None:
    """What a sampler chose: Optuna stores the place in the list."""
    chosen = json_to_distribution(distribution).to_external_repr(value)
    return chosen if _is_level(chosen) else None


def read_request(attributes: Mapping[str, Any]) -> RunRequest | None:
    """The request that a trial was queued with, from its user attributes; None if they make none.

    Whoever can write to the database can write these, and they become part of a checkpoint's path.
    """
    try:
        key = tuple(attributes[name] for name in ("stage", "candidate", "seed"))
        ks, k = tuple(attributes["earlier_ks"]), attributes["k"]
        low, high = attributes["bounds"]
        protected = attributes["protected"]
    except (KeyError, TypeError, ValueError):
        return None
    exponents = (*ks, low, high) if k is None else (*ks, low, high, k)
    if not (all(map(_is_index, key)) and all(map(_is_exponent, exponents))):
        return None
    comparator = attributes.get(CONTROL)
    if (comparator is None) == (key[0] == CONFIRMATION) or comparator not in (None, *COMPARATORS):
        return None
    lr_max, levels = attributes.get(LEVEL), attributes.get(LEVELS, [])
    if not isinstance(levels, list):
        return None
    if not all(map(_is_level, levels if lr_max is None else [*levels, lr_max])):
        return None
    return RunRequest(
        RunKey(*key), ks, k, (low, high), protected is True, comparator, lr_max, tuple(levels)
    )


def _text(value: object) -> str | None:
    """For people to read, whatever somebody wrote there."""
    return None if value is None else printable(str(value))


def _is_index(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_exponent(value: object) -> bool:
    return type(value) in (int, float) and SMALLEST_K <= value <= LARGEST_K  # type: ignore[operator]


def _is_level(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]


def request_attributes(request: RunRequest) -> dict[str, Any]:
    """The user attributes that a trial is queued with."""
    optional = {
        CONTROL: request.comparator,
        LEVEL: request.lr_max,
        LEVELS: list(request.levels) or None,
    }
    return {key: value for key, value in optional.items() if value is not None} | {
        "stage": request.key.stage,
        "candidate": request.key.candidate,
        "seed": request.key.seed,
        "earlier_ks": list(request.earlier_ks),
        "k": request.k,
        "bounds": list(request.bounds),
        "protected": request.protected,
    }
