"""What the user attributes and parameters of trials and stages are called, and what they hold.

Optuna's dashboard shows all of these. A trial carries its request in them, so that a worker needs
nothing besides the trial and the study's spec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kdecay_search.study.candidate import COOLDOWNS, Candidate, read_candidate
from kdecay_search.study.comparators import COMPARATORS
from kdecay_search.study.search_spec import LARGEST_K, SMALLEST_K
from kdecay_search.study.space import PARAMETERS_OF
from kdecay_search.study.trials import CONFIRMATION, RAW_ONLY, RunKey, RunRequest

SPEC = "spec"
"""Attribute of a first stage: the study file's content, as JSON."""
STOPPED = "stopped"
"""Attribute of a first stage: whether the user has stopped the study."""

LAUNCH = "kdecay_launch"
"""Attribute of a stage and of a trial: the id of the launch that made the study. Records with
another id than the first stage's are ignored; studies of versions before there were ids have none.
"""
VERSION = "kdecay_version"
"""Attribute of a first stage: the version of this package that launched the study."""
ENDED = "ended"
"""Attribute of a first stage: the number of its stages once the study wants no work; else None."""
OVERVIEW = "overview"
"""Attribute of a first stage: what :func:`kdecay_search.snapshot.overview` says of a study that has
ended."""

K = "k"
"""Parameter of a search's trials, and attribute: the candidate's exponent."""
LR_MAX = "lr_max"
"""Parameter of the first stage's trials, and attribute, in a study that searches the learning-rate
level: that of the candidate."""
LEVELS = "levels"
"""Attribute: the learning-rate levels of the stage's search space, if it has several."""
POINT = "point"
"""Attribute: every parameter of the candidate, in a study that searches whole schedules."""
FAMILY, POWER, DECAY_SHARE = "family", "power", "decay_share"
LR_MIN_SHARE, WARMUP_SHARE = "lr_min_share", "warmup_share"
"""Further parameters of such a study's trials; each trial has those that its candidate has."""
SCHEDULE = "schedule"
"""Parameter of a confirmation's trials, and attribute: the name of the schedule to train."""
WORKER = "worker"
"""Attribute: the name of the worker that claimed the trial last."""
RESUMED = "resumed_epochs"
"""Attribute: how many of the trial's epochs an earlier trial of the same run trained."""
PAUSED = "paused"
"""Attribute: how many reports a trial had made when it was paused; null once it is to train on. A
trial that has it is in Optuna's state WAITING or, closed without having been resumed, PRUNED."""
TRAINED_SECONDS = "trained_seconds"
"""Attribute of a trial that has been paused: how long it had trained until then, by the clocks of
its workers."""
SHARED_SECONDS = "shared_seconds"
"""Attribute of a trial that was trained together with others: how much of its time counts for them,
because they had the device as well."""
REPEATED = "repeated_epochs"
"""Attribute: how many of the trial's reports were made twice, because its worker did not find the
checkpoint that an earlier one had left."""
WORSENED = "worsened"
"""Attribute of a complete trial: true if its last value is worse than its first."""
SKIPPED = "skipped"
"""Attribute of a trial that is recorded as pruned, but was never started, because its run was not
needed any more."""
REASON = "reason"
"""Attribute of a failed trial: why it failed, in one word."""
MESSAGE = "message"
"""Attribute of a failed trial: its error message."""
OUTPUT = "output"
"""Attribute of a failed trial: its traceback, or the end of its program's output. It is long, and
read only for those who ask for it."""
CURVES = ("validation_error", "averaged_error", "training_loss", "learning_rate")
"""Attributes of an ended trial: lists of one number for each epoch."""

REQUEST = (
    "stage",
    "candidate",
    "seed",
    "earlier_ks",
    K,
    "bounds",
    "protected",
    SCHEDULE,
    LR_MAX,
    LEVELS,
    POINT,
)
"""Attributes that make up a trial's request."""
RECORD = (*REQUEST, REASON, MESSAGE, WORKER, RESUMED, RAW_ONLY, WORSENED, PAUSED, REPEATED)
"""Attributes that planning reads."""

LIMITS = {
    "k": (SMALLEST_K, LARGEST_K),
    "power": (math.ulp(0.0), 1e9),
    "decay_share": (0.001, 1.0),
    "lr_max": (math.ulp(0.0), 1e9),
    "lr_min": (0.0, 1.0),
    "warmup": (0.0, 0.9),
}
"""Smallest and largest value of each number of a whole candidate: whatever ``[search.space]`` and
``[schedule]`` may ask for."""


def request_attributes(request: RunRequest) -> dict[str, Any]:
    """The user attributes that a trial is queued with."""
    optional = {
        SCHEDULE: request.comparator,
        LR_MAX: request.lr_max,
        LEVELS: list(request.levels) or None,
        POINT: request.point.stated() if request.point else None,
    }
    return {key: value for key, value in optional.items() if value is not None} | {
        "stage": request.key.stage,
        "candidate": request.key.candidate,
        "seed": request.key.seed,
        "earlier_ks": list(request.earlier_ks),
        K: request.k,
        "bounds": list(request.bounds),
        "protected": request.protected,
    }


def read_request(attributes: Mapping[str, Any]) -> RunRequest | None:
    """The request that a trial was queued with.

    Anybody who can write to the database can write these attributes, and they become part of a
    checkpoint's path; so each of them is checked.

    Args:
        attributes: The trial's user attributes, decoded.

    Returns:
        The request; None if the attributes do not make one: something else queued the trial.
    """
    try:
        return _read_request(attributes)
    except (KeyError, TypeError, ValueError):
        return None


def _read_request(attributes: Mapping[str, Any]) -> RunRequest:
    """The request. Raises KeyError, TypeError or ValueError if the attributes do not make one."""
    key = tuple(attributes[name] for name in ("stage", "candidate", "seed"))
    ks, k = tuple(attributes["earlier_ks"]), attributes[K]
    low, high = attributes["bounds"]
    exponents = (*ks, low, high) if k is None else (*ks, low, high, k)
    _require(all(map(is_index, key)) and all(map(is_exponent, exponents)))
    comparator = attributes.get(SCHEDULE)
    _require(comparator is None or comparator in COMPARATORS)
    _require((comparator is not None) == (key[0] == CONFIRMATION))
    lr_max, levels = attributes.get(LR_MAX), attributes.get(LEVELS, [])
    _require(isinstance(levels, list) and all(map(is_level, levels)))
    _require(lr_max is None or is_level(lr_max))
    point = _read_point(attributes[POINT]) if POINT in attributes else None
    _require(point is None or _is_of_run(point, ks, k, lr_max))
    return RunRequest(
        RunKey(*key),
        ks,
        k,
        (low, high),
        attributes["protected"] is True,
        comparator,
        lr_max,
        tuple(levels),
        point,
    )


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("the attributes are no request")


def _read_point(values: object) -> Candidate:
    """A whole candidate. Raises ValueError if it is none that can be trained."""
    point = read_candidate(values)
    if point is None or point.family is None:
        raise ValueError("not a candidate")
    stated = point.stated()
    needed = {"family", *PARAMETERS_OF[point.family], "lr_max", "lr_min"}
    _require(needed <= stated.keys() <= needed | {"warmup", "args"})
    # One form of each number, since a checkpoint is found by its text: 2.0, not 2, and no -0.0.
    numbers = {name: value + 0.0 for name, value in stated.items() if name in LIMITS}
    _require(all(LIMITS[name][0] <= value <= LIMITS[name][1] for name, value in numbers.items()))
    return point._replace(**numbers)


def _is_of_run(
    point: Candidate, earlier_ks: tuple[float, ...], k: float | None, lr_max: float | None
) -> bool:
    """Whether a candidate is what the rest of its request says."""
    if point.k != k or lr_max not in (None, point.lr_max):
        return False
    if point.family in COOLDOWNS:
        return not earlier_ks
    terms = (*earlier_ks, point.k or 0.0)
    return all(earlier < later for earlier, later in pairwise(terms))


def is_index(value: object) -> bool:
    """Whether ``value`` counts something from 0."""
    return type(value) is int and value >= 0


def is_level(value: object) -> bool:
    """Whether ``value`` can be a learning rate."""
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]


def is_exponent(value: object) -> bool:
    """Whether ``value`` can be a term of a schedule."""
    return type(value) in (int, float) and SMALLEST_K <= value <= LARGEST_K  # type: ignore[operator]
