"""Pausing trials: they keep their checkpoint, and nobody claims them until they are resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.connect import Storage, retried
from kdecay_search.storage.queue import NO_USER_ATTRS, Claim, UserAttrs, attribute_columns, now
from kdecay_search.storage.sql import queue as sql


@retried
def pause(
    storage: Storage, held: Claim, reports: int, user_attrs: UserAttrs = NO_USER_ATTRS
) -> None:
    """Pause a claimed trial: nobody claims it until it is resumed, and no attempt is used up.

    Its checkpoint must have been written before. Nothing happens unless the trial still runs under
    this worker's name, as with :func:`kdecay_search.storage.queue.release`.

    Args:
        storage: The database.
        held: The trial.
        reports: How many reports it has made.
        user_attrs: What is kept with it for reports to show, such as its curves.
    """
    values = {
        "trial_id": held.trial_id,
        "key": attribute.WORKER,
        "worker": json.dumps(held.worker),
        "now": now(),
        **attribute_columns({**user_attrs, attribute.PAUSED: reports}),
    }
    with storage.engine.begin() as connection:
        connection.execute(sql.PAUSE, values)


@retried
def resume(storage: Storage, trial_ids: Sequence[int]) -> None:
    """Let paused trials train on: any worker may claim them."""
    with storage.engine.begin() as connection:
        connection.execute(sql.RESUME, {"trial_ids": list(trial_ids)})


@retried
def close_paused(storage: Storage, trial_ids: Sequence[int]) -> None:
    """End paused trials as pruned, with the value that each reported last."""
    with storage.engine.begin() as connection:
        connection.execute(sql.CLOSE_PAUSED, {"trial_ids": list(trial_ids), "now": now()})
