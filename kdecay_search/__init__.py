"""Find the learning-rate schedule that trains your network best, by k-decay.

The public names are ``find_schedule``, a whole search as one function; ``TaskRun``, what your own
training function gets from a search; ``KDecaySchedule``, a schedule as a plain function of the
update; ``suggest_schedule`` and the module ``optuna``, for Optuna studies of your own; and
``KDecayError``, the base class of all errors.
Importing this package is fast: it imports neither torch nor Optuna nor SQLAlchemy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kdecay_search.errors import KDecayError

if TYPE_CHECKING:
    from kdecay_search import optuna
    from kdecay_search.api.find_schedule import find_schedule
    from kdecay_search.optuna.schedule import suggest_schedule
    from kdecay_search.schedules.kdecay import KDecaySchedule
    from kdecay_search.user_code.run import TaskRun

__version__ = "0.2.0"

__all__ = [
    "KDecayError",
    "KDecaySchedule",
    "TaskRun",
    "__version__",
    "find_schedule",
    "optuna",
    "suggest_schedule",
]

_PLACES = {
    "find_schedule": "kdecay_search.api.find_schedule",
    "KDecaySchedule": "kdecay_search.schedules.kdecay",
    "TaskRun": "kdecay_search.user_code.run",
    "suggest_schedule": "kdecay_search.optuna",
}
"""Where the public names are that are imported when they are first used."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name == "optuna":
        return import_module("kdecay_search.optuna")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
