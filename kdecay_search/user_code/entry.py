"""The function that ``task.entry`` names."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


class Unfit(Exception):
    """The function is not there: no run can succeed with this worker."""


def imported(entry: str) -> Callable[..., object]:
    """The function that ``module:function`` names. Raises :class:`Unfit`, and what its module
    raises."""
    module_name, _, path = entry.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{module_name}.".startswith(f"{missing}."):
            text = (
                f"task.entry = {entry!r}: there is no module {missing!r} in {os.getcwd()} or on "
                "Python's path; start in the folder that holds it"
            )
        else:
            text = (
                f"{module_name} imports {missing}, which {sys.executable} does not have; install it"
            )
        raise Unfit(text) from error
    for name in path.split("."):
        if not hasattr(found, name):
            place = found.__name__
            raise Unfit(f"task.entry = {entry!r}: {place} has no {name}{_near(found, name)}")
        found = getattr(found, name)
    if not callable(found):
        raise Unfit(f"task.entry = {entry!r}: is no function, but {type(found).__name__}")
    function: Callable[..., object] = found
    return function


def _near(module: object, name: str) -> str:
    close = difflib.get_close_matches(name, dir(module), n=1)
    return f"; did you mean {close[0]}?" if close else ""
