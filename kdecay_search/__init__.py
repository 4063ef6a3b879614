"""Find the learning-rate schedule that trains your network best, by k-decay."""

from typing import TYPE_CHECKING

from kdecay_search.errors import KDecayError
from kdecay_search.schedules.kdecay import KDecaySchedule

if TYPE_CHECKING:
    from kdecay_search.user_code.run import TaskRun

__version__ = "0.1.0"

__all__ = ["KDecayError", "KDecaySchedule", "TaskRun", "__version__"]


def __getattr__(name: str) -> object:
    """TaskRun is for annotations of your own code: imported when it is asked for, not before."""
    if name == "TaskRun":
        from kdecay_search.user_code.run import TaskRun  # noqa: PLC0415

        return TaskRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
