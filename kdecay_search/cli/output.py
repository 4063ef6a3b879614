"""Printing: what is printed does not depend on where it goes, only its colours do.

The same text reaches a terminal of any width, a pipe and a file, with any encoding. What a terminal
would act upon is escaped, wherever a text comes from: the only control sequences are our colours.
"""

from __future__ import annotations

import codecs
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

WIDTH = 120
"""Columns that a table has at most. A longer sentence is one line, which a terminal wraps."""
CHART_WIDTH = 80
"""Columns of charts, which most terminals have."""
ASCII = str.maketrans({
    "–": "-", "—": "-", "−": "-", "‐": "-", "×": "x", "·": ".", "±": "+-", "→": "->", "≤": "<=",
    "≥": ">=", "√": "sqrt", "φ": "phi", "✓": "+", "✗": "x", "┤": "|", "│": "|", "└": "+", "─": "-",
    "▁": "_", "▂": ".", "▃": "-", "▄": "=", "▅": "+", "▆": "*", "▇": "%", "█": "#",
})  # fmt: skip
"""Replacements of characters that Unicode does not decompose into ASCII ones."""
BRAILLE = range(0x2800, 0x2900)
"""The characters that charts are drawn with; the first one is blank."""
BYTES = range(0xDC80, 0xDD00)
"""How Python represents bytes of a path that are no text."""


def prepare_streams() -> None:
    """Make sure that printing cannot fail because of how this process was started.

    Closed standard streams are replaced by the null device, and a character that the encoding of a
    stream lacks is replaced by a similar one.
    """
    codecs.register_error("kdecay", _encode)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:  # closed
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(SafeFormatter())
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="kdecay")


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace the characters that cannot be encoded; an error handler of :mod:`codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if ord(text[0]) in BYTES:
        return bytes([ord(text[0]) - 0xDC00]), error.start + 1
    return "".join(map(_ascii, text)), error.end


def _ascii(character: str) -> str:
    if ord(character) in BRAILLE:
        return " " if ord(character) == BRAILLE.start else "*"
    known = character.translate(ASCII)
    plain = unicodedata.normalize("NFKD", known).encode("ascii", "ignore").decode()
    return plain or "?"


def discard_stdout() -> None:
    """Drop what could not be printed, which would make Python fail at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def safe(text: str) -> str:
    """Return ``text`` with everything escaped that a terminal would act upon, except newlines."""
    return "".join(
        c if c == "\n" or c.isprintable() or ord(c) in BYTES else ascii(c)[1:-1]
        for c in text.expandtabs()
    )


class SafeFormatter(logging.Formatter):
    """Formats log records as text that is safe to print."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))


def echo(text: object = "", err: bool = False) -> None:
    """Print a line to stdout, or to stderr; unlike click's, with the encoding of the stream."""
    stream = sys.stderr if err else sys.stdout
    stream.write(
        f"{safe(str(text))}\n"
    )  # at once: print() may let another worker's line in between
    stream.flush()


def print_result(result: RenderableType) -> None:
    """Print a table, a text, or a group of these to stdout."""
    from rich.console import Console
    from rich.segment import Segment, Segments
    from rich.table import Table

    console = Console(highlight=False)
    options = console.options.update(width=WIDTH)
    for part in _parts(result):
        if not isinstance(part, Table):
            console.print(Safe(part), soft_wrap=True)
            continue
        for column in part.columns:
            column.overflow = "fold"  # rather than leave something out
        for line in console.render_lines(part, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
            console.print(Safe(Segments([*line, Segment.line()])), end="", soft_wrap=True)


class Safe:
    """A table or a text whose cells are safe to print."""

    def __init__(self, part: RenderableType) -> None:
        self._part = part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment
        from rich.text import Text

        part = Text(self._part) if isinstance(self._part, str) else self._part
        for segment in console.render(part, options):
            is_text = segment.control is None
            yield Segment(safe(segment.text), segment.style) if is_text else segment


def _parts(result: RenderableType) -> Iterator[RenderableType]:
    """Take groups apart, and the blank lines above a part from it."""
    from rich.console import Group
    from rich.padding import Padding

    if isinstance(result, Group):
        for part in result.renderables:
            yield from _parts(part)
    elif isinstance(result, Padding):
        yield from [""] * result.top
        yield from _parts(result.renderable)
    else:
        yield result


def print_json(value: object) -> None:
    """Print one JSON document to stdout."""
    import json

    print(json.dumps(value, indent=2, allow_nan=False))


def progress_console() -> Console:
    """Return the console for progress, which goes to stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def is_live(console: Console) -> bool:
    """Whether ``console`` is a terminal on which lines can be overwritten."""
    return console.is_interactive and console.file.isatty()  # FORCE_COLOR makes no terminal
