"""Where the runs of a study are kept, as far as its plan is concerned.

A search decides by a plan (:func:`~kdecay_search.search.plan.make_plan`), and whatever keeps the
study's trials carries it out. Postgres does so for :mod:`kdecay_search.reconcile`, and a list in
memory for :func:`kdecay_search.find_schedule`. Both are a :class:`Store`, so that the same results
lead to the same runs, whichever of the two keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kdecay_search.search.plan import Plan
from kdecay_search.study.trials import RunRequest, Trial


class Store(Protocol):
    """Keeps the trials of one study."""

    def withdraw(self, trials: Sequence[Trial]) -> None:
        """Close open and paused trials whose runs another trial serves."""
        ...

    def resume(self, trials: Sequence[Trial]) -> None:
        """Let paused trials train on."""
        ...

    def close(self, trials: Sequence[Trial]) -> None:
        """End paused trials as pruned."""
        ...

    def enqueue(self, requests: Sequence[RunRequest]) -> None:
        """Queue runs of one stage, in the order in which they are to be trained."""
        ...

    def skip(self, requests: Sequence[RunRequest]) -> None:
        """Record runs of one stage as not needed."""
        ...


def wants_changes(plan: Plan) -> bool:
    """Whether a plan wants anything of the store that keeps its trials."""
    return bool(plan.withdraw or plan.resume or plan.close or plan.enqueue or plan.skip)


def carry_out(plan: Plan, store: Store) -> None:
    """Let a store hold what a plan wants."""
    if plan.withdraw:
        store.withdraw(plan.withdraw)
    if plan.resume:
        store.resume(plan.resume)
    if plan.close:
        store.close(plan.close)
    if plan.enqueue:
        store.enqueue(plan.enqueue)
    if plan.skip:
        store.skip(plan.skip)
