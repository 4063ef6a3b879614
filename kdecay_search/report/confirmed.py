"""A confirmation as a table, and the sizes of its differences in words."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from kdecay_search.report import metrics
from kdecay_search.search.confirmation import Confirmation, Row
from kdecay_search.statistics import Comparison
from kdecay_search.study.candidate import schedule_name
from kdecay_search.study.comparators import AREA_MATCHED, FOUND, GIVEN, ORIGINAL
from kdecay_search.study.metric import Metric, MetricFormat

SMALLEST_P = 0.001
"""Smallest p value that is shown as a number."""


def headings(metric: Metric) -> tuple[str, ...]:
    """Headings of a table whose rows are the confirmation's schedules."""
    value = metrics.with_unit(metrics.test_name(metric), metric)
    return ("schedule", value, "n", "found is better by", "95 % interval", "p", "")


def table(confirmation: Confirmation, form: MetricFormat) -> Table:
    """The confirmation for a terminal, one row for each schedule."""
    seeds = confirmation.seeds
    shown = Table(
        title=f"confirmation: test set, seeds {seeds.start} to {seeds.stop - 1}",
        title_justify="left",
        title_style="bold",
        box=None,
    )
    for heading in headings(form.metric):
        shown.add_column(Text(heading), justify="left" if heading in ("schedule", "") else "right")
    for row in confirmation.rows:
        texts = [Text(cell) for cell in cells(row, confirmation, form)]
        shown.add_row(*texts, style="bold" if row.comparator == FOUND else "")
    return shown


def against(row: Row, confirmation: Confirmation) -> Comparison | None:
    """The found schedule compared with that of a row; None for the found schedule itself."""
    if row.comparator == ORIGINAL:
        return confirmation.comparison
    return confirmation.others.get(row.comparator)


def cells(row: Row, confirmation: Confirmation, form: MetricFormat) -> tuple[str, ...]:
    """A row of the table as text, one cell for each of :func:`headings`."""
    counts = {"to go": row.unfinished, "diverged": row.diverged, "failed": row.failed}
    notes = [f"{count} {what}" for what, count in counts.items() if count]
    mean = "" if row.error.mean is None else form.mean(row.error)
    compared = _compared(against(row, confirmation), form)
    return (title(row, confirmation), mean, str(row.error.n), *compared, ", ".join(notes))


def _compared(compared: Comparison | None, form: MetricFormat) -> tuple[str, str, str]:
    if compared is None or compared.difference is None:
        return "", "", ""
    interval = compared.interval
    p = compared.p if compared.p_adjusted is None else compared.p_adjusted
    return (
        form.signed(compared.difference),
        "" if interval is None else form.span(interval),
        "" if p is None else f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}",
    )


def detectable(confirmation: Confirmation, form: MetricFormat) -> str:
    """How small a difference the confirmation can show, in a sentence; empty before its end."""
    compared = confirmation.comparison
    if not confirmation.is_over or compared.detectable is None:
        return ""
    return (
        f"With this number of seeds, a true difference of {form.size(compared.detectable)} "
        f"is detected in four of five confirmations."
    )


def title(row: Row, confirmation: Confirmation) -> str:
    """The name of a row's schedule, with its level of the learning rate if that was searched."""
    if row.name:
        labels = {FOUND: "found, ", ORIGINAL: "original, ", GIVEN: "in the study file, "}
        return labels.get(row.comparator, "") + row.name
    known = {
        FOUND: f"found, {schedule_name(confirmation.ks)}",
        ORIGINAL: "original, k = 1",
        AREA_MATCHED: "k = 1 at the found one's mean rate",
    }
    level = "" if row.lr_max is None else f", lr_max {row.lr_max:.4g}"
    return known.get(row.comparator, row.comparator) + level
