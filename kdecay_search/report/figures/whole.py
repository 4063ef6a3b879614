"""Figures of a search of whole schedules: values by lateness, and the plane of level and lateness.

Families have different parameters, so a schedule is placed by the k of equal half-time: that of the
schedule 1 − u^k which comes to the middle between lr_max and lr_min at the same time. For the
polynomial family with N = 1 this is k itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import Any

import plotly.graph_objects as go

from kdecay_search.report import metrics, names
from kdecay_search.report.figures import theme
from kdecay_search.report.figures.palette import STOPS, Palette
from kdecay_search.report.names import counted
from kdecay_search.report.whole import lateness
from kdecay_search.search import CandidateResult, Stage
from kdecay_search.search.policy import POLICY
from kdecay_search.search.surrogate import smooth_curve
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import COOLDOWNS, Candidate, candidate_name
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.space import PARAMETERS_OF

LATENESS = "k of equal half-time"
"""Title of the axis on which schedules are placed by their lateness."""
COLUMNS, ROWS = 28, 22
"""Fields of the plane's background."""
SMALLEST, LARGEST = 9.0, 22.0
"""Sizes of a point with one run and of the one with the most, in pixels."""
MARGIN = 0.06
"""Space around the points, as a share of the axis."""
FAR = 2.0
"""Values worse than the best three quarters by more than this multiple of their range have the
last colour: they must not make all others alike."""
DIVERGED_ABOVE = 0.08
"""Distance of the runs that diverged from the worst one that is drawn, as a share of the range."""
BEST = "#2f7d77"
"""Colour of the ring around the best candidate."""
SYMBOLS = {
    "polynomial": "circle",
    "cosine": "diamond",
    "exponential": "triangle-up",
    "cooldown": "square",
    "linear-cooldown": "square-open",
}
"""Mark of a candidate by its family."""


@dataclass(frozen=True)
class _Side:
    """What the vertical axis of the plane shows."""

    key: str
    """The candidate's field."""
    title: str
    """Title of the axis."""
    is_log: bool
    """Whether the axis is logarithmic."""


_SIDES = (
    _Side("lr_max", "lr_max", True),
    _Side("power", "N", True),
    _Side("lr_min", "lr_min, share of lr_max", False),
    _Side("warmup", "warm-up, share of the training", False),
)
"""What the vertical axis may show: the first of these that differs among the candidates."""


def error_by_lateness(snapshot: StudySnapshot, stage: Stage, edge: float) -> go.Figure:
    """Every run's value and each candidate's mean, by how late the schedule falls.

    Args:
        snapshot: The study.
        stage: A stage with a complete run.
        edge: The largest error that is drawn at its own height.
    """
    form, palette = snapshot.plan.format, Palette.of(snapshot)
    tried = [c for c in stage.candidates if c.errors and c.point is not None]
    title = LATENESS if stage.n == 1 else f"k<sub>{stage.n}</sub>"
    place = _placed(stage)
    shown = theme.figure(title, form.metric.label)
    runs = [(c, seed, c.errors[seed]) for c in tried for seed in sorted(c.errors)]
    outlying = "triangle-up" if form.metric.direction == "min" else "triangle-down"
    shown.add_scatter(
        x=[place(c) for c, _, _ in runs],
        y=[form.metric.value(min(error, edge)) for _, _, error in runs],
        text=[f"{_name(c, stage)} · seed {seed}" for c, seed, _ in runs],
        customdata=[form.metric.value(error) for _, _, error in runs],
        mode="markers",
        name="each seed",
        marker={
            "color": [palette.at(_point(c)) for c, _, _ in runs],
            "symbol": [outlying if error > edge else "circle" for _, _, error in runs],
            "size": 6,
            "opacity": 0.5,
        },
        hovertemplate=f"%{{text}}<br>{_value(form, 'customdata')}<extra></extra>",
    )
    _add_diverged(shown, snapshot, stage, edge)
    for family in dict.fromkeys(_point(c).family for c in tried):
        of = [c for c in tried if _point(c).family == family]
        shown.add_scatter(
            x=[place(c) for c in of],
            y=[form.metric.value(min(c.error.mean or 0.0, edge)) for c in of],
            text=[_described(c, stage, form) for c in of],
            mode="markers",
            name=f"mean, {family}",
            marker={
                "color": [palette.at(_point(c)) for c in of],
                "symbol": SYMBOLS.get(family or "", "circle"),
                "size": 11,
                "line": {"width": 0.8, "color": "rgba(255,255,255,0.85)"},
            },
            hovertemplate="%{text}<extra></extra>",
        )
    _mark_best(
        shown, stage, tried, place, lambda c: form.metric.value(min(c.error.mean or 0, edge))
    )
    shown.update_xaxes(type="log", **_log_ticks([place(c) for c in tried]))
    return shown


def plane(snapshot: StudySnapshot, stage: Stage) -> go.Figure | None:
    """Where the runs of a search of whole schedules are, and what it has learned: level by k.

    The background is the smooth surface through all runs, for schedules of the best one's family
    that have its other parameters. A point is a candidate, the larger the more runs it has.

    Returns:
        The figure; None for a later stage, which searches k alone, and where nothing beside the
        shape is searched.
    """
    tried = [c for c in stage.candidates if c.errors and c.point is not None]
    side = next((s for s in _SIDES if len({_y(c, s) for c in tried} - {None}) > 1), None)
    if stage.n != 1 or stage.best is None or side is None:
        return None
    tried = [c for c in tried if _y(c, side) is not None]
    form = snapshot.plan.format
    shown = theme.figure(LATENESS, side.title, height=470)
    means = _smooth(snapshot, stage, [_point(c) for c in tried])
    low, high = _colour_range(list(means.values()), form)
    scale = _scale(form)
    colours = {"cmin": low, "cmax": high, "colorscale": scale}
    _add_surface(shown, snapshot, stage, side, tried, (low, high))
    most = max(len(c.errors) for c in tried)
    for index, family in enumerate(dict.fromkeys(_point(c).family for c in tried)):
        of = [c for c in tried if _point(c).family == family]
        shown.add_scatter(
            x=[lateness(_point(c)) for c in of],
            y=[_y(c, side) for c in of],
            text=[_described(c, stage, form) for c in of],
            mode="markers",
            name=family,
            marker={
                "color": [form.metric.value(means[_point(c)]) for c in of],
                "size": [_size(len(c.errors), most) for c in of],
                "symbol": SYMBOLS.get(family or "", "circle").removesuffix("-open"),
                "line": {"width": 1.2, "color": "rgba(255,255,255,0.9)"},
                "opacity": 1.0,
                "showscale": index == 0,
                "colorbar": {
                    "title": {"text": metrics.with_unit(metrics.word(form.metric), form.metric)},
                    "thickness": 12,
                    "outlinewidth": 0,
                    "tickformat": f".{form.decimals}f",
                },
                **colours,
            },
            hovertemplate="%{text}<extra></extra>",
        )
    _mark_best(shown, stage, tried, lambda c: lateness(_point(c)), lambda c: _y(c, side) or 0.0)
    places = [lateness(_point(c)) for c in tried]
    heights = [_y(c, side) or 0.0 for c in tried]
    shown.update_xaxes(type="log", showgrid=False, **_log_ticks(places))
    shown.update_xaxes(range=[math.log10(end) for end in _ends(places, True)])
    ends = _ends(heights, side.is_log)
    if side.is_log:
        shown.update_yaxes(type="log", **_log_ticks(heights))
        ends = (math.log10(ends[0]), math.log10(ends[1]))
    shown.update_yaxes(range=list(ends), showgrid=False)
    return shown


def _add_diverged(shown: go.Figure, snapshot: StudySnapshot, stage: Stage, edge: float) -> None:
    """Add a cross beyond the edge for every run that diverged: it has no value of its own."""
    form, seeds = snapshot.plan.format, names.diverged_seeds(snapshot, stage)
    runs = [(c, seed) for c in stage.candidates for seed in seeds.get(c.index, ())]
    if not runs:
        return
    lowest = min(error for c in stage.candidates for error in c.errors.values())
    height = edge + DIVERGED_ABOVE * max(edge - lowest, metrics.step(form))
    palette, place = Palette.of(snapshot), _placed(stage)
    shown.add_scatter(
        x=[place(c) for c, _ in runs],
        y=[form.metric.value(height)] * len(runs),
        text=[f"{_name(c, stage)} · seed {seed}" for c, seed in runs],
        mode="markers",
        name="diverged",
        marker={"color": [palette.at(_point(c)) for c, _ in runs], "symbol": "x", "size": 9},
        hovertemplate="%{text}<br>diverged<extra></extra>",
    )


def _placed(stage: Stage) -> Callable[[CandidateResult], float]:
    """Where a candidate stands on the horizontal axis of its stage."""
    if stage.n == 1:
        return lambda candidate: lateness(_point(candidate))
    return lambda candidate: candidate.k or 1.0


def _point(candidate: CandidateResult) -> Candidate:
    assert candidate.point is not None
    return candidate.point


def _y(candidate: CandidateResult, side: _Side) -> float | None:
    value: float | None = getattr(_point(candidate), side.key)
    return value


def _name(candidate: CandidateResult, stage: Stage) -> str:
    return candidate_name(_point(candidate), stage.earlier_ks)


def _value(form: MetricFormat, field: str) -> str:
    digits, unit = f".{form.decimals}f", form.unit
    return f"{metrics.word(form.metric)} %{{{field}:{digits}}}{unit}"


def _described(candidate: CandidateResult, stage: Stage, form: MetricFormat) -> str:
    error = candidate.error
    lines = [
        f"<b>{_name(candidate, stage)}</b>",
        f"mean {metrics.word(form.metric)} {form.sample(error)}, {counted(error.n, 'run')}",
    ]
    if candidate.diverged:
        lines.append(f"{counted(candidate.diverged, 'run')} diverged")
    if candidate.probability is not None:
        lines.append(f"probability to be the best {candidate.probability:.0%}")
    place = lateness(_point(candidate))
    if _point(candidate).family in COOLDOWNS or _point(candidate).power not in (None, 1.0):
        lines.append(f"falls to half when k = {place:.3g} does")
    return "<br>".join(lines)


def _size(runs: int, most: int) -> float:
    share = math.sqrt((runs - 1) / (most - 1)) if most > 1 else 0.0
    return SMALLEST + (LARGEST - SMALLEST) * share


def _mark_best(
    shown: go.Figure,
    stage: Stage,
    tried: Sequence[CandidateResult],
    x: Callable[[CandidateResult], float],
    y: Callable[[CandidateResult], float],
) -> None:
    """Add a ring around the best candidate."""
    best = next((c for c in tried if stage.best and c.index == stage.best.index), None)
    if best is None:
        return
    word = "best so far" if stage.progress == "running" else "best"
    shown.add_scatter(
        x=[x(best)],
        y=[y(best)],
        mode="markers",
        name=f"<b>{word}</b>",
        marker={"symbol": "circle-open", "size": LARGEST + 9, "color": BEST, "line": {"width": 3}},
        hoverinfo="skip",
    )


def _smooth(
    snapshot: StudySnapshot, stage: Stage, points: Sequence[Candidate]
) -> Mapping[Candidate, float]:
    """The smooth surface through all runs at some points."""
    results = [(c.point, s, e) for c in stage.candidates if c.point for s, e in c.errors.items()]
    policy = replace(POLICY, own=snapshot.spec.schedule_space().own)
    drawn = smooth_curve(points, results, policy)
    return dict(zip(drawn.points, drawn.errors, strict=True))


def _colour_range(errors: Sequence[float], form: MetricFormat) -> tuple[float, float]:
    """Values of the first and the last colour, the lower one first."""
    lowest, highest = min(errors), max(errors)
    if len(errors) > 3:  # noqa: PLR2004 - else there are no quarters
        upper = quantiles(errors, n=4)[2]
        highest = min(highest, upper + FAR * max(upper - lowest, metrics.step(form)))
    if highest <= lowest:
        highest = lowest + metrics.step(form)
    low, high = sorted(map(form.metric.value, (lowest, highest)))
    return low, high


def _scale(form: MetricFormat) -> list[list[object]]:
    """Colours of values, from the best in blue to the worst in orange."""
    colours = [f"rgb{colour}" for colour in STOPS]
    if form.metric.direction == "max":
        colours.reverse()
    return [[index / (len(colours) - 1), colour] for index, colour in enumerate(colours)]


def _add_surface(
    shown: go.Figure,
    snapshot: StudySnapshot,
    stage: Stage,
    side: _Side,
    tried: Sequence[CandidateResult],
    limits: tuple[float, float],
) -> None:
    best = stage.best.point if stage.best else None
    if best is None or getattr(best, side.key) is None:
        return
    form = snapshot.plan.format
    across = _shapes(best, [lateness(_point(c)) for c in tried])
    up = _steps(_ends([_y(c, side) or 0.0 for c in tried], side.is_log), ROWS, side.is_log)
    grid = [[_with(shape, side.key, height) for shape in across] for height in up]
    means = _smooth(snapshot, stage, [point for row in grid for point in row])
    digits, unit = f".{form.decimals}f", form.unit
    shown.add_heatmap(
        x=[lateness(shape) for shape in across],
        y=up,
        z=[[form.metric.value(means[point]) for point in row] for row in grid],
        zmin=limits[0],
        zmax=limits[1],
        colorscale=_scale(form),
        opacity=0.45,
        zsmooth="best",
        showscale=False,
        name="smooth surface",
        hovertemplate=f"smooth surface, {LATENESS} %{{x:.3~g}}, {side.title} %{{y:.3~g}}"
        f"<br>{metrics.word(form.metric)} %{{z:{digits}}}{unit}<extra></extra>",
    )


def _shapes(best: Candidate, places: Sequence[float]) -> list[Candidate]:
    """Schedules of the best one's family from the earliest place to the latest, with its other
    parameters."""
    key = "decay_share" if best.family in COOLDOWNS else PARAMETERS_OF[best.family or ""][0]
    first, last = _ends(places, True)

    def with_shape(value: float) -> Candidate:
        return _with(best, key, value)

    if key == "k":
        ratio = lateness(best) / (best.k or 1.0)
        ks = _steps((first / ratio, last / ratio), COLUMNS, True)
        return [with_shape(k) for k in ks]
    shares = _steps((0.01, 1.0), 200, True)
    inside = [with_shape(share) for share in shares if first <= lateness(with_shape(share)) <= last]
    inside.sort(key=lateness)
    step = max(1, len(inside) // COLUMNS)
    return inside[::step] or [best]


def _with(point: Candidate, key: str, value: float) -> Candidate:
    changed: dict[str, Any] = {key: value}
    return point._replace(**changed)


def _ends(values: Sequence[float], is_log: bool) -> tuple[float, float]:
    """The ends of an axis that shows some values, with a margin."""
    low, high = min(values), max(values)
    if is_log:
        room = (high / low) ** MARGIN if high > low else 1.2
        return low / room, high * room
    room = MARGIN * (high - low) or 0.01
    return low - room, high + room


def _steps(ends: tuple[float, float], count: int, is_log: bool) -> list[float]:
    low, high = ends
    shares = [index / (count - 1) for index in range(count)]
    if is_log:
        return [low * (high / low) ** share for share in shares]
    return [low + (high - low) * share for share in shares]


def _log_ticks(values: Sequence[float]) -> dict[str, list[object]]:
    """Ticks at 1, 2 and 5 times the powers of ten, written as plain numbers."""
    low, high = _ends(values, True)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    if len(ticks) < 2:  # noqa: PLR2004 - a narrow range has its own ends
        ticks = [min(values), max(values)]
    return {"tickvals": list(ticks), "ticktext": [f"{tick:.3g}" for tick in ticks]}
