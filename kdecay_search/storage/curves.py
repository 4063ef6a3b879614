"""What trials left behind epoch by epoch, for reports; the history does without it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy

from kdecay_search.storage.connect import Storage, retried

_KEPT = """
    SELECT trial_id, key, value_json FROM trial_user_attributes
    WHERE trial_id = ANY(:ids) AND key = ANY(:names)
"""
_REPORTED = """
    SELECT trial_id, step, coalesce(intermediate_value, 'NaN') AS value
    FROM trial_intermediate_values WHERE trial_id = ANY(:ids) ORDER BY trial_id, step
"""


@retried
def read_kept(
    storage: Storage, trial_ids: Iterable[int], names: Sequence[str]
) -> Mapping[int, Mapping[str, list[float]]]:
    """The curves among the trials' user attributes, by trial and name: one value an epoch, from
    the first. What is no list of numbers is left out."""
    values = {"ids": list(trial_ids), "names": list(names)}
    found: dict[int, dict[str, list[float]]] = defaultdict(dict)
    with storage.engine.connect() as connection:
        for trial_id, name, text in connection.execute(sqlalchemy.text(_KEPT), values):
            curve = _numbers(text)
            if curve is not None:
                found[trial_id][name] = curve
    return found


@retried
def read_reported(storage: Storage, trial_ids: Iterable[int]) -> Mapping[int, dict[int, float]]:
    """Averaged error (%) by epoch, as reported so far: of trials that have not ended, too."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(_REPORTED), {"ids": list(trial_ids)})
        for trial_id, step, value in rows:
            found[trial_id][step] = value
    return found


def _numbers(text: str) -> list[float] | None:
    values = json.loads(text)
    if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
        return None
    return [float(v) if math.isfinite(v) else math.nan for v in values]
