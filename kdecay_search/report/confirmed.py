"""A confirmation in words and as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from kdecay_search.report import names
from kdecay_search.search.confirmation import Confirmation, Row
from kdecay_search.statistics import Comparison
from kdecay_search.study.comparators import AREA_MATCHED, BASELINE_KS, FOUND, ORIGINAL

HEADINGS = ("schedule", "test error, %", "n", "found is better by", "95 % interval", "p", "")
SMALLEST_P = 0.001


def sentence(confirmation: Confirmation) -> str:
    """What the confirmation says, with numbers."""
    if not confirmation.rows:
        return "There is nothing to confirm: the search found no schedule better than the original."
    against = confirmation.comparison
    if not confirmation.is_over:
        left = sum(row.unfinished for row in confirmation.rows)
        return f"The confirmation on the test set is under way: {left} runs to go."
    if against.difference is None:
        return "The confirmation failed: no seed has both the found schedule and the original."
    seeds = f"{against.n} fresh seed{'s' if against.n != 1 else ''}"
    levels = (row.lr_max for row in confirmation.rows if row.comparator == ORIGINAL)
    original = names.terms(BASELINE_KS, next(levels, None))
    said = {
        "better": f"Confirmed: on the test set, {seeds}, better than {original} {size(against)}.",
        "worse": f"Refuted: on the test set, {seeds}, worse than {original} {size(against)}.",
        "no detectable difference": f"Not confirmed: on the test set, {seeds}, no detectable "
        f"difference to {original} ({_signed(against)}).",
    }
    return said[against.verdict] + _shape(confirmation)


def size(comparison: Comparison) -> str:
    """``by 0.95 points (95 % interval 0.50 to 1.40)``: the size of a difference."""
    difference = comparison.difference or 0.0
    low, high = comparison.interval or (None, None)
    text = f"by {abs(difference):.2f} points"
    if low is None or high is None:
        return text
    if difference < 0:
        low, high = -high, -low
    return f"{text} (95 % interval {low:.2f} to {high:.2f})"


def _signed(comparison: Comparison) -> str:
    """``+0.14 points, 95 % interval -0.08 to 0.35``: positive where the found one is better."""
    text = f"{comparison.difference or 0.0:+.2f} points"
    if comparison.interval is None:
        return text
    low, high = comparison.interval
    return f"{text}, 95 % interval {low:.2f} to {high:.2f}"


def _shape(confirmation: Confirmation) -> str:
    """Whether the gain is one of the shape, or of the higher mean rate."""
    matched = confirmation.others.get(AREA_MATCHED)
    if matched is None or matched.difference is None:
        return ""
    same = "k = 1 at the same mean rate"
    if matched.verdict == "better":
        return f" Its shape matters: it is better than {same} {size(matched)}."
    if matched.verdict == "worse":
        return f" Its shape does not help: it is worse than {same} {size(matched)}."
    is_none = confirmation.comparison.verdict == matched.verdict
    begins = f"Nor is there one to {same}" if is_none else f"To {same} there is no detectable one"
    return f" {begins} ({_signed(matched)})."


def table(confirmation: Confirmation) -> Table:
    """One row a schedule."""
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
    """The found schedule against this row's."""
    if row.comparator == ORIGINAL:
        return confirmation.comparison
    return confirmation.others.get(row.comparator)


def cells(row: Row, confirmation: Confirmation) -> tuple[str, ...]:
    """Schedule, test error, n, difference, interval, p and notes, as text."""
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
    span = compared.interval
    p = compared.p if compared.p_adjusted is None else compared.p_adjusted
    return (
        f"{compared.difference:+.2f}",
        "" if span is None else f"{span[0]:.2f} to {span[1]:.2f}",
        "" if p is None else f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}",
    )


def detectable(confirmation: Confirmation) -> str:
    """What so many seeds could have shown."""
    compared = confirmation.comparison
    if not confirmation.is_over or compared.detectable is None:
        return ""
    return (
        f"So many seeds show a true difference of {compared.detectable:.2f} points "
        f"in four of five cases."
    )


def title(row: Row, confirmation: Confirmation) -> str:
    """A schedule's name for people; its level, where that was searched."""
    known = {
        FOUND: f"found, {names.terms(confirmation.ks)}",
        ORIGINAL: "original, k = 1",
        AREA_MATCHED: "k = 1 at the found one's mean rate",
    }
    level = "" if row.lr_max is None else f", lr_max {row.lr_max:.4g}"
    return known.get(row.comparator, row.comparator) + level
