"""Text for the cells of a CSV file, which a spreadsheet must not take for a formula."""

from __future__ import annotations

import csv
import io

from kdecay_search.errors import printable

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What the formula in a cell begins with; spreadsheets take full-width characters alike."""


def safe_cell(text: str) -> str:
    """Return ``text`` as it may stand in a cell of a CSV file.

    Control characters are escaped. An apostrophe is put before what a spreadsheet would take for a
    formula; numbers stay as they are.
    """
    shown = printable(text)
    if not shown.lstrip().startswith(FORMULA):
        return shown
    try:
        float(shown)
    except ValueError:
        return f"'{shown}"
    return shown


def safe_csv(text: str) -> str:
    """Return a CSV file with all its cells safe (:func:`safe_cell`)."""
    safe = io.StringIO()
    rows = csv.reader(io.StringIO(text, newline=""))
    csv.writer(safe).writerows([*map(safe_cell, row)] for row in rows)
    return safe.getvalue()
