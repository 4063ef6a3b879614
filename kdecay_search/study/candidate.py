"""A candidate: one point of the search space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Candidate(NamedTuple):
    """What is tried: an exponent and, if the learning-rate level is searched, that level.

    A tuple, so that candidates sort by k, then by level.
    """

    k: float
    """Exponent of the term that is searched."""
    lr_max: float | None = None
    """Highest learning rate; None stands for ``schedule.lr_max`` of the study file."""


def schedule_name(ks: Iterable[float], lr_max: float | None = None) -> str:
    """A schedule's name for people.

    Args:
        ks: Its terms.
        lr_max: Its level of the learning rate, if the level was searched.

    Returns:
        Text such as ``k = 2``, ``k = 2, 6.5`` or ``k = 2 at lr_max 0.1``.
    """
    return "k = " + ", ".join(f"{k:.4g}" for k in ks) + level_name(lr_max)


def level_name(lr_max: float | None) -> str:
    """Text such as `` at lr_max 0.1``; empty if the level was not searched."""
    return "" if lr_max is None else f" at lr_max {lr_max:.4g}"
