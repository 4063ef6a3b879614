"""The trials of a study as plain values, which a process keeps between its looks at them.

An ended trial does not change any more, so each is read once. Of its curves only the number of
epochs, the last value and those at the study's looks are read, which is all that planning needs:
Optuna's own cache would keep every value of every curve in every worker.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy

from kdecay_search.errors import UnreadableStudy, printable
from kdecay_search.storage import attributes as attribute
from kdecay_search.storage.sql import trials as sql
from kdecay_search.study.trials import (
    LOST,
    NO_LOOKS,
    RAW_ONLY,
    CandidateKey,
    CandidateTrials,
    State,
    Trial,
    Trials,
)

Row = sqlalchemy.Row[Any]

STATES = {
    "WAITING": State.WAITING,
    "RUNNING": State.RUNNING,
    "COMPLETE": State.COMPLETE,
    "PRUNED": State.PRUNED,
    "FAIL": State.FAILED,
}
"""States of a trial by their names in Optuna's tables."""


class History:
    """What this process knows of the trials of one study."""

    def __init__(self, looks: tuple[int, ...] = ()) -> None:
        self.looks = looks
        """Numbers of the reports whose values are read."""
        self.trials = Trials({})
        """The trials as of the last look."""
        self._open: dict[int, Trial | None] = {}
        """The waiting, running and paused trials by id, as last seen; None for a trial that others
        added, which belongs to no run."""
        self._count = 0
        """Number of trials, including those that others added."""
        self._latest = -1
        """The largest id of a trial that was seen."""

    def refresh(self, connection: sqlalchemy.Connection, prefix: str) -> bool:
        """Read what is new, and what was open at the last look.

        Args:
            connection: The database.
            prefix: What the names of the study's stages begin with.

        Returns:
            Whether that was enough. If not, this history is of no further use: trials that were
            seen have been deleted, or one has appeared late with a smaller id.

        Raises:
            UnreadableStudy: A trial's record makes no sense. This history is of no further use.
        """
        values = {
            "prefix": prefix,
            "latest": self._latest,
            "open": list(self._open),
            "parameter": attribute.K,
            "level": attribute.LR_MAX,
            "attributes": list(attribute.RECORD),
            "looks": list(self.looks),
        }
        rows = connection.execute(sql.HISTORY, values).all()
        if rows[0].known != self._count:
            return False
        changed: dict[CandidateKey, list[Trial]] = defaultdict(list)
        for row in rows:
            if row.trial_id is not None:
                trial = _trial(row, prefix)
                if trial is not None and trial != self._open.get(row.trial_id):
                    changed[trial.candidate_key].append(trial)
                self._keep(row, trial)
        known = dict(self.trials.by_candidate)
        for key, trials in changed.items():
            known[key] = known.get(key, CandidateTrials(())).updated(trials)
        self.trials = Trials(known)
        return True

    def _keep(self, row: Row, trial: Trial | None) -> None:
        if row.trial_id > self._latest:
            self._latest = row.trial_id
            self._count += 1
        if row.state in ("WAITING", "RUNNING"):
            self._open[row.trial_id] = trial
        else:
            self._open.pop(row.trial_id, None)


MAX_VALUE = 1e100
"""Largest value, in size, that calculations with its square survive."""


def _trial(row: Row, prefix: str) -> Trial | None:
    """The trial of a row; None if it belongs to no run of this launch of the study."""
    if not row.is_own:
        return None
    attributes = {}
    for key, text in (row.attributes or {}).items():
        try:
            attributes[key] = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            if key in attribute.REQUEST:
                raise _unreadable(prefix, row, f"its attribute {key!r} is not JSON") from None
    request = attribute.read_request(attributes)
    if request is None:
        return None
    state = STATES[row.state]
    if state == State.COMPLETE and not is_value(row.value):
        reason = f"its value is {row.value}, and must be a number up to {MAX_VALUE:g}"
        raise _unreadable(prefix, row, reason)
    last_error = None if row.last_value is None else error_of(row.last_value, row.direction)
    if row.k is not None and not attribute.is_exponent(row.k):
        raise _unreadable(prefix, row, f"its parameter k is {row.k}")
    by_parameters = request.point is None  # a whole candidate is as its request says
    level = None
    if row.level is not None and by_parameters:
        try:
            level = chosen_level(row.level)
        except (TypeError, ValueError, LookupError, RecursionError):
            reason = "the distribution of its parameter lr_max is unknown"
            raise _unreadable(prefix, row, reason) from None
    if state == State.WAITING and attribute.is_index(attributes.get(attribute.PAUSED)):
        state = State.PAUSED
    is_raw = RAW_ONLY in attributes
    resumed, repeated = (attributes.get(key, 0) for key in (attribute.RESUMED, attribute.REPEATED))
    return Trial(
        number=row.number,
        request=request,
        state=state,
        k=row.k if row.k is not None and by_parameters else request.k,
        error=error_of(row.value, row.direction) if state == State.COMPLETE else None,
        epochs=row.epochs,
        averaged_error=None if is_raw else last_error,
        raw_error=last_error if is_raw else None,
        worsened=attributes.get(attribute.WORSENED) is True,
        reason=_text(attributes.get(attribute.REASON, LOST)) if state == State.FAILED else None,
        message=_text(attributes.get(attribute.MESSAGE)),
        worker=_text(attributes.get(attribute.WORKER)),
        resumed_epochs=resumed if attribute.is_index(resumed) else 0,
        trial_id=row.trial_id,
        lr_max=level if row.level is not None and by_parameters else request.lr_max,
        looks=NO_LOOKS if is_raw or not row.looks else _looks(row),
        repeated_epochs=repeated if attribute.is_index(repeated) else 0,
    )


def _looks(row: Row) -> dict[int, float]:
    return {int(number): error_of(value, row.direction) for number, value in row.looks}


def is_value(value: object) -> bool:
    """Whether ``value`` can be the result of a complete run; one that has diverged is infinite."""
    return isinstance(value, float) and (abs(value) <= MAX_VALUE or math.isinf(value))


def error_of(value: float, direction: str) -> float:
    """A stored value oriented so that lower is better; NaN is infinitely bad.

    Args:
        value: The value, as the run reported it.
        direction: The direction of its Optuna study, ``MINIMIZE`` or ``MAXIMIZE``.
    """
    if math.isnan(value):
        return math.inf
    return -value if direction == "MAXIMIZE" else value


def _unreadable(prefix: str, row: Row, reason: str) -> UnreadableStudy:
    name, trial = prefix.removesuffix("/"), f"trial {row.number} (id {row.trial_id})"
    return UnreadableStudy(f"study {name!r} cannot be read: {trial}: {reason}")


def chosen_level(stored: Sequence[Any]) -> float | None:
    """The learning-rate level that a trial has as its parameter.

    Args:
        stored: The parameter's value, which is the place of the choice in a list, and the JSON text
            of its distribution, which holds that list.

    Returns:
        The level; None if something else is stored there.
    """
    from optuna.distributions import json_to_distribution  # noqa: PLC0415 - a quarter of a second

    place, space = stored
    chosen: float = json_to_distribution(space).to_external_repr(place)
    return chosen if attribute.is_level(chosen) else None


def _text(value: object) -> str | None:
    """For people to read, whatever somebody wrote there."""
    return None if value is None else printable(str(value))
