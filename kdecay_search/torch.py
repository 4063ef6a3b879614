"""For training loops of your own: k-decay as a scheduler of torch. See docs/use-it.md."""

from kdecay_search.training.kdecay_lr import KDecayLR

__all__ = ["KDecayLR"]
