"""Find the learning-rate schedule that trains your network best, by k-decay.

The public names are ``KDecaySchedule``, a schedule as a plain function of the update;
``TaskRun``, what your own training function gets from a search; and ``KDecayError``, the base class
of all errors.
Importing this package is fast: it imports neither torch nor Optuna nor SQLAlchemy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kdecay_search.errors import KDecayError
from kdecay_search.schedules.kdecay import KDecaySchedule

if TYPE_CHECKING:
    from kdecay_search.user_code.run import TaskRun

__version__ = "0.2.0"

__all__ = ["KDecayError", "KDecaySchedule", "TaskRun", "__version__"]


def __getattr__(name: str) -> object:
    """Import ``TaskRun`` when it is first used: it is mostly needed for annotations."""
    if name == "TaskRun":
        return import_module("kdecay_search.user_code.run").TaskRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
