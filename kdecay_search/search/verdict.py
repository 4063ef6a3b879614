"""The verdict of a study: whether the schedule that it found is better than the original.

The verdict is computed once, here, from the plan alone. The terminal, the report, the dashboard's
notes and the JSON print it and decide nothing themselves. An outcome follows from the interval that
the sentence states, and from nothing else, so a sentence never contradicts its own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kdecay_search.search.confirmation import Confirmation, Row
from kdecay_search.search.plan import Plan
from kdecay_search.search.selection import Gain
from kdecay_search.search.stage import Incumbent
from kdecay_search.statistics import Comparison, Sample, describe, paired_gain
from kdecay_search.study.candidate import schedule_name
from kdecay_search.study.comparators import AREA_MATCHED, BASELINE_KS, FOUND, GIVEN, ORIGINAL
from kdecay_search.study.metric import MetricFormat

MIN_RUNS = 2
"""Complete runs of each schedule below which a gain cannot be told from noise."""


class Outcome(StrEnum):
    """What a comparison of two schedules shows."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no detectable difference"
    TOO_FEW_RUNS = "too few runs"


class Model(StrEnum):
    """Where the estimate and its interval come from."""

    SMOOTH_CURVE = "smooth curve"
    """The smooth curve through all runs of each stage, summed over the stages."""
    PAIRED = "paired"
    """Student's t for the differences between runs of the same seed."""


@dataclass(frozen=True)
class Verdict:
    """How one schedule compares with another.

    Differences are in the metric's unit; a positive estimate means that the found schedule is
    better, whatever the metric's direction.
    """

    outcome: Outcome
    """What the comparison shows; it follows from ``interval``."""
    of: str
    """The schedule that was found, such as ``k = 2, 6.5``."""
    against: str
    """The schedule that it is compared with, such as ``k = 1``."""
    estimate: float | None
    """By how much the found schedule is better; None if nothing can be compared."""
    interval: tuple[float, float] | None
    """95 % interval of the estimate; None if there is none."""
    model: Model | None
    """The model behind the estimate; None if there is no estimate."""
    pairs: int
    """Number of seeds on which both schedules have a complete run."""
    sentence: str
    """The verdict in words, with its numbers."""
    gain: str
    """The estimate with its sign and unit, such as ``+0.60 points``, or ``not clear``."""


def judge(plan: Plan, state: str) -> Verdict:
    """Compare the best schedule of a search with the original, on validation data.

    With one term, the estimate is that of the smooth curve through all runs, which makes use of
    every run and knows how many candidates were tried. Each further term adds its own gain on the
    schedule before it; the errors of the stages' estimates are taken to be independent.

    Args:
        plan: What the study's records amount to.
        state: ``running``, ``done``, ``stopped`` or ``failed``; an unfinished study's verdict says
            that it is one so far.
    """
    verdict = _judge(plan)
    if state not in ("running", "stopped") or not plan.leader.errors:
        return verdict
    sentence = f"So far, {verdict.sentence[0].lower()}{verdict.sentence[1:]}"
    return replace(verdict, sentence=sentence)


def _judge(plan: Plan) -> Verdict:
    leader, baseline = plan.leader, plan.baseline
    of, against = leader.name, baseline.name
    form = plan.format
    paired = paired_gain(baseline.errors, leader.errors)

    def verdict(
        outcome: Outcome,
        sentence: str,
        estimate: float | None = None,
        interval: tuple[float, float] | None = None,
        model: Model | None = None,
    ) -> Verdict:
        gain = _gain(form, outcome, estimate)
        return Verdict(outcome, of, against, estimate, interval, model, paired.n, sentence, gain)

    if not leader.errors:
        text = "All complete runs have diverged." if leader.diverged else "No run is complete yet."
        return verdict(Outcome.TOO_FEW_RUNS, text)
    found = f"{of}: {form.sample(describe(leader.errors.values()))}{_divergence(leader)}"
    if (leader.ks, leader.point) == (baseline.ks, baseline.point):
        text = f"No detectable difference: nothing is better than the original, {found}."
        return verdict(Outcome.NO_DIFFERENCE, text)
    if not baseline.errors:
        why = "has diverged" if baseline.diverged else "has no result to compare with"
        text = f"Too few runs: {found}; the original, {against}, {why}."
        return verdict(Outcome.TOO_FEW_RUNS, text)
    original = form.sample(describe(baseline.errors.values()))
    both = f"{found}; {against}: {original}{_divergence(baseline)}"
    smooth = _smooth_gain(plan)
    is_short = min(len(leader.errors), len(baseline.errors)) < MIN_RUNS
    if smooth is None or (is_short and leader.point is None):
        if paired.mean is None:
            text = f"Too few runs to tell a gain from noise: {both}."
            return verdict(Outcome.TOO_FEW_RUNS, text)
        text = (
            f"Too few runs to tell a gain from noise: {both}, {form.change(paired.mean)} "
            f"{_over(paired)}."
        )
        return verdict(Outcome.TOO_FEW_RUNS, text, paired.mean, None, Model.PAIRED)
    outcome = outcome_of(smooth.interval)
    curves = "a smooth curve" if len(leader.ks) == 1 else "the stages' smooth curves"
    if leader.point is not None:
        curves = "a smooth surface"
    low, high = smooth.interval
    difference = f"{outcome.capitalize()} by {form.size(smooth.mean)}"
    if outcome == Outcome.WORSE:
        low, high = -high, -low
    elif outcome == Outcome.NO_DIFFERENCE:
        difference = f"No detectable difference: {form.change(smooth.mean)}"
    numbers = f"(95 % interval {form.span((low, high))}, by {curves} through all runs"
    if paired.mean is not None:
        numbers += f"; {_over(paired)}: {form.signed(paired.mean)}"
    text = f"{both}. {difference} {numbers}).{_against_tuned(plan)}"
    return verdict(outcome, text, smooth.mean, smooth.interval, Model.SMOOTH_CURVE)


def _against_tuned(plan: Plan) -> str:
    """How the found schedule compares with the usual ones, each at its own best level and floor."""
    form = plan.format
    parts = []
    for tuned in plan.stages[0].baselines[1:]:
        if tuned.best.point == plan.leader.point:
            parts.append(f"it is the best {tuned.name}")
        elif tuned.gain is not None and len(plan.leader.ks) <= 1:
            parts.append(
                _compared(f"the best {tuned.name}", tuned.gain.mean, tuned.gain.interval, form)
            )
    return _equally_tuned(parts)


def _compared(
    other: str, gain: float, interval: tuple[float, float] | None, form: MetricFormat
) -> str:
    """A comparison with another schedule, such as ``better than the best cosine by 0.5 points``."""
    outcome = Outcome.TOO_FEW_RUNS if interval is None else outcome_of(interval)
    if outcome not in (Outcome.BETTER, Outcome.WORSE):
        return f"no detectable difference to {other} ({_signed(gain, interval, form)})"
    return f"{outcome} than {other}, {_size(gain, interval, form)}"


def _equally_tuned(parts: Sequence[str]) -> str:
    return f" Against usual schedules, equally tuned: {'; '.join(parts)}." if parts else ""


def _smooth_gain(plan: Plan) -> Gain | None:
    """The gain of the leader on the original: the sum over the stages that its terms come from."""
    gains = [stage.smooth_gain for stage in plan.stages[: max(1, len(plan.leader.ks))]]
    known = [gain for gain in gains if gain is not None]
    if not known or len(known) < len(gains):
        return None
    mean = sum(gain.mean for gain in known)
    below = math.hypot(*(gain.mean - gain.interval[0] for gain in known))
    above = math.hypot(*(gain.interval[1] - gain.mean for gain in known))
    return Gain(mean, (mean - below, mean + above), min(gain.probability for gain in known))


def judge_confirmation(confirmation: Confirmation, form: MetricFormat) -> Verdict:
    """Compare the found schedule with the original on fresh seeds, on the test set.

    Args:
        confirmation: What the runs on fresh seeds have shown.
        form: How the study's metric is shown.
    """
    compared = confirmation.comparison
    rows = {row.comparator: row for row in confirmation.rows}
    level = rows[ORIGINAL].lr_max if ORIGINAL in rows else None
    against = schedule_name(BASELINE_KS, level)
    if ORIGINAL in rows and rows[ORIGINAL].name:
        against = rows[ORIGINAL].name
    has_result = confirmation.is_over and compared.difference is not None
    outcome = Outcome(compared.verdict) if has_result else Outcome.TOO_FEW_RUNS
    if has_result and compared.interval is not None:
        outcome = outcome_of(compared.interval)
    return Verdict(
        outcome=outcome,
        of=confirmation.name,
        against=against,
        estimate=compared.difference if has_result else None,
        interval=compared.interval if has_result else None,
        model=Model.PAIRED if has_result else None,
        pairs=compared.n,
        sentence=_confirmation_sentence(confirmation, outcome, against, form),
        gain=_gain(form, outcome, compared.difference),
    )


def _gain(form: MetricFormat, outcome: Outcome, estimate: float | None) -> str:
    if estimate is None or outcome not in (Outcome.BETTER, Outcome.WORSE):
        return "not clear"
    return form.change(estimate)


def _divergence(schedule: Incumbent | Row) -> str:
    """How many of a schedule's runs have diverged, in brackets; empty for none."""
    runs = len(schedule.errors) + schedule.diverged
    return f" ({schedule.diverged} of {runs} runs diverged)" if schedule.diverged else ""


def _confirmation_sentence(
    confirmation: Confirmation, outcome: Outcome, against: str, form: MetricFormat
) -> str:
    compared = confirmation.comparison
    if not confirmation.rows:
        return "There is nothing to confirm: the search found no schedule better than the original."
    if not confirmation.is_over:
        left = sum(row.unfinished for row in confirmation.rows)
        return f"The confirmation on the test set is under way: {left} runs to go."
    if compared.difference is None:
        return "The confirmation failed: no seed has both the found schedule and the original."
    where = f"on the test set, {compared.n} fresh seed{'s' if compared.n != 1 else ''}"
    by = size(compared, form)
    from_file = _from_file(confirmation, outcome, against, form)
    if from_file:
        return (
            f"{where[0].upper()}{where[1:]}: {from_file}"
            + _diverged(confirmation)
            + _others(confirmation, form)
        )
    return (
        {
            Outcome.BETTER: f"Confirmed: {where}, better than {against} {by}.",
            Outcome.WORSE: f"Refuted: {where}, worse than {against} {by}.",
        }.get(
            outcome,
            f"Not confirmed: {where}, no detectable difference to {against} "
            f"({_signed(compared.difference or 0.0, compared.interval, form)}).",
        )
        + _diverged(confirmation)
        + _shape(confirmation, outcome, form)
        + _others(confirmation, form)
    )


def _from_file(
    confirmation: Confirmation, outcome: Outcome, against: str, form: MetricFormat
) -> str:
    """How the found schedule compares with the study file's own, and with the original at its best
    level, which tells the level's part in the gain from the shape's; empty if these are one."""
    row = next((row for row in confirmation.rows if row.comparator == GIVEN), None)
    given = confirmation.others.get(GIVEN)
    if row is None or given is None or given.difference is None:
        return ""
    own = f"the study file's own schedule, {row.name}"
    first = _compared(own, given.difference, given.interval, form)
    compared = confirmation.comparison
    second = _compared(
        f"the original at its own best level, {against}",
        compared.difference or 0.0,
        compared.interval,
        form,
    )
    why = ""
    if given.interval is not None and outcome_of(given.interval) == Outcome.BETTER:
        why = {
            Outcome.BETTER: " The shape matters, and not only the level.",
            Outcome.NO_DIFFERENCE: " So the level may be all of the gain.",
        }.get(outcome, "")
    return f"{first}. {second[0].upper()}{second[1:]}.{why}"


def _diverged(confirmation: Confirmation) -> str:
    """Which schedules have diverged on a fresh seed: such runs are in no mean and in no pair."""
    return "".join(
        f" {name} has diverged on {row.diverged} of {len(confirmation.seeds)} seeds, which no mean "
        "includes."
        for row in confirmation.rows
        if row.diverged
        for name in [{FOUND: "The found schedule", ORIGINAL: "The original"}.get(row.comparator)]
        if name
    )


def _shape(confirmation: Confirmation, outcome: Outcome, form: MetricFormat) -> str:
    """Whether the gain comes from the shape of the decay or from the higher mean rate."""
    matched = confirmation.others.get(AREA_MATCHED)
    if matched is None or matched.difference is None:
        return ""
    same = f"{schedule_name(BASELINE_KS)} at the same mean rate"
    found = Outcome(matched.verdict)
    if found == Outcome.BETTER:
        return f" Its shape matters: it is better than {same} {size(matched, form)}."
    if found == Outcome.WORSE:
        return f" Its shape does not help: it is worse than {same} {size(matched, form)}."
    begins = f"There is no detectable difference to {same}"
    if outcome == Outcome.NO_DIFFERENCE:
        begins += " either"
    return f" {begins} ({_signed(matched.difference or 0.0, matched.interval, form)})."


def _others(confirmation: Confirmation, form: MetricFormat) -> str:
    """How the found schedule compares with the usual ones that were tuned as well."""
    compared = [
        (row.name, confirmation.others[row.comparator])
        for row in confirmation.rows
        if row.name and row.comparator in confirmation.others and row.comparator != GIVEN
    ]
    return _equally_tuned(
        [
            _compared(name, each.difference, each.interval, form)
            for name, each in compared
            if each.difference is not None
        ]
    )


def outcome_of(interval: tuple[float, float]) -> Outcome:
    """What an interval of a gain shows: a difference only if it leaves out zero."""
    low, high = interval
    if low > 0:
        return Outcome.BETTER
    return Outcome.WORSE if high < 0 else Outcome.NO_DIFFERENCE


def size(comparison: Comparison, form: MetricFormat) -> str:
    """The size of a difference, such as ``by 0.95 points (95 % interval 0.50 to 1.40)``."""
    return _size(comparison.difference or 0.0, comparison.interval, form)


def _size(difference: float, interval: tuple[float, float] | None, form: MetricFormat) -> str:
    text = f"by {form.size(difference)}"
    if interval is None:
        return text
    low, high = interval
    shown = form.span((-high, -low) if difference < 0 else (low, high))
    return f"{text} (95 % interval {shown})"


def _over(paired: Sample) -> str:
    return f"paired over {paired.n} seed{'s' if paired.n != 1 else ''}"


def _signed(difference: float, interval: tuple[float, float] | None, form: MetricFormat) -> str:
    """A difference with its sign, such as ``+0.14 points, 95 % interval -0.08 to 0.35``."""
    text = form.change(difference)
    return text if interval is None else f"{text}, 95 % interval {form.span(interval)}"
