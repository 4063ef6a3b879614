"""Everything that decides: the iterative search for the terms of eq. 14, as pure functions.

Stage 1 compares single exponents with the original, k = 1. Stage n keeps the terms found so far and
compares a further one, k_n > k_(n-1), with the schedule that stage n-1 ended with (the incumbent),
whose results are reused. While the best candidate of a grid is its largest, the grid grows, up to
``k_cap``. The best candidate of a stage is kept if it improves the mean error, paired by seed, by
more than ``min_gain``; otherwise the search ends with the incumbent.

Where to look for what:

- :mod:`~kdecay_search.search.plan`: the iterative procedure, from records to a plan;
- :mod:`~kdecay_search.search.store`: who carries a plan out;
- :mod:`~kdecay_search.search.stage_results`: what one stage has found;
- :mod:`~kdecay_search.search.stage_planner`: which runs it needs next;
- :mod:`~kdecay_search.search.space`: the candidates of a stage, and how a grid grows;
- :mod:`~kdecay_search.search.surrogate`: what all results together say about each candidate;
- :mod:`~kdecay_search.search.gaussian_process`: the regression behind it;
- :mod:`~kdecay_search.search.selection`: which candidate is the best, by the surrogate;
- :mod:`~kdecay_search.search.knowledge_gradient`: what further runs are worth;
- :mod:`~kdecay_search.search.allocation`: which runs are trained next;
- :mod:`~kdecay_search.search.early_stopping`: which runs end in mid-training;
- :mod:`~kdecay_search.search.tally`: one candidate's trials, counted;
- :mod:`~kdecay_search.search.machines`: whether a run is at fault that fails, or its machine;
- :mod:`~kdecay_search.search.confirmation`: the comparison on fresh seeds that may end a study;
- :mod:`~kdecay_search.search.verdict`: what a study says in the end;
- :mod:`~kdecay_search.search.policy`: every tuned constant.

Nothing here reads a clock, a file or a database: :func:`make_plan` says what the storage should
hold, and :mod:`kdecay_search.reconcile` applies it.
"""

from kdecay_search.search.plan import Plan, make_plan, runs_at_most
from kdecay_search.search.space import spread
from kdecay_search.search.stage import CandidateResult, Incumbent, Progress, Stage
from kdecay_search.search.tally import Memo
from kdecay_search.study.comparators import BASELINE_KS
from kdecay_search.study.trials import FIRST_SEED

__all__ = [
    "BASELINE_KS",
    "FIRST_SEED",
    "CandidateResult",
    "Incumbent",
    "Memo",
    "Plan",
    "Progress",
    "Stage",
    "make_plan",
    "runs_at_most",
    "spread",
]
