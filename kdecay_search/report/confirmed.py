"""A confirmation as a table, and the sizes of its differences in words."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from kdecay_search.search.confirmation import Confirmation, Row
from kdecay_search.search.verdict import signed, span
from kdecay_search.statistics import Comparison
from kdecay_search.study.candidate import schedule_name
from kdecay_search.study.comparators import AREA_MATCHED, FOUND, ORIGINAL

HEADINGS = ("schedule", "test error, %", "n", "found is better by", "95 % interval", "p", "")
"""Headings of a table whose rows are the confirmation's schedules."""
SMALLEST_P = 0.001
"""Smallest p value that is shown as a number."""


def table(confirmation: Confirmation) -> Table:
    """The confirmation for a terminal, one row for each schedule."""
    seeds = confirmation.seeds
    shown = Table(
        title=f"confirmation: test set, seeds {seeds.start} to {seeds.stop - 1}",
        title_justify="left",
        title_style="bold",
        box=None,
    )
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("schedule", "") else "right")
    for row in confirmation.rows:
        texts = [Text(cell) for cell in cells(row, confirmation)]
        shown.add_row(*texts, style="bold" if row.comparator == FOUND else "")
    return shown


def against(row: Row, confirmation: Confirmation) -> Comparison | None:
    """The found schedule compared with that of a row; None for the found schedule itself."""
    if row.comparator == ORIGINAL:
        return confirmation.comparison
    return confirmation.others.get(row.comparator)


def cells(row: Row, confirmation: Confirmation) -> tuple[str, ...]:
    """A row of the table as text, one cell for each of :data:`HEADINGS`."""
    error, compared = row.error, against(row, confirmation)
    mean = "" if error.mean is None else f"{error.mean:.2f}"
    spread = "" if error.sd is None else f" ± {error.sd:.2f}"
    notes = [f"{row.unfinished} to go"] if row.unfinished else []
    notes += [f"{row.failed} failed"] if row.failed else []
    name = title(row, confirmation)
    return (name, mean + spread, str(error.n), *_compared(compared), ", ".join(notes))


def _compared(compared: Comparison | None) -> tuple[str, str, str]:
    if compared is None or compared.difference is None:
        return "", "", ""
    interval = compared.interval
    p = compared.p if compared.p_adjusted is None else compared.p_adjusted
    return (
        signed(compared.difference),
        "" if interval is None else span(interval),
        "" if p is None else f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}",
    )


def detectable(confirmation: Confirmation) -> str:
    """How small a difference the confirmation can show, in a sentence; empty before its end."""
    compared = confirmation.comparison
    if not confirmation.is_over or compared.detectable is None:
        return ""
    return (
        f"With this number of seeds, a true difference of {compared.detectable:.2f} points "
        f"is detected in four of five confirmations."
    )


def title(row: Row, confirmation: Confirmation) -> str:
    """The name of a row's schedule, with its level of the learning rate if that was searched."""
    known = {
        FOUND: f"found, {schedule_name(confirmation.ks)}",
        ORIGINAL: "original, k = 1",
        AREA_MATCHED: "k = 1 at the found one's mean rate",
    }
    level = "" if row.lr_max is None else f", lr_max {row.lr_max:.4g}"
    return known.get(row.comparator, row.comparator) + level
