"""Metrics and kinds of noise of the studies that :mod:`benchmarks.honesty` simulates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kdecay_search.study.metric import VALIDATION_ERROR, Metric


@dataclass(frozen=True)
class Measured:
    """A metric, and what k = 1 gives in it."""

    metric: Metric
    """The metric of the study."""
    original: float
    """True value of k = 1."""
    noise: float
    """Standard deviation of each run, and of a seed's common part; in the metric's unit."""


METRICS = (
    Measured(VALIDATION_ERROR, 8.0, 0.3),
    Measured(Metric(name="validation loss", unit="nats"), 1.5, 0.004),
    Measured(Metric(name="accuracy", direction="max"), 0.92, 0.003),
    Measured(Metric(name="RMSE"), 140.0, 2.0),
)
"""The metrics that the same studies are stated in."""


class Noise(StrEnum):
    """How the noise of a run is distributed; its standard deviation is that of all runs."""

    NORMAL = "normal"
    UNEVEN = "uneven"
    """Normal, and three times as large for k = 1 as for any other."""
    HEAVY = "heavy-tailed"
    """Student's t with three degrees of freedom."""

    def draw(self, random: np.random.Generator, k: float) -> float:
        """The noise of one run of ``k``, in standard deviations."""
        if self == Noise.HEAVY:
            return float(random.standard_t(3) / math.sqrt(3))
        size = UNEVEN_NOISE if self == Noise.UNEVEN and k == 1 else 1.0
        return size * float(random.normal())


UNEVEN_NOISE = 3.0
"""Noise of k = 1 in units of that of all others, where it differs."""
