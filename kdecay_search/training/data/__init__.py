"""Data sets: read, reduced to a subset, split, and held on the device as uint8 unless too large.

:func:`.loading.load` gives a run its data. The test set is held out: only a confirmation can read
it (:mod:`.held_out`). Importing this package, :mod:`.class_folders`, :mod:`.sampling` or
:mod:`.description` does not import torch.
"""
