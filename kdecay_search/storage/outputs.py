"""What failed trials left of a traceback or of their program's output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.sql import trials as sql

MAX_CHARACTERS = 200_000
"""Most characters of JSON that are read; workers keep far less, and anything longer was not written
by one."""


@retried
def read_outputs(storage: Storage, trial_ids: Iterable[int]) -> Mapping[int, str]:
    """Read the outputs by trial id, as they were written, whatever they contain; trials without
    any are left out."""
    values = {"ids": list(trial_ids), "key": attribute.OUTPUT, "longest": MAX_CHARACTERS}
    with storage.engine.connect() as connection:
        rows = connection.execute(sql.OUTPUTS, values).all()
    return {row.trial_id: str(json.loads(row.value_json)) for row in rows}
