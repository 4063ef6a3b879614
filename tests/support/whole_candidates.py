"""Whole candidates and the runs that ask for them."""

from __future__ import annotations

from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import RunKey, RunRequest

POLYNOMIAL = Candidate(0.4, 0.2, "polynomial", 1.5, None, 0.01)
LATE = Candidate(2.5, 0.05, "polynomial", 0.75, None, 0.1, 0.25)
COSINE = Candidate(3.0, 0.1, "cosine", None, None, 0.0)
COOLDOWN = Candidate(None, 0.12, "cooldown", None, 0.3, 0.02)
LINEAR_COOLDOWN = Candidate(None, 0.12, "linear-cooldown", None, 0.3, 0.02, 0.2)
POINTS = (POLYNOMIAL, LATE, COSINE, COOLDOWN, LINEAR_COOLDOWN)


def asked_for(
    point: Candidate, candidate: int = 0, earlier_ks: tuple[float, ...] = (), seed: int = 0
) -> RunRequest:
    """A run of a candidate in the first stage, or after earlier terms in the one after them."""
    key = RunKey(1 + len(earlier_ks), candidate, seed)
    return RunRequest(key, earlier_ks, point.k, (0.3, 30.0), lr_max=point.lr_max, point=point)
