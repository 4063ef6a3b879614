"""A candidate: one point of the search space."""

from __future__ import annotations

from typing import NamedTuple


class Candidate(NamedTuple):
    """What is tried: an exponent and, if the learning-rate level is searched, that level.

    A tuple, so that candidates sort by k, then by level.
    """

    k: float
    """Exponent of the term that is searched."""
    lr_max: float | None = None
    """Highest learning rate; None stands for ``schedule.lr_max`` of the study file."""
