"""A search of whole schedules in words: its candidates' parameters, its edges, what it compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdecay_search.report import metrics
from kdecay_search.search import CandidateResult, Stage
from kdecay_search.search.allocation import ROUNDING
from kdecay_search.search.coordinates import coordinates
from kdecay_search.search.policy import POLICY
from kdecay_search.search.stage import TunedBaseline
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.axis import Axis
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.own_parameters import OwnAxis, own_text
from kdecay_search.study.space import CAPS, LEVEL_CAP, ORIGINAL_NAME
from kdecay_search.study.spec import StudySpec

MOST_ROWS = 8
"""Most candidates that a narrow table lists: the best."""
MOST_FEATURED = 6
"""Most candidates whose curves are shown and that have colours of their own."""
NEAR_CAP = 0.02
"""Share of a bound by which a value may miss it and still lie at it."""


@dataclass(frozen=True)
class Column:
    """One parameter in a table of whole schedules."""

    heading: str
    """Its name."""
    key: str
    """The candidate's field."""
    text: Callable[[Any], str]
    """Its value as text, if there is one."""

    def of(self, point: Candidate) -> str:
        """The parameter of a candidate as text; empty if its family has none."""
        value = point.value(self.key)
        return "" if value is None else self.text(value)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


COLUMNS = (
    Column("family", "family", str),
    Column("k", "k", _number),
    Column("N", "power", _number),
    Column("decay", "decay_share", _share),
    Column("lr_max", "lr_max", lambda value: f"{value:.4g}"),
    Column("lr_min", "lr_min", _share),
    Column("warm-up", "warmup", _share),
)
"""The parameters of whole schedules in the order in which tables show them."""
NAMES = {column.key: column.heading for column in COLUMNS} | {"decay_share": "decay share"}
"""What the parameters are called in sentences, by the candidate's field."""
NOTE = "decay: of the updates after the warm-up; lr_min: of lr_max; warm-up: of the training"
"""What the shares of a table are shares of."""


def column_of(key: str) -> Column:
    """The column of one parameter, which may be one of the user's own."""
    own = Column(key, key, own_text)
    return next((column for column in COLUMNS if column.key == key), own)


def columns(candidates: Sequence[CandidateResult]) -> list[Column]:
    """The parameters that differ among candidates; k in any case where one has it."""
    points = [c.point for c in candidates if c.point is not None]
    own = dict.fromkeys(name for point in points for name, _ in point.args)
    return [
        column
        for column in (*COLUMNS, *map(column_of, own))
        if len({column.of(point) for point in points}) > 1
        or (column.key == "k" and any(point.k is not None for point in points))
    ]


def lateness(point: Candidate) -> float:
    """How late a whole schedule falls: the k of the schedule 1 − u^k that comes to the middle
    between lr_max and lr_min at the same time. For the polynomial family with N = 1 it is k."""
    return math.exp(float(coordinates([point])[0][0][0]))


def by_rank(stage: Stage) -> list[CandidateResult]:
    """The candidates of a stage, the best first, then by P(best) and by their mean."""
    best = stage.best.index if stage.best is not None else None
    return sorted(
        (c for c in stage.candidates if c.point is not None),
        key=lambda c: (
            c.index != best,
            c.error.mean is None,
            -(c.probability or 0.0),
            math.inf if c.error.mean is None else c.error.mean,
            c.index,
        ),
    )


def featured(stage: Stage) -> list[Candidate]:
    """The candidates whose curves are shown: the best, the usual schedules at their best, and the
    next best ones."""
    ranked = [c.point for c in by_rank(stage) if c.errors or c.unfinished]
    tuned = [baseline.best.point for baseline in stage.baselines]
    order = dict.fromkeys([*ranked[:1], *tuned, *ranked])
    return [point for point in order if point is not None][:MOST_FEATURED]


def outcome(stage: Stage) -> str:
    """What came of a stage of a search of whole schedules, such as ``found cooldown over 20 %``."""
    best = stage.best
    assert best is not None
    assert best.point is not None
    name = candidate_name(best.point, stage.earlier_ks)
    if stage.n > 1:
        return f"keeps {name}" if stage.kept else "a further term is worth nothing"
    return f"found {name}" if stage.kept else f"the original is the best: {name}"


def title(stage: Stage) -> str:
    """What a stage searches, such as ``whole schedules``."""
    return "whole schedules" if stage.n == 1 else f"term k{stage.n}"


def edges(stage: Stage, spec: StudySpec) -> list[str]:
    """A sentence for each parameter whose best value lies at a bound that stays."""
    point = stage.best.point if stage.best else None
    if point is None:
        return []
    return [_edge(name, point, spec) for name in stage.edges]


def _edge(name: str, point: Candidate, spec: StudySpec) -> str:
    value, called, column = point.value(name), NAMES.get(name, name), column_of(name)
    axes = [f.axes[name] for f in spec.schedule_space().families if name in f.axes]
    if name not in NAMES:
        ends = " to ".join(map(column.text, axes[0].values))
        return (
            f"The best {name}, {column.text(value)}, lies near an end of its range, {ends}, which "
            "is not widened: its best may lie beyond."
        )
    at = f"The best {called}, {column.text(value)}, lies at the end of what"
    for low, high in [_caps(name, axes[0])] if axes else []:
        for cap in (low, high):
            if abs(value - cap) <= NEAR_CAP * abs(cap):
                return f"{at} may be searched ({_limit(name, cap, axes[0], column)})."
    ends = f", {column.text(axes[0].low)} to {column.text(axes[0].high)}," if axes else ""
    return f"{at} was searched{ends} and no budget is left to widen it: its best may lie beyond."


def _caps(name: str, axis: Axis) -> tuple[float, float]:
    if name == "lr_max":
        middle = math.sqrt(axis.low * axis.high)
        return middle / LEVEL_CAP, middle * LEVEL_CAP
    return CAPS[name]


def _limit(name: str, cap: float, axis: Axis, column: Column) -> str:
    if name != "lr_max":
        return column.text(cap)
    middle = math.sqrt(axis.low * axis.high)
    ratio = f"{LEVEL_CAP:g} times" if cap > middle else f"a {LEVEL_CAP:g}th of"
    return f"{ratio} {middle:.4g}, the middle of its range"


def no_further_term(snapshot: StudySnapshot) -> str:
    """Why a search of whole schedules that is over has tried no further term, in a sentence.

    Returns:
        The sentence; empty if a further term was tried, or if the study asks for none.
    """
    plan, search = snapshot.plan, snapshot.spec.search
    is_over = plan.stages and plan.stages[-1].progress == "done"
    last = plan.stages[-1] if plan.stages else None
    if not snapshot.is_joint or last is None or not is_over or len(plan.stages) >= search.max_terms:
        return ""
    if last.n > 1 and not last.kept:
        return f"A term k{last.n} was tried and is worth nothing: no further one was."
    if not last.kept:
        return "No further term was tried, since nothing is better than the original."
    if not plan.leader.ks:
        return "No further term was tried: a cooldown has none."
    left = math.floor(search.budget - plan.spent + ROUNDING)
    if left < POLICY.min_budget:
        rest = f"{left} of {search.budget} runs are left" if left > 0 else "it is spent"
        return f"No further term was tried: the budget does not allow it ({rest})."
    return f"No further term was tried: none above k = {plan.leader.ks[-1]:.4g} may be searched."


def tuned_headings(form: MetricFormat) -> tuple[str, ...]:
    """Headings of the table of usual schedules."""
    mean = metrics.with_unit(f"mean {metrics.word(form.metric)}", form.metric)
    better = metrics.with_difference_unit("found is better by", form)
    return ("schedule", "its best", "runs", mean, f"{better} (95 % interval)")


def tuned_rows(stage: Stage, form: MetricFormat) -> list[tuple[str, ...]]:
    """The usual schedules that a stage has tuned, a row of text each."""
    return [_tuned(each, stage, form) for each in stage.baselines]


def _tuned(each: TunedBaseline, stage: Stage, form: MetricFormat) -> tuple[str, ...]:
    point, mean, gain = each.best.point, each.best.error.mean, each.gain
    is_best = stage.best is not None and stage.best.index == each.best.index
    found = "" if gain is None else f"{form.signed(gain.mean)} ({form.span(gain.interval)})"
    return (
        "original, k = 1" if each.name == ORIGINAL_NAME else each.name,
        "" if point is None else settings(point),
        str(each.runs),
        "" if mean is None else form.number(mean),
        "it is the best" if is_best else found,
    )


def settings(point: Candidate) -> str:
    """What was tuned of a usual schedule, such as ``lr_max 0.1, lr_min 1 %``."""
    keys = ("decay_share", "lr_max", "lr_min", "warmup", *dict(point.args))
    shown = [column for column in map(column_of, keys) if column.of(point)]
    parts = [f"{column.heading} {column.of(point)}" for column in shown]
    return ", ".join(parts)


def space_rows(spec: StudySpec) -> list[tuple[str, str, str]]:
    """What a search of whole schedules may try: parameter, range, and where it applies."""
    space = spec.schedule_space()
    rows: dict[tuple[str, str], list[str]] = {}
    for family in space.families:
        for name, axis in family.axes.items():
            rows.setdefault((name, _axis(name, axis)), []).append(family.family)
    every = len(space.families)
    return [
        (NAMES.get(name, name), text, "" if len(of) == every else ", ".join(of))
        for (name, text), of in rows.items()
    ]


def _axis(name: str, axis: Axis) -> str:
    column = column_of(name)
    if axis.is_fixed:
        return column.text(axis.low)
    if axis.scale is None:
        return ", ".join(map(column.text, axis.values))
    kind = ", integers" if isinstance(axis, OwnAxis) and axis.is_integer else ""
    return f"{column.text(axis.low)} to {column.text(axis.high)}, {axis.scale}{kind}"


def baseline_names(spec: StudySpec) -> str:
    """The usual schedules that are tuned within the budget, in words."""
    names = [each.name for each in spec.schedule_space().baselines]
    original = f"the original ({spec.schedule.family}, k = 1)"
    return ", ".join(original if name == ORIGINAL_NAME else name for name in names)
