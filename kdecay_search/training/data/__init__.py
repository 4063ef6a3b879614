"""Data sets: listed, drawn from, split, and, unless too large, held on the device as uint8."""

from __future__ import annotations

from kdecay_search.training.data.loading import load
from kdecay_search.training.data.sealed import Purpose
from kdecay_search.training.data.split import AnySplit, Split, StreamedSplit

__all__ = ["AnySplit", "Purpose", "Split", "StreamedSplit", "load"]
