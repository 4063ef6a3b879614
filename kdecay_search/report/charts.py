"""A study as plots of characters: the schedule, and each stage's metric against k.

They need no colour: what is found is a line or a star, what it is compared with is dotted, a seed
is a dot and a mean an ``o``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from plotille import Canvas
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kdecay_search.report import metrics
from kdecay_search.report.whole import lateness
from kdecay_search.schedules.base import Schedule
from kdecay_search.search import Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate, level_name
from kdecay_search.study.metric import Metric

NARROWEST, WIDEST = 40, 64
"""Columns of one plot, at least and at most; in fewer columns nothing is drawn."""
GAP = 4
"""Columns between two plots."""
ROWS = 11
"""Rows of a plot's canvas."""
SMALLEST_SPAN = 1e-100
"""Range of values below which an axis is drawn as if it were 1."""
TICKS = 4
"""Most steps of the vertical axis."""
OUTLYING = 6.0
"""Errors further from the best than this many times the median's distance are not drawn."""
PLAIN_KS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Labels of an axis of whole schedules."""
BLANK = "\N{BRAILLE PATTERN BLANK}"


def study_charts(snapshot: StudySnapshot, width: int) -> RenderableType | None:
    """All plots in ``width`` columns, side by side if two fit; None if not even one fits."""
    across = 2 if width >= 2 * NARROWEST + GAP else 1
    columns = min(WIDEST, (width - GAP * (across - 1)) // across)
    if columns < NARROWEST:
        return None
    stages, metric = [s for s in snapshot.plan.stages if _measured(s)], snapshot.spec.task.metric
    charts = [
        _schedule_chart(snapshot, columns),
        *(_chart_by_k(s, metric, columns) for s in stages),
    ]
    grid = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for _ in range(across):
        grid.add_column(width=columns, no_wrap=True)
    for first in range(0, len(charts), across):
        grid.add_row(*(Padding(chart, (1, 0, 0, 0)) for chart in charts[first : first + across]))
    return grid


@dataclass
class Chart:
    """One plot of ``width`` columns: a title, a canvas with ticks on both axes, and its legend."""

    title: str
    """The line above the plot."""
    width: int
    """Columns of the whole plot, its vertical axis included."""
    x_range: tuple[float, float]
    """Values at the left and the right edge of the canvas."""
    y_ticks: tuple[float, ...]
    """Values with a label, ascending; the first and the last are the canvas's edges."""
    x_labels: Mapping[float, str]
    """Labels of the horizontal axis by the value that they stand at."""
    legend: str
    """The line below the plot."""
    canvas: Canvas = field(init=False)
    """What is drawn on."""

    def __post_init__(self) -> None:
        self._margin = max(len(f"{tick:.10g}") for tick in self.y_ticks) + 2
        columns = self.width - self._margin
        left, right = self.x_range
        low, high = self.y_ticks[0], self.y_ticks[-1]
        # A character is 2 by 4 dots. Its upper edges are not part of the canvas, but of ours.
        right += (right - left) / (2 * columns - 1)
        high += (high - low) / (4 * ROWS - 1)
        self.canvas = Canvas(columns, ROWS, left, low, right, high)

    def __rich__(self) -> Text:
        """The plot as text, for rich to print."""
        rows = self.canvas.plot(linesep="\n").replace(BLANK, " ").split("\n")
        low, high = self.y_ticks[0], self.y_ticks[-1]
        labels = {
            ROWS - 1 - round((tick - low) / (high - low) * (4 * ROWS - 1)) // 4: f"{tick:.10g}"
            for tick in self.y_ticks
        }
        lines = [Text(self.title, "bold")]
        for index, row in enumerate(rows):
            edge = f"{labels[index]} ┤" if index in labels else "│"
            lines.append(Text.assemble((edge.rjust(self._margin), "dim"), row))
        lines.append(Text("└".rjust(self._margin) + "─" * self.canvas.width, "dim"))
        lines.append(Text(" " * self._margin + self._below(), "dim"))
        lines.append(Text(" " * self._margin + self.legend, "dim"))
        for line in lines:
            line.truncate(self.width)
        return Text("\n").join(lines)

    def line(self, points: Iterable[tuple[float, float]]) -> None:
        """Draw a line through points (x, y)."""
        for (x0, y0), (x1, y1) in pairwise(points):
            self.canvas.line(x0, y0, x1, y1)

    def dots(self, points: Iterable[tuple[float, float]]) -> None:
        """Draw a dot at each point (x, y)."""
        for x, y in points:
            self.canvas.point(x, y)

    def mark(self, x: float, y: float, character: str) -> None:
        """Write a character at a point."""
        self.canvas.text(x, y, character)

    def _below(self) -> str:
        """The labels of the horizontal axis, without those for which there is no room."""
        low, high = self.x_range
        text = ""
        for x, label in sorted(self.x_labels.items()):
            column = round((x - low) / (high - low) * (2 * self.canvas.width - 1)) // 2
            start = min(max(0, column - len(label) // 2), self.canvas.width - len(label))
            if start > len(text) or not text:
                text = text.ljust(start) + label
        return text


def ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers from at most ``low`` to at least ``high``, evenly spaced."""
    span = max(high - low, 1e-6 * max(abs(low), abs(high)))
    span = span if span > SMALLEST_SPAN else 1.0
    unit = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m * TICKS >= span * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return tuple(float(f"{i * step:.10g}") for i in range(first, last + 1))


def _schedule_chart(snapshot: StudySnapshot, width: int) -> Chart:
    found, baseline = snapshot.schedule, snapshot.original
    leader, original = snapshot.plan.leader, snapshot.plan.baseline
    length = snapshot.spec.task.length
    chart = Chart(
        title="learning rate over the training",
        width=width,
        x_range=(0.0, 1.0),
        y_ticks=ticks(0.0, max(found.lr_max, baseline.lr_max)),
        x_labels={0.0: "0", 0.5: f"{length.total / 2:,g}", 1.0: str(length)},
        legend=f"── {leader.name}",
    )
    if (leader.ks, leader.point) != (original.ks, original.point):
        chart.legend += f"   ··· {original.name}"
        chart.dots(_values(baseline, length.total, chart.canvas.width // 2))
    chart.line(_values(found, length.total, 2 * chart.canvas.width))
    return chart


def _values(schedule: Schedule, total: int, count: int) -> list[tuple[float, float]]:
    """Pairs (share of the training, LR) at ``count + 1`` evenly spaced shares of ``total``."""
    shares = (index / count for index in range(count + 1))
    return [(share, schedule(share * total, total)) for share in shares]


def _chart_by_k(stage: Stage, metric: Metric, width: int) -> Chart:
    errors = _measured(stage)
    level = level_name(stage.best.lr_max) if stage.best and stage.levels else ""
    best = stage.best
    title = f"k{stage.n}{level}"
    labels = {k: f"{k:.3g}" for k in errors}
    best_k = best.k if best else None
    if best is not None and best.whole is not None:
        title = "k of equal half-time" if stage.n == 1 else f"k{stage.n}"
        labels = {math.log(k): f"{k:g}" for k in PLAIN_KS}
        best_k = _place(best.whole, stage)
    every = sorted(error for of_k in errors.values() for error in of_k)
    worst = min(every[-1], every[0] + OUTLYING * (median(every) - every[0]) or every[-1])
    means = {k: sum(of_k) / len(of_k) for k, of_k in errors.items()}
    ends = sorted(map(metric.value, (every[0], max(worst, min(means.values())))))
    room = 0.05 * (max(errors) - min(errors)) or 0.5
    chart = Chart(
        title=metrics.with_unit(f"{metric.name} against {title}", metric),
        width=width,
        x_range=(min(errors) - room, max(errors) + room),
        y_ticks=ticks(*ends),
        x_labels={
            k: label for k, label in labels.items() if min(errors) - room <= k <= max(errors) + room
        },
        legend="· seed   o mean   * best",
    )
    edge = max(map(metric.error, (chart.y_ticks[0], chart.y_ticks[-1])))
    beyond = sum(error > edge for error in every)
    side = "above" if metric.direction == "min" else "below"
    chart.legend += f"   {beyond} {side}" if beyond else ""
    drawn = ((k, error) for k, of_k in errors.items() for error in of_k if error <= edge)
    chart.dots((k, metric.value(error)) for k, error in drawn)
    for k, mean in means.items():
        if mean <= edge:
            is_best = best_k is not None and best_k == k
            chart.mark(k, metric.value(mean), "*" if is_best else "o")
    return chart


def _measured(stage: Stage) -> dict[float, list[float]]:
    """Errors by k of the candidates that have some, at the best candidate's level of the LR.

    Whole schedules are placed by the logarithm of their lateness or, in a later stage, of k.
    """
    if any(c.whole is not None for c in stage.candidates):
        found: dict[float, list[float]] = defaultdict(list)
        for c in stage.candidates:
            if c.whole is not None and c.errors:
                found[_place(c.whole, stage)] += c.errors.values()
        return dict(found)
    level = stage.best.lr_max if stage.best else None
    return {
        c.k: list(c.errors.values())
        for c in stage.candidates
        if c.k is not None and c.errors and c.lr_max == level
    }


def _place(point: Candidate, stage: Stage) -> float:
    """Where a whole schedule stands on the horizontal axis."""
    return math.log(lateness(point) if stage.n == 1 or point.k is None else point.k)
