"""Runs that fail, and what becomes of their study."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdecay_search.search import Progress, make_plan
from kdecay_search.study.trials import WITHDRAWN, WRONG, RunKey, State, Trial
from tests.search.searches import by_k, played, search
from tests.support.memory_studies import failed, simulated, stated, study


def always_failing(k: float, good: Any) -> Any:
    return lambda waiting: failed(waiting) if waiting.k == k else good(waiting)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_failed_run_is_tried_again_up_to_its_attempts(attempts: int) -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": attempts})
    queue = played(spec, always_failing(2.0, simulated(spec)))
    assert {t.key for t in queue.trials if t.state == State.FAILED} == {
        t.key for t in queue.trials if t.k == 2.0
    }
    tried = {t.key: queue.runs()[t.key] for t in queue.trials if t.k == 2.0}
    assert list(tried.values()) == [attempts, attempts]
    candidate = by_k(queue.plan().stages[0])[2.0]
    assert (candidate.failed, candidate.unfinished, candidate.errors) == (2, 0, {})


def test_run_with_a_wrong_report_is_not_tried_again() -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": 5})
    good = simulated(spec)
    queue = played(spec, lambda w: failed(w, WRONG) if w.k == 2.0 else good(w))
    tried = {t.key: queue.runs()[t.key] for t in queue.trials if t.k == 2.0}
    assert list(tried.values()) == [1, 1]
    assert by_k(queue.plan().stages[0])[2.0].failed == 2
    assert queue.plan().progress == Progress.DONE


def test_study_goes_on_without_a_candidate_that_always_fails() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=1))
    plan = played(spec, always_failing(2.5, simulated(spec))).plan()
    assert plan.progress == Progress.DONE
    assert plan.incumbent.ks in {(2.0,), (3.0,)}


def test_run_that_fails_once_still_counts() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=1))
    seen: set[RunKey] = set()

    def flaky(waiting: Trial) -> Trial:
        if waiting.key in seen:
            return simulated(spec)(waiting)
        seen.add(waiting.key)
        return failed(waiting, "lost")

    queue = played(spec, flaky)
    assert set(queue.runs().values()) == {2}
    assert queue.plan() == played(spec).plan()


def test_stage_in_which_every_run_fails_has_failed() -> None:
    queue = played(study(search=search(max_terms=2)), failed)
    plan = queue.plan()
    assert plan.progress == Progress.FAILED
    assert [stage.progress for stage in plan.stages] == [Progress.FAILED]
    assert not plan.stages[0].kept
    assert plan.enqueue == ()
    assert len(queue.trials) == 7 * 2 * 3


def test_failed_second_stage_leaves_the_first_term() -> None:
    spec = study(surface={"best_ks": [2.5]}, search=search(max_terms=2))

    def outcome(waiting: Trial) -> Trial:
        return simulated(spec)(waiting) if waiting.key.stage == 1 else failed(waiting)

    plan = played(spec, outcome).plan()
    assert plan.progress == Progress.FAILED
    assert plan.incumbent.ks == (2.5,)
    assert len(plan.incumbent.errors) == 2


def test_withdrawn_trials_use_up_no_attempt() -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": 2})
    first = make_plan(spec, []).enqueue[0]
    withdrawn = [
        Trial(number, first, State.FAILED, first.k, reason=WITHDRAWN) for number in range(5)
    ]
    once = Trial(5, first, State.FAILED, first.k, reason="error")
    assert first in make_plan(spec, [*withdrawn, once]).enqueue
    twice = replace(once, number=6)
    assert first not in make_plan(spec, [*withdrawn, once, twice]).enqueue


@pytest.mark.parametrize(
    ("reasons", "over"),
    [
        (["lost"] * 14, False),
        (["lost"] * 15, True),
        (["error", "error", *["lost"] * 4], False),
        (["error", "error", *["lost"] * 5], True),
        (["memory"], False),
        (["memory", "memory"], True),
        (["error", "memory"], False),
        (["error", "error", "memory"], True),
    ],
)
def test_a_run_is_over_after_three_errors_or_two_full_memories_or_fifteen_losses(
    reasons: list[str], over: bool
) -> None:
    spec = study(search=search(max_terms=1), workers={"max_attempts": 3})
    first = make_plan(spec, []).enqueue[0]
    trials = [
        Trial(number, first, State.FAILED, first.k, reason=reason)
        for number, reason in enumerate(reasons)
    ]
    assert (first not in make_plan(spec, trials).enqueue) == over


def test_of_two_trials_that_train_the_same_run_the_later_one_is_withdrawn() -> None:
    spec = study(search=search(max_terms=1))
    first = make_plan(spec, []).enqueue[0]
    trials = [Trial(number, first, State.RUNNING, first.k) for number in range(2)]
    assert [trial.number for trial in make_plan(spec, trials).withdraw] == [1]


def test_candidate_with_fewer_seeds_does_not_win_by_luck() -> None:
    """Its one complete run is the best of all; the others failed."""
    spec = study(search=search(k_max=3.0, k_cap=3.0, k_step=1.0, max_terms=1))
    good = stated({1.0: 10.0, 2.0: [0.5, 0.0], 3.0: 6.0})

    def outcome(waiting: Trial) -> Trial:
        return failed(waiting) if (waiting.k, waiting.key.seed) == (2.0, 1) else good(waiting)

    assert played(spec, outcome).plan().incumbent.ks == (3.0,)


def test_term_without_one_seed_in_common_with_the_incumbent_is_not_kept() -> None:
    """Stage 1 ends on seed 0 alone, stage 2 on seed 1 alone: there is no pair to judge by."""
    spec = study(search=search(k_max=3.0, k_cap=3.0, k_step=1.0, max_terms=2))
    good = stated({1.0: 10.0, 2.0: 5.0, 3.0: 6.0}, {3.0: 90.0})

    def outcome(waiting: Trial) -> Trial:
        survives = waiting.key.seed == (0 if waiting.key.stage == 1 else 1)
        return good(waiting) if survives else failed(waiting)

    plan = played(spec, outcome).plan()
    assert plan.stages[1].gain.n == 0
    assert plan.incumbent.ks == (2.0,)
