"""Find the learning-rate schedule that trains your network best, by k-decay."""

from kdecay_search.errors import KDecayError
from kdecay_search.schedules import KDecaySchedule

__version__ = "0.1.0"

__all__ = ["KDecayError", "KDecaySchedule", "__version__"]
