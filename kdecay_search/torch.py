"""Schedules as torch learning-rate schedulers, for your own training loop. See docs/use-it.md."""

from kdecay_search.training.kdecay_lr import KDecayLR
from kdecay_search.training.lr_driver import schedule_lr

__all__ = ["KDecayLR", "schedule_lr"]
