"""A training function that a search from Python hands to its own worker processes.

``kdecay_search.find_schedule`` writes it to a file that only its user can read, and tells its
workers where that is. So a function works that a worker could not import by a name.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdecay_search.errors import MissingPackage, TaskError

if TYPE_CHECKING:
    from kdecay_search.user_code.run import TaskRun

VARIABLE = "KDECAY_FUNCTION"
"""Environment variable that names the file."""
ENTRY = f"{__name__}:train"
"""What stands as ``task.entry`` for such a function."""


def carried(function: Any) -> bytes:
    """A function, and where its modules are found, as bytes.

    Raises:
        MissingPackage: The function has no name to import it by, and cloudpickle is not installed.
        TaskError: The function, or something that it uses, cannot be pickled.
    """
    try:
        import cloudpickle  # noqa: PLC0415 - optional
    except ImportError:
        if getattr(function, "__module__", "__main__") == "__main__" or _is_local(function):
            raise MissingPackage(
                f"workers cannot import {_name(function)}, and cloudpickle, which could carry it "
                "to them, is not installed; pip install cloudpickle, move the function to a "
                "module, or leave workers out"
            ) from None
        cloudpickle = pickle
    try:
        body = cloudpickle.dumps(function)
    except Exception as error:  # whatever pickling raises
        raise TaskError(
            f"{_name(function)} cannot be carried to workers: {error}; leave workers out, or make "
            "in the function what cannot be pickled"
        ) from error
    named = {text for _, text, _ in pickletools.genops(body) if isinstance(text, str)}
    return pickle.dumps(
        {
            "path": [entry for entry in sys.path if entry],
            "modules": [name for name in sys.modules if name in named],
            "function": body,
        }
    )


def modules() -> tuple[list[str], list[str]]:
    """The modules that the carried function may import here, and the folders to look for more."""
    file = os.environ.get(VARIABLE)
    content = pickle.loads(Path(file).read_bytes()) if file else {}
    return content.get("modules", []), content.get("path", [])


def train(run: TaskRun) -> object:
    """Call the function that the file holds."""
    file = os.environ.get(VARIABLE)
    if file is None:
        raise TaskError(
            f"this study's function belongs to the process that has launched it: {VARIABLE} is "
            "not set here"
        )
    content = pickle.loads(Path(file).read_bytes())
    sys.path += [entry for entry in content["path"] if entry not in sys.path]
    return pickle.loads(content["function"])(run)


def _is_local(function: Any) -> bool:
    return "<" in getattr(function, "__qualname__", "<")


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", repr(function)))
