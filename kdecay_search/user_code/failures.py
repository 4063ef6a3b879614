"""Exceptions of user code as a user should see them: one line, and a traceback without ours."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path
from types import TracebackType

from kdecay_search.errors import KDecayError

_ADDRESSES = re.compile(r"(?<=hread) 0x[0-9a-f]+")
PACKAGE = str(Path(__file__).parent.parent) + os.sep
MOST_CHARACTERS = 1500
"""Longest exception text that is shown together with its place in the code."""


def describe(error: BaseException) -> str:
    """Return one line: what was raised, and the file and line of the user's code."""
    text = str(error) if isinstance(error, KDecayError) else f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    user = [f for f in frames if not f.filename.startswith((PACKAGE, "<"))]
    here = [f for f in user if f.filename.startswith(os.getcwd() + os.sep)] or user
    if not here:
        return text
    place = f"{os.path.relpath(here[-1].filename)}, line {here[-1].lineno}"
    return f"{text[:MOST_CHARACTERS]} ({place})"


def user_traceback(error: BaseException) -> str:
    """Return Python's traceback, from the first frame of the user's code."""
    begin: TracebackType | None = error.__traceback__
    while begin is not None and begin.tb_frame.f_code.co_filename.startswith((PACKAGE, "<frozen")):
        begin = begin.tb_next
    return "".join(traceback.format_exception(type(error), error, begin or error.__traceback__))


def user_frames(dump: str) -> str:
    """Return what ``faulthandler`` wrote about an aborted process, reduced to the user's code."""
    ours = (f'  File "{PACKAGE}', '  File "<string>"', "Fatal Python error: Aborted")
    lines = (line for line in dump.split("\n") if not line.startswith(ours))
    return _ADDRESSES.sub("", "\n".join(lines)).strip()
