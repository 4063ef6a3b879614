"""How long trials took, for reports."""

from __future__ import annotations

from collections.abc import Mapping

from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.records import prefix
from kdecay_search.storage.sql import trials as sql


@retried
def read_durations(storage: Storage, name: str) -> Mapping[int, float]:
    """Read the seconds from the last claim of each ended trial to its end, by trial id, with those
    before each pause; of a paused trial, those before its pauses. Trials that are trained together
    share them.

    All times are by the clock of the process that wrote them: the trial's worker, unless the
    trial was lost, when another process closed it.
    """
    with storage.engine.connect() as connection:
        rows = connection.execute(sql.DURATIONS, {"prefix": prefix(name)}).all()
    return {trial_id: float(seconds) for trial_id, seconds in rows}
