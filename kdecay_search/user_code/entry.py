"""Imports the function that ``task.entry`` names."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


class InvalidEntry(Exception):
    """``task.entry`` names no function that can be imported: no run can succeed on this worker."""


def import_function(entry: str) -> Callable[..., object]:
    """Import the function that ``module:function`` names.

    Args:
        entry: The module and the function, such as ``my_project.train:train``.

    Raises:
        InvalidEntry: The module, a package that it imports, or the function does not exist.
        Exception: Anything else that importing the module raises.
    """
    module_name, _, path = entry.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{module_name}.".startswith(f"{missing}."):
            text = (
                f"task.entry = {entry!r}: there is no module {missing!r} in {os.getcwd()} or on "
                "Python's path; start kdecay in the folder that contains it"
            )
        else:
            text = (
                f"{module_name} imports {missing}, which {sys.executable} does not have; install it"
            )
        raise InvalidEntry(text) from error
    for name in path.split("."):
        if not hasattr(found, name):
            close = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidEntry(f"task.entry = {entry!r}: {found.__name__} has no {name}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise InvalidEntry(
            f"task.entry = {entry!r}: must name a function, not a {type(found).__name__}"
        )
    function: Callable[..., object] = found
    return function
