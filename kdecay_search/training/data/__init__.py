"""Data sets: read, reduced to a subset, split, and held on the device as uint8 unless too large.

:func:`load` gives a run its data. The test set is held out: only a confirmation can read it.
"""

from __future__ import annotations

from kdecay_search.training.data.held_out import Purpose
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import AnySplit, Split, StreamedSplit

__all__ = ["AnySplit", "Purpose", "Split", "StreamedSplit", "load"]
