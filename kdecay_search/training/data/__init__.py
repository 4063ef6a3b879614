"""Data sets: listed, drawn from, split, decoded, and held on the device as uint8."""

from __future__ import annotations

from kdecay_search.training.data.loading import Split, load

__all__ = ["Split", "load"]
