"""What the user attributes and parameters of trials and stages are called, and what they hold.

Optuna's dashboard shows all of these. A trial carries its request in them, so that a worker needs
nothing besides the trial and the study's spec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kdecay_search.study.comparators import COMPARATORS
from kdecay_search.study.spec import LARGEST_K, SMALLEST_K
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
SCHEDULE = "schedule"
"""Parameter of a confirmation's trials, and attribute: the name of the schedule to train."""
WORKER = "worker"
"""Attribute: the name of the worker that claimed the trial last."""
RESUMED = "resumed_epochs"
"""Attribute: how many of the trial's epochs an earlier trial of the same run trained."""
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
)
"""Attributes that make up a trial's request."""
RECORD = (*REQUEST, REASON, MESSAGE, WORKER, RESUMED, RAW_ONLY, WORSENED)
"""Attributes that planning reads."""


def request_attributes(request: RunRequest) -> dict[str, Any]:
    """The user attributes that a trial is queued with."""
    optional = {
        SCHEDULE: request.comparator,
        LR_MAX: request.lr_max,
        LEVELS: list(request.levels) or None,
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
        key = tuple(attributes[name] for name in ("stage", "candidate", "seed"))
        ks, k = tuple(attributes["earlier_ks"]), attributes[K]
        low, high = attributes["bounds"]
        protected = attributes["protected"]
    except (KeyError, TypeError, ValueError):
        return None
    exponents = (*ks, low, high) if k is None else (*ks, low, high, k)
    if not (all(map(is_index, key)) and all(map(is_exponent, exponents))):
        return None
    comparator = attributes.get(SCHEDULE)
    if (comparator is None) == (key[0] == CONFIRMATION) or comparator not in (None, *COMPARATORS):
        return None
    lr_max, levels = attributes.get(LR_MAX), attributes.get(LEVELS, [])
    if not isinstance(levels, list) or not all(map(is_level, levels)):
        return None
    if not (lr_max is None or is_level(lr_max)):
        return None
    return RunRequest(
        RunKey(*key), ks, k, (low, high), protected is True, comparator, lr_max, tuple(levels)
    )


def is_index(value: object) -> bool:
    """Whether ``value`` counts something from 0."""
    return type(value) is int and value >= 0


def is_level(value: object) -> bool:
    """Whether ``value`` can be a learning rate."""
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]


def is_exponent(value: object) -> bool:
    """Whether ``value`` can be a term of a schedule."""
    return type(value) in (int, float) and SMALLEST_K <= value <= LARGEST_K  # type: ignore[operator]
