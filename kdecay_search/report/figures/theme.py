"""How all figures look: no background, few lines, titles with units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from kdecay_search.report.figures.palette import FAINT, INK
from kdecay_search.study.training_length import TrainingLength

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
HEIGHT = 400
"""Height of a figure in pixels; its width is that of the page."""
LONG_NAME, LEGEND_LINE = 24, 17
"""Characters of a name beyond which a line of a legend holds one or two, and a line's height in
pixels."""
CLEAR = "rgba(0,0,0,0)"
"""No colour."""


def figure(x: str, y: str, height: int = HEIGHT) -> go.Figure:
    """An empty figure with these axis titles."""
    return go.Figure(
        layout={
            "template": {},
            "height": height,
            "margin": {"l": 58, "r": 14, "t": 12, "b": 52},
            "paper_bgcolor": CLEAR,
            "plot_bgcolor": CLEAR,
            "font": {"family": FONT, "size": 13, "color": INK},
            "hovermode": "closest",
            "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "traceorder": "normal",
                "font": {"size": 12},
            },
            "xaxis": axis(x),
            "yaxis": axis(y),
        }
    )


def over_training(length: TrainingLength, y: str, height: int = HEIGHT) -> go.Figure:
    """An empty figure from the begin of a training to its end, in epochs or steps."""
    shown = figure(length.unit, y, height)
    shown.update_xaxes(range=[0, length.total], tickformat=tick_format(length))
    if length.counts_steps:
        shown.update_layout(margin={"r": 30})  # for half of the last number
    return shown


def make_room(shown: go.Figure, names: Iterable[str]) -> None:
    """Make a figure higher whose legend has names so long that each takes a line of its own."""
    listed = list(names)
    if max(map(len, listed), default=0) > LONG_NAME:
        shown.update_layout(height=(shown.layout.height or HEIGHT) + LEGEND_LINE * len(listed))


def tick_format(length: TrainingLength) -> str:
    """How an axis writes numbers of epochs or steps: the latter are long."""
    return "," if length.counts_steps else ""


def axis(title: str, **more: Any) -> dict[str, Any]:
    """The layout of an axis; ``more`` are further keys of Plotly's axis."""
    return {
        "title": {"text": title, "standoff": 10},
        "gridcolor": FAINT,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        **more,
    }


def first_report(length: TrainingLength) -> str:
    """What a run has done once it has reported, such as ``finished an epoch``."""
    return "reported" if length.counts_steps else "finished an epoch"


def empty(text: str) -> go.Figure:
    """A figure that says in words why it shows nothing."""
    shown = figure("", "", height=140)
    hidden = {"visible": False}
    shown.update_layout(xaxis=hidden, yaxis=hidden)
    shown.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    return shown
