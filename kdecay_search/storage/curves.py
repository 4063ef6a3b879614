"""What trials left behind epoch by epoch, for reports; planning does without it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.sql import trials as sql


@retried
def read_kept(
    storage: Storage, trial_ids: Iterable[int], names: Sequence[str]
) -> Mapping[int, Mapping[str, list[float]]]:
    """Read curves that ended trials left in their user attributes.

    Args:
        storage: The database.
        trial_ids: The trials.
        names: The curves, such as those of :data:`kdecay_search.storage.attributes.CURVES`.

    Returns:
        By trial id and name: one value for each epoch, from the first. Attributes that are not
        lists of numbers are left out.
    """
    values = {"ids": list(trial_ids), "names": list(names)}
    found: dict[int, dict[str, list[float]]] = defaultdict(dict)
    with storage.engine.connect() as connection:
        for trial_id, name, text in connection.execute(sql.CURVES, values):
            curve = json.loads(text)
            if isinstance(curve, list) and all(type(v) in (int, float) for v in curve):
                found[trial_id][name] = [float(v) if math.isfinite(v) else math.nan for v in curve]
    return found


@retried
def read_reported(storage: Storage, trial_ids: Iterable[int]) -> Mapping[int, dict[int, float]]:
    """Read the reported error (%) by trial id and epoch, also of trials that have not ended."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    with storage.engine.connect() as connection:
        rows = connection.execute(sql.REPORTED, {"ids": list(trial_ids)})
        for trial_id, step, value in rows:
            found[trial_id][step] = value
    return found
