"""The verdict: computed once, and never in contradiction with its own interval."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.search import Incumbent
from kdecay_search.search.plan import Plan
from kdecay_search.search.selection import Gain
from kdecay_search.search.verdict import (
    Model,
    Outcome,
    Verdict,
    judge,
    outcome_of,
)
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.metric import VALIDATION_ERROR, MetricFormat
from tests.support.memory_studies import MemoryQueue, completed, pruned, study
from tests.support.snapshots import ended, seen

NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
INTERVAL = re.compile(rf"95 % interval ({NUMBER}) to ({NUMBER})")
SAYS = {
    Outcome.BETTER: re.compile(r"(?<![a-z] )\b[Bb]etter (?:by|than)"),
    Outcome.WORSE: re.compile(r"\b[Ww]orse (?:by|than)"),
    Outcome.NO_DIFFERENCE: re.compile(r"\b[Nn]o detectable difference"),
}


def check(verdict: Verdict) -> None:
    """What a sentence says follows from the interval that it states."""
    first = verdict.sentence.split(" Its shape ")[0].split(" There is no detectable")[0]
    stated = INTERVAL.search(first)
    if verdict.interval is None:
        assert stated is None
        assert verdict.outcome in (Outcome.TOO_FEW_RUNS, Outcome.NO_DIFFERENCE)
        return
    low, high = verdict.interval
    assert verdict.estimate is not None
    assert low <= verdict.estimate <= high
    assert verdict.outcome == outcome_of(verdict.interval)
    assert stated is not None, verdict.sentence
    shown = tuple(map(float, stated.groups()))
    claimed = [outcome for outcome, words in SAYS.items() if words.search(first)]
    assert claimed == [verdict.outcome], verdict.sentence
    if verdict.outcome == Outcome.NO_DIFFERENCE:
        assert shown[0] <= 0 <= shown[1]
        assert not re.search(r"(?i)\b(better|worse)\b", first)
    else:
        assert 0 < shown[0] <= shown[1]
        assert abs(verdict.estimate) == pytest.approx(abs(sum((low, high)) / 2), abs=high - low)


@st.composite
def snapshots(draw: st.DrawFn) -> StudySnapshot:
    """Studies of any noise and size, with one term or more, played in part or to their end."""
    seeds = draw(st.integers(1, 6))
    search: dict[str, Any] = {
        "k_max": draw(st.sampled_from([2.0, 3.0, 5.0])),
        "k_cap": 6.0,
        "k_step": 1.0,
        "seeds": seeds,
        "max_terms": draw(st.integers(1, 3)),
        "min_gain": draw(st.sampled_from([0.0, 0.3])),
    }
    if draw(st.booleans()):
        search["lr_max"] = [0.05, 0.1]
    surface = {
        "seed_noise": draw(st.sampled_from([0.0, 1.0])),
        "run_noise": draw(st.sampled_from([0.0, 0.05, 0.5, 3.0])),
        "curvature": draw(st.sampled_from([0.0, 2.0, 30.0])),
        "noise_seed": draw(st.integers(0, 10_000)),
        "best_ks": draw(st.sampled_from([[0.3], [1.0], [3.0], [2.0, 4.0]])),
    }
    confirm = {"seeds": draw(st.sampled_from([0, 2, 5]))}
    spec = study(
        surface=surface,
        search=search,
        pruning={"enabled": draw(st.booleans())},
        confirm=confirm,
    )
    queue = MemoryQueue(spec)
    for _ in range(draw(st.integers(0, 40))):
        plan = queue.reconcile()
        if not queue.work(draw(st.integers(1, 8))) and not plan.skip:
            break
    return seen(queue, stopped=draw(st.booleans()))


@settings(deadline=None, max_examples=40)
@given(snapshot=snapshots())
def test_no_sentence_contradicts_its_interval(snapshot: StudySnapshot) -> None:
    check(snapshot.verdict)
    if snapshot.confirmed is not None:
        check(snapshot.confirmed)


def test_thousands_of_verdicts_say_all_that_can_be_said() -> None:
    """The same over gains of all kinds, put into the plan of one study."""
    plan = ended(lambda t: completed(t, 9.0 - t.k), seeds=3).plan
    numbers = [-5.0, -0.3, -0.004, -1e-7, 0.0, 1e-7, 0.004, 0.3, 5.0]
    outcomes = Counter(
        judge(with_gain(plan, (low, mean, high), terms), state).outcome
        for low in numbers
        for mean in numbers
        for high in numbers
        for terms in (1, 2)
        for state in ("running", "done")
        if low <= mean <= high
        and not check(judge(with_gain(plan, (low, mean, high), terms), state))
    )
    assert sum(outcomes.values()) > 600
    assert set(outcomes) == {Outcome.BETTER, Outcome.WORSE, Outcome.NO_DIFFERENCE}


def with_gain(plan: Plan, gain: tuple[float, float, float], terms: int) -> Plan:
    """The plan with a leader of so many terms, each of which has gained this."""
    low, mean, high = gain
    stage = replace(plan.stages[0], smooth_gain=Gain(mean, (low, high), 0.5), leads=False)
    ks = tuple(float(number + 2) for number in range(terms))
    return replace(
        plan,
        stages=(stage,) * terms,
        incumbent=Incumbent(ks, {0: 5.0, 1: 5.5}),
        baseline=Incumbent((1.0,), {0: 6.0, 1: 6.5}),
    )


def test_the_gain_of_two_terms_is_the_sum_of_the_stages() -> None:
    """Two pages once said of such a study that there is no detectable difference, and that the gain
    is 0.60 points (0.48 to 0.72)."""
    plan = ended(lambda t: completed(t, 9.0 - t.k), seeds=3).plan
    verdict = judge(with_gain(plan, (0.2, 0.5, 0.8), terms=2), "done")
    assert verdict.estimate == pytest.approx(1.0)
    assert verdict.interval == pytest.approx((1.0 - 0.3 * 2**0.5, 1.0 + 0.3 * 2**0.5))
    assert (verdict.outcome, verdict.model) == (Outcome.BETTER, Model.SMOOTH_CURVE)
    assert "Better by 1.00 points (95 % interval 0.58 to 1.42, by the stages' smooth" in (
        verdict.sentence
    )


def test_one_run_of_each_is_too_few() -> None:
    verdict = ended(lambda t: completed(t, 9.0 - (t.k or 0)), seeds=1).verdict
    assert verdict.outcome == Outcome.TOO_FEW_RUNS
    assert verdict.interval is None
    assert verdict.sentence == (
        "Too few runs to tell a gain from noise: k = 3: 6.00 %; k = 1: 8.00 %, +2.00 points paired "
        "over 1 seed."
    )


def test_an_original_without_a_result_is_said() -> None:
    def lost(waiting: Any) -> Any:
        return pruned(waiting) if waiting.k == 1.0 else completed(waiting, 9.0 - waiting.k)

    verdict = ended(lost, seeds=2).verdict
    assert verdict.outcome == Outcome.TOO_FEW_RUNS
    assert verdict.sentence.startswith("Too few runs: k = 3: 6.00 ± 0.00 %; the original, k = 1,")


def test_an_unfinished_study_says_so_far() -> None:
    done = ended(lambda t: completed(t, 9.0 - (t.k or 0) + t.key.seed / 10), seeds=3)
    plan = done.plan
    assert judge(plan, "running").sentence == (
        f"So far, {done.verdict.sentence[0].lower()}{done.verdict.sentence[1:]}"
    )
    assert judge(plan, "stopped").sentence == judge(plan, "running").sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.234, "1.23"), (0.004, "0.004"), (-0.0003, "-0.0003"), (-2.0, "-2.00")],
)
def test_a_difference_that_is_not_zero_never_shows_as_zero(value: float, text: str) -> None:
    shown = MetricFormat(VALIDATION_ERROR, 2)
    assert shown.difference(value) == text
    assert shown.signed(value) == (text if text.startswith("-") else f"+{text}")


def test_why_another_row_than_the_best_looks_better() -> None:
    errors = {1.0: [9.0, 9.1, 9.2], 2.0: [5.0, 5.2, 5.1], 3.0: [4.0]}

    def outcome(waiting: Any) -> Any:
        known = errors[waiting.k]
        has_run = waiting.key.seed < len(known)
        return completed(waiting, known[waiting.key.seed]) if has_run else pruned(waiting)

    stage = ended(outcome, seeds=3).plan.stages[0]
    assert stage.best is not None
    assert stage.best.k == 2.0
    why = stage.why_best(VALIDATION_ERROR)
    assert why is not None
    assert why.startswith(
        "k = 2 is the lowest point of the smooth curve through all runs, among candidates with two "
        "complete runs or more: the mean of k = 3 is lower, but of fewer or easier seeds"
    )
    plain = ended(lambda t: completed(t, 9.0 - (t.k or 0)), seeds=3).plan.stages[0]
    assert plain.why_best(VALIDATION_ERROR) is None
