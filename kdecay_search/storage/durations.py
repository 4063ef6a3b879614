"""How long trials took, for reports."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy

from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.records import stage_ids

_DURATIONS = """
    SELECT trial_id, extract(epoch FROM datetime_complete - datetime_start) AS seconds
    FROM trials WHERE study_id = ANY(:ids) AND datetime_complete > datetime_start
"""


@retried
def read_durations(storage: Storage, name: str) -> Mapping[int, float]:
    """Seconds from the last claim of each ended trial to its end, by the trial's id.

    Both times are by the clock of the process that wrote them: the trial's worker, unless the
    trial was lost, when another process closed it.
    """
    values = {"ids": list(stage_ids(storage, name).values())}
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(_DURATIONS), values).all()
    return {trial_id: float(seconds) for trial_id, seconds in rows}
