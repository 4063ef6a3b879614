"""What all schedules share: a shape between two rates, a warm-up before it, and the mean rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Integral

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.checks import number


class Schedule(ABC):
    """A learning rate (LR) for every optimizer update: ``schedule(step, total_steps)``.

    A schedule is a shape, ``weight(u)`` in [0, 1], between two rates:

        LR = lr_min + (lr_max - lr_min) * weight(u)

    where ``u`` in [0, 1] is the share of the updates after the warm-up that is done. ``lr_max`` and
    ``lr_min`` are L0 and Le of the k-decay paper. The warm-up is a line over the first
    ``warmup_steps`` updates; the shape is shifted behind it, not cut, so it begins with u = 0 at
    update ``warmup_steps``. Every LR after the warm-up lies in [lr_min, lr_max].

    Subclasses are frozen dataclasses that implement ``weight`` and ``mean_weight``. Times within a
    schedule are shares of the updates, so one object serves a training of any length.

    Raises:
        InvalidSchedule: A parameter lies outside its domain; the text is one line.
    """

    lr_max: float
    lr_min: float
    warmup_steps: int = 0  # a dataclass field only in subclasses that can start with a warm-up

    def __post_init__(self) -> None:
        self._set(lr_max=number("lr_max", self.lr_max, above=0.0))
        self._set(lr_min=number("lr_min", self.lr_min))
        if self.lr_min < 0.0:
            raise InvalidSchedule(f"lr_min={self.lr_min!r} must be 0 or more; raise it")
        if self.lr_min > self.lr_max:
            raise InvalidSchedule(
                f"lr_min={self.lr_min!r} must not be above lr_max={self.lr_max!r}; swap them"
            )
        steps: object = self.warmup_steps
        if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 0:
            raise InvalidSchedule(
                f"warmup_steps={steps!r} must be a whole number, 0 or more; count optimizer updates"
            )
        self._set(warmup_steps=int(steps))

    @abstractmethod
    def weight(self, u: float) -> float:
        """Shape of the decay.

        Args:
            u: Share of the updates after the warm-up that is done, in [0, 1].

        Returns:
            A number in [0, 1]: 1 gives lr_max, 0 gives lr_min.
        """

    @abstractmethod
    def mean_weight(self) -> float:
        """Mean of ``weight`` over u from 0 to 1."""

    def __call__(self, step: float, total_steps: int) -> float:
        """Learning rate of one update.

        Args:
            step: Updates done before this one, from 0; ``total_steps`` gives the state after the
                last update.
            total_steps: Updates of the whole training, warm-up included.

        Raises:
            InvalidSchedule: ``step`` lies outside the training, or the training ends with the
                warm-up.
        """
        self._check_total(total_steps)
        if not 0 <= step <= total_steps:
            raise InvalidSchedule(
                f"step={step!r} must be from 0 to total_steps={total_steps!r}; "
                "count optimizer updates, not epochs, in both"
            )
        warmup = self.warmup_steps
        if step < warmup:
            # (t+1)/(w+1), not t/w: with t/w the first update has LR 0 and is wasted. Both lines
            # meet lr_max at step w, where the decay starts.
            return self.lr_max * ((step + 1) / (warmup + 1))
        weight = self.weight((step - warmup) / (total_steps - warmup))
        # Exact at both ends and monotone in floating point. Rounded sums and products are monotone,
        # but lr_min + (lr_max - lr_min) may miss lr_max by the last bit. No clamp is needed: a
        # weight below 1 takes at least as much off the difference as its rounding can have added.
        if weight == 1.0:
            return self.lr_max
        return self.lr_min + (self.lr_max - self.lr_min) * weight

    def area(self, total_steps: int) -> float:
        """Mean learning rate of a training, warm-up included: (1/T) ∫ LR(t) dt for t from 0 to T.

        Args:
            total_steps: T, the updates of the whole training.

        Raises:
            InvalidSchedule: The training ends with the warm-up, or has no update.
        """
        self._check_total(total_steps)
        decayed = self.lr_min + (self.lr_max - self.lr_min) * self.mean_weight()
        warming = self.lr_max * 0.5 * (1.0 + 1.0 / (self.warmup_steps + 1))
        return decayed + (warming - decayed) * (self.warmup_steps / total_steps)

    def _check_total(self, total_steps: int) -> None:
        if not total_steps >= 1:
            raise InvalidSchedule(f"total_steps={total_steps!r} must be 1 or more; raise it")
        if self.warmup_steps >= total_steps:
            raise InvalidSchedule(
                f"warmup_steps={self.warmup_steps} must be below total_steps={total_steps!r}; "
                "shorten the warm-up"
            )

    def _set(self, **values: object) -> None:
        """Replace fields by their checked values; the dataclass is frozen."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def mean_over_unit_interval(f: Callable[[float], float]) -> float:
    """Mean of ``f`` over [0, 1], by tanh-sinh quadrature with 385 points.

    The substitution u = 1/(1 + e^(−s)), s = π sinh(x), puts points near the ends at every scale, so
    neither the edge of u^1000 at u = 1 nor a root at an end costs accuracy. The relative error is
    1e-12 for the shapes of this package.
    """
    spacing = 1 / 32
    terms = []
    for i in range(-192, 193):
        s = math.pi * math.sinh(i * spacing)
        done, left = 1.0 / (1.0 + math.exp(-s)), 1.0 / (1.0 + math.exp(s))
        terms.append(f(done) * done * left * math.pi * math.cosh(i * spacing))
    return spacing * math.fsum(terms)
