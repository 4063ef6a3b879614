"""A result as a notebook shows it: the verdict, and a figure that needs no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from kdecay_search.schedules.base import Schedule

if TYPE_CHECKING:
    from kdecay_search.api.result import Result

WIDTH, HEIGHT = 330.0, 200.0
"""Size of a panel in pixels."""
LEFT, BOTTOM, TOP = 58.0, 34.0, 24.0
"""Margins of a panel in pixels."""
POINTS = 120
"""Points of a schedule's line."""
FOUND, ORIGINAL, FAINT = "#dc8626", "#2e6fd6", "#808894"
"""Colours of the found schedule, the original and the rest: as in a report."""

Point = tuple[float, float]


def card(result: Result) -> str:
    """A result as HTML."""
    from kdecay_search.api.result import sentences  # noqa: PLC0415 - a cycle else

    spec, runs = result.spec, result.runs
    ended = sum(run.value is not None for run in runs)
    head = f"{spec.name}: {result.state}, {ended} run{'s' if ended != 1 else ''} complete"
    texts = "".join(f"<p>{escape(text)}</p>" for text in sentences(result))
    return (
        f'<div style="max-width:720px"><p><b>{escape(head)}</b></p>{texts}{_figure(result)}</div>'
    )


def _figure(result: Result) -> str:
    total = max(1, round(result.spec.task.length.total * result.steps_per_epoch))
    lines = [
        ("found", FOUND, "", _line(result.schedule, total)),
        ("original", ORIGINAL, "5 3", _line(result.original, total)),
    ]
    shown = "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH:g} {HEIGHT:g}" '
            f'width="{2 * WIDTH:g}" role="img" font-family="sans-serif" font-size="11" '
            f'fill="{FAINT}"><title>The schedules, and the result of each run</title>',
            _schedules(lines),
            f'<g transform="translate({WIDTH:g} 0)">{_results(result)}</g>',
            "</svg>",
        ]
    )
    return f"<div>{shown}</div>"


def _line(schedule: Schedule, total: int) -> list[Point]:
    every = [index / (POINTS - 1) for index in range(POINTS)]
    return [(u, schedule(u * total, total)) for u in every]


def _schedules(lines: Sequence[tuple[str, str, str, list[Point]]]) -> str:
    highest = max(rate for *_, points in lines for _, rate in points)
    frame = _Frame((0.0, 1.0), (0.0, highest))
    parts = [frame.axes("learning rate", "share of the training")]
    for place, (name, colour, dashes, points) in enumerate(lines):
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(frame.at, points))
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        parts.append(
            f'<text x="{WIDTH - 20:g}" y="{TOP + 14 + 14 * place:g}" text-anchor="end" '
            f'fill="{colour}">{name}</text>'
        )
    return "".join(parts)


def _results(result: Result) -> str:
    """The final value of each run in order; those of the found schedule are filled."""
    finite = [
        run
        for run in result.runs
        if run.value is not None and math.isfinite(run.value) and run.stage
    ]
    if not finite:
        return f'<text x="{LEFT:g}" y="{HEIGHT / 2:g}">no run is complete yet</text>'
    values = [run.value for run in finite if run.value is not None]
    low, high = _usual(values)
    spread = (high - low) or abs(high) or 1.0
    frame = _Frame((0.0, finite[-1].number + 1.0), (low - 0.05 * spread, high + 0.05 * spread))
    found, original = result.schedule, result.original
    parts = [frame.axes(result.spec.task.metric.label, "run")]
    for run, value in zip(finite, values, strict=True):
        inside = min(max(value, low), high)
        x, y = frame.at((float(run.number), inside))
        colour = FOUND if run.schedule == found else FAINT
        colour = ORIGINAL if run.schedule == original and run.schedule != found else colour
        fill = colour if inside == value and colour != FAINT else "none"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}" stroke="{colour}">'
            f"<title>{escape(run.name)}, seed {run.seed}: {value:.6g}</title></circle>"
        )
    return "".join(parts)


def _usual(values: Sequence[float]) -> tuple[float, float]:
    """Where most values lie; what is far from these is drawn at the edge."""
    ranked = sorted(values)
    middle, spread = (
        ranked[len(ranked) // 2],
        ranked[3 * len(ranked) // 4] - ranked[len(ranked) // 4],
    )
    reach = 4 * spread if spread else math.inf
    near = [value for value in ranked if abs(value - middle) <= reach]
    return near[0], near[-1]


class _Frame:
    """A panel: where values lie in pixels."""

    def __init__(self, across: Point, up: Point) -> None:
        self._across, self._up = across, up

    def at(self, point: Point) -> Point:
        """The pixels of a point."""
        (left, right), (low, high) = self._across, self._up
        x = LEFT + (WIDTH - LEFT - 14) * (point[0] - left) / ((right - left) or 1.0)
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (point[1] - low) / ((high - low) or 1.0)
        return x, y

    def axes(self, title: str, across: str) -> str:
        """The axes with their ends and titles."""
        (left, low), (right, high) = (
            self.at((self._across[0], self._up[0])),
            self.at((self._across[1], self._up[1])),
        )
        ends = ((low, self._up[0]), (high, self._up[1]))
        ticks = "".join(
            f'<text x="{left - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
            for y, value in ends
        )
        along = "".join(
            f'<text x="{x:.1f}" y="{low + 14:.1f}" text-anchor="middle">{value:g}</text>'
            for x, value in ((left, self._across[0]), (right, self._across[1]))
        )
        middle = (left + right) / 2
        return (
            f'<path d="M{left:.1f} {high:.1f}V{low:.1f}H{right:.1f}" fill="none" '
            f'stroke="{FAINT}"/>{ticks}{along}'
            f'<text x="{left:.1f}" y="{TOP - 10:g}">{escape(title)}</text>'
            f'<text x="{middle:.1f}" y="{HEIGHT - 6:g}" text-anchor="middle">'
            f"{escape(across)}</text>"
        )
