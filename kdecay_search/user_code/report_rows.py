"""Rows of a CSV or JSON-lines file that is read while a program writes it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any

from kdecay_search.user_code.output import LONGEST_LINE_BYTES

MOST_NAMES = 30
"""Largest number of columns or keys that are remembered for messages."""

Row = Mapping[str, Any]
"""Values by column, or a JSON object."""


class RowReader:
    """Cuts the text of a CSV or JSON-lines file into rows; the text comes in pieces.

    The first character tells the two apart: JSON begins with a brace. In a CSV file, every row that
    contains the wanted column's name is a header, wherever it is, and rows above the first header
    are passed over.

    Args:
        wanted: Name of the column that every header contains.
    """

    names: tuple[str, ...]
    """The columns, or the keys of all objects so far; of a CSV file without a header, its first
    row."""
    is_json: bool
    """Whether the file begins like JSON."""
    is_array: bool
    """Whether the file begins with a bracket: one JSON array, which cannot be read by lines."""

    def __init__(self, wanted: str) -> None:
        self.names = ()
        self.is_json = self.is_array = False
        self._wanted = wanted
        self._rest = b""
        self._has_begun = False
        self._header: tuple[str, ...] | None = None
        self._delimiter = ","

    def feed(self, chunk: bytes) -> Iterator[Row]:
        """Yield the rows whose lines ``chunk`` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            self._rest = b""
        for line in lines:
            row = self._row(line.decode("utf-8-sig", errors="replace").strip())
            if row is not None:
                yield row

    def finish(self) -> Iterator[Row]:
        """Yield the row of a last line that has no newline at its end."""
        return self.feed(b"\n")

    def drop_partial_line(self) -> None:
        """Forget the beginning of a line whose end will never come."""
        self._rest = b""

    def _row(self, line: str) -> Row | None:
        if not line:
            return None
        if not self._has_begun:
            self._has_begun = True
            self.is_json, self.is_array = line[0] in "{[", line[0] == "["
        return self._object(line) if self.is_json else self._cells(line)

    def _object(self, line: str) -> Row | None:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        if len(self.names) < MOST_NAMES:
            self.names = tuple(dict.fromkeys([*self.names, *_dotted(found)]))[:MOST_NAMES]
        return found

    def _cells(self, line: str) -> Row | None:
        if self._header is None:
            self._delimiter = max(",\t;", key=line.count)
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=self._delimiter))]
        except csv.Error:
            return None
        if self._wanted in cells:
            self._header = self.names = tuple(cells)
            return None
        if self._header is None:
            self.names = self.names or tuple(cells[:MOST_NAMES])
            return None
        return dict(zip(self._header, cells, strict=False))


def value_of(row: Row, name: str) -> Any:
    """Return the value in a column or under a key; None if it is missing or empty."""
    found: Any = row
    if name in row:
        found = row[name]
    else:
        for key in name.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
    return None if found == "" else found


def _dotted(row: Row, prefix: str = "") -> Iterator[str]:
    """Yield the names of all values in a JSON object, such as ``eval.loss``."""
    for key, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
