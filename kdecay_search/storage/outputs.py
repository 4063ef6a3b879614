"""What failed trials said last: their tracebacks, or their programs' last words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import sqlalchemy

from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.history import OUTPUT

LONGEST = 200_000
"""Characters of JSON; workers keep far less, and what is longer was not written by one."""

_READ = """
    SELECT trial_id, value_json FROM trial_user_attributes
    WHERE trial_id = ANY(:ids) AND key = :key AND length(value_json) <= :longest
"""


@retried
def read_outputs(storage: Storage, trial_ids: Iterable[int]) -> Mapping[int, str]:
    """By trial, of those that said something; as it was written, whatever that is."""
    values = {"ids": list(trial_ids), "key": OUTPUT, "longest": LONGEST}
    with storage.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text(_READ), values).all()
    return {row.trial_id: str(json.loads(row.value_json)) for row in rows}
