"""What your own code raised, as it is told: one line, and its traceback."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path
from types import TracebackType

from kdecay_search.errors import KDecayError

_ADDRESSES = re.compile(r"(?<=hread) 0x[0-9a-f]+")
PACKAGE = str(Path(__file__).parent.parent) + os.sep


def described(error: BaseException) -> str:
    """One line: what was raised, and where in the user's own code."""
    text = str(error) if isinstance(error, KDecayError) else f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((PACKAGE, "<"))]
    here = [f for f in own if f.filename.startswith(os.getcwd() + os.sep)] or own
    if not here:
        return text
    return f"{text[:1500]} ({os.path.relpath(here[-1].filename)}, line {here[-1].lineno})"


def shown_traceback(error: BaseException) -> str:
    """Python's own, from where the user's code begins."""
    begin: TracebackType | None = error.__traceback__
    while begin is not None and begin.tb_frame.f_code.co_filename.startswith((PACKAGE, "<frozen")):
        begin = begin.tb_next
    return "".join(traceback.format_exception(type(error), error, begin or error.__traceback__))


def without_our_frames(dump: str) -> str:
    """What ``faulthandler`` wrote down of a process that was aborted, of the user's code alone."""
    ours = (f'  File "{PACKAGE}', '  File "<string>"', "Fatal Python error: Aborted")
    lines = (line for line in dump.split("\n") if not line.startswith(ours))
    return _ADDRESSES.sub("", "\n".join(lines)).strip()
