"""A candidate's place in the search space."""

from __future__ import annotations

from typing import NamedTuple


class Candidate(NamedTuple):
    """What is tried: an exponent and, where the level of the LR is searched too, its highest value.

    A tuple, so that points sort by k, then by level.
    """

    k: float
    lr_max: float | None = None
    """None: that of the study file, ``schedule.lr_max``."""
