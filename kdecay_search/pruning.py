"""When a run may end early: successive halving on averaged error.

Large k keeps the LR high for longer, so the raw validation error ranks schedules backwards until
the last epochs; the error of averaged weights does not (docs/method.md). Optuna's pruners see
only what is reported to Optuna, and that is the averaged error. Rungs are explicit: the first at
``first_share`` of the epochs, each further one ``reduction_factor`` times as late.
"""

from __future__ import annotations

import math

from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner

from kdecay_search.runs import Token
from kdecay_search.spec import StudySpec


def first_rung(spec: StudySpec) -> int:
    """Epochs done when a run may first be pruned."""
    return max(1, math.ceil(spec.pruning.first_share * spec.task.epochs))


def may_prune(spec: StudySpec, token: Token, epochs_done: int) -> bool:
    """Whether the pruner is worth asking: never for protected runs (the baseline), never before
    the first rung, and never at the very end, when a run has been paid for in full."""
    in_range = first_rung(spec) <= epochs_done < spec.task.epochs
    return spec.pruning.enabled and in_range and not token.protected


def make_pruner(spec: StudySpec) -> BasePruner:
    """The pruner of a study; the step that is reported to it is the number of epochs done."""
    if not spec.pruning.enabled:
        return NopPruner()
    return SuccessiveHalvingPruner(
        min_resource=first_rung(spec), reduction_factor=spec.pruning.reduction_factor
    )
