"""Find the learning-rate schedule that trains your network best, by k-decay."""

__version__ = "0.1.0"
