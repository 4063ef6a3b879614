"""Everything that imports torch.

Where to look:

- :mod:`.trainer`: the training loop of the built-in image classification task
- :mod:`.data`: data sets: reading, subsets, splits; the held-out test set
- :mod:`.data_loaders`: batches, from memory (:mod:`.in_memory_loader`, with augmentation) or from
  files (:mod:`.streaming_loader`)
- :mod:`.models`: the built-in networks
- :mod:`.averaging`: exponential averages of weights
- :mod:`.evaluation`: classification error
- :mod:`.lr_driver`: a run's schedule on an optimizer in user code
- :mod:`.kdecay_lr`: ``KDecayLR``, the scheduler for training with the schedule that was found
- :mod:`.seeding`, :mod:`.device`, :mod:`.checkpoints`: reproducibility, devices, state

Importing this package alone does not import torch.
"""
