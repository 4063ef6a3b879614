"""The iterative search for the terms of eq. 14: a pure function from records to a plan.

Stage 1 compares single exponents with the original, k = 1. Stage n keeps the terms found so far
and compares a further one, k_n > k_(n-1), with the schedule that stage n-1 ended with (the
incumbent), whose results are reused. While the best candidate of a grid is its largest, the grid
grows, up to ``k_cap``. A stage's best candidate is kept if it lowers the mean error over the
seeds, paired by seed, by more than ``min_gain``; otherwise the search ends with the incumbent.

The best candidate is not the smallest noisy mean but the minimum of a smooth curve through all
results (:mod:`kdecay_search.search.selection`). With pruning, seeds are a race (:mod:`kdecay_search.search.allocation`).
It begins with half of the candidates and one more on the first seed, and the baseline on the
second; then come a few runs at a time that may change the choice, half of the grid at most. The
others are closed without being trained (:attr:`Plan.skip`).

A study that asks for it ends with a confirmation on fresh seeds
(:mod:`kdecay_search.search.confirmation`).

Nothing here reads a clock, a file or a database: :func:`make_plan` says what the storage should
hold, and :mod:`kdecay_search.reconcile` brings it about.
"""

from kdecay_search.search.plan import Plan, make_plan, runs_at_most
from kdecay_search.search.space import spread
from kdecay_search.search.stage import CandidateResult, Incumbent, Progress, Stage
from kdecay_search.search.stage_allocation import FIRST_SEED
from kdecay_search.study.comparators import BASELINE_KS

__all__ = [
    "BASELINE_KS",
    "FIRST_SEED",
    "CandidateResult",
    "Incumbent",
    "Plan",
    "Progress",
    "Stage",
    "make_plan",
    "runs_at_most",
    "spread",
]
