"""The found schedule against each other schedule of a confirmation."""

from __future__ import annotations

import plotly.graph_objects as go

from kdecay_search.report import confirmed, metrics
from kdecay_search.report.figures import theme
from kdecay_search.report.figures.palette import INK, WARNING, translucent
from kdecay_search.search.confirmation import Row
from kdecay_search.search.verdict import size
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import Comparison
from kdecay_search.study.comparators import FOUND
from kdecay_search.study.metric import MetricFormat

BETTER = "#2f7d77"
"""Colour of a difference in favour of the found schedule."""
COLOURS = {"better": BETTER, "worse": WARNING, "no detectable difference": INK}
"""Colour of a difference by what it shows."""
ROW_HEIGHT, FRAME_HEIGHT = 46, 110
"""Heights of a row and of the rest of the figure, in pixels."""


def differences(snapshot: StudySnapshot) -> go.Figure:
    """By how much the found schedule is better than each other schedule on the test set.

    A row shows every pair of runs, their mean and its 95 % interval; right of zero, the found
    schedule is better.
    """
    confirmation, form = snapshot.plan.confirmation, snapshot.plan.format
    rows = [row for row in confirmation.rows if row.comparator != FOUND] if confirmation else []
    pairs = [(row, confirmed.against(row, confirmation)) for row in rows if confirmation]
    known = [(row, c) for row, c in pairs if c is not None and c.difference is not None]
    if confirmation is None or not known:
        return theme.empty("No pair of the confirmation is complete yet.")
    height = FRAME_HEIGHT + ROW_HEIGHT * len(known)
    shown = theme.figure(
        metrics.with_difference_unit("found is better by", form), "", height=height
    )
    found = next(row for row in confirmation.rows if row.comparator == FOUND)
    for row, compared in known:
        _add(shown, confirmed.title(row, confirmation), row, found, compared, form)
    shown.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"})
    shown.update_layout(showlegend=False)
    shown.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return shown


def _add(
    shown: go.Figure, name: str, row: Row, found: Row, compared: Comparison, form: MetricFormat
) -> None:
    value, digits, unit = form.metric.value, f".{form.decimals}f", form.unit
    colour = COLOURS[compared.verdict]
    seeds = sorted(row.errors.keys() & found.errors.keys())
    shown.add_scatter(
        x=[row.errors[seed] - found.errors[seed] for seed in seeds],
        y=[name] * len(seeds),
        mode="markers",
        name=f"{name}, pairs",
        marker={"color": translucent("#808894", 0.55), "size": 7},
        customdata=[[s, value(found.errors[s]), value(row.errors[s])] for s in seeds],
        hovertemplate=f"{name}<br>seed %{{customdata[0]}}: %{{customdata[2]:{digits}}}{unit}, "
        f"found %{{customdata[1]:{digits}}}{unit}<br>better by %{{x:{digits}}}"
        f"{form.difference_unit}<extra></extra>",
    )
    low, high = compared.interval or (compared.difference, compared.difference)
    middle = compared.difference or 0.0
    side = "better" if middle >= 0 else "worse"
    shown.add_scatter(
        x=[middle],
        y=[name],
        mode="markers",
        name=name,
        marker={"color": colour, "size": 11, "symbol": "diamond"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [(high or 0.0) - middle],
            "arrayminus": [middle - (low or 0.0)],
            "color": colour,
            "thickness": 2.5,
            "width": 5,
        },
        hovertemplate=f"{name}<br>{side} {size(compared, form)}"
        f"<br>{compared.verdict}, {compared.n} pairs<extra></extra>",
    )
