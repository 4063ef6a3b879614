"""k-decay as a torch learning-rate scheduler, for your own training loop. See docs/use-it.md."""

from kdecay_search.training.kdecay_lr import KDecayLR

__all__ = ["KDecayLR"]
