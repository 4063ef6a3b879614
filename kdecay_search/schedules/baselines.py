"""The schedules that users compare k-decay with. :data:`BASELINES` names them all.

They are called as :class:`~kdecay_search.schedules.kdecay.KDecaySchedule` is. Times are shares of
the updates, of those after the warm-up if there is one, so one object serves a training of any
length. With their default parameters they are what people usually take.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, get_args

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.checks import in_range, increasing_numbers, number, one_of, share
from kdecay_search.schedules.kdecay import (
    cosine_weight,
    exponential_mean_weight,
    exponential_weight,
    polynomial_weight,
)

DecayEnd = Literal["1-sqrt", "linear"]

SAME_PLACE = 1e-9
"""Distance in cycles within which two places are the same: far below one update, and far above the
rounding error."""


@dataclass(frozen=True, kw_only=True)
class Baseline(Schedule):
    """A schedule between two rates that never has a warm-up.

    Args:
        lr_max: Highest LR.
        lr_min: Lowest LR.
    """

    lr_max: float = 0.1
    lr_min: float = 0.001


@dataclass(frozen=True, kw_only=True)
class WarmupBaseline(Baseline):
    """A schedule between two rates that may start with a warm-up.

    Args:
        warmup_steps: Optimizer updates of linear warm-up to lr_max.
    """

    warmup_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Linear(WarmupBaseline):
    """A straight line from lr_max to lr_min, weight 1 − u: k-decay with k = 1 and N = 1."""

    def weight(self, u: float) -> float:
        return 1.0 - u

    def mean_weight(self) -> float:
        return 0.5


@dataclass(frozen=True, kw_only=True)
class Polynomial(WarmupBaseline):
    """Weight (1 − u)^N: k-decay with k = 1, torch's PolynomialLR.

    Args:
        power: N, above 0.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(power=number("power", self.power, above=0.0))

    def weight(self, u: float) -> float:
        return polynomial_weight(u, self.power)

    def mean_weight(self) -> float:
        return 1.0 / (self.power + 1.0)


@dataclass(frozen=True, kw_only=True)
class Cosine(WarmupBaseline):
    """Weight ½ (1 + cos πu): k-decay with k = 1, torch's CosineAnnealingLR."""

    def weight(self, u: float) -> float:
        return cosine_weight(u)

    def mean_weight(self) -> float:
        return 0.5


@dataclass(frozen=True, kw_only=True)
class Exponential(WarmupBaseline):
    """Weight (e^(−ru) − e^(−r)) / (1 − e^(−r)).

    r = 1 is eq. 13 of the k-decay paper with k = 1. r = ln(lr_max / lr_min) gives
    lr_max (lr_min/lr_max)^u, which is torch's ExponentialLR with gamma = (lr_min/lr_max)^(1/T).

    Args:
        rate: r, from 0.001 to 700.
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # e^700 is near the largest double; below 0.001 the schedule is a straight line.
        self._set(rate=in_range("rate", self.rate, 1e-3, 700.0))

    def weight(self, u: float) -> float:
        return exponential_weight(u, self.rate)

    def mean_weight(self) -> float:
        return exponential_mean_weight(self.rate)


@dataclass(frozen=True, kw_only=True)
class MultiStep(WarmupBaseline):
    """LR multiplied by a factor at each milestone, and never below lr_min.

    torch's MultiStepLR is the same without the lower bound.

    Args:
        milestones: Shares of the updates, strictly increasing.
        factor: Factor in [0, 1].
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(milestones=increasing_numbers("milestones", self.milestones, above=0.0))
        share("milestones[-1]", self.milestones[-1])
        self._set(factor=in_range("factor", self.factor, 0.0, 1.0))

    def weight(self, u: float) -> float:
        # A share such as 0.7 and the step 7 of 10 round to the same double: no tolerance needed.
        return self._weight_after(bisect_right(self.milestones, u))

    def mean_weight(self) -> float:
        edges = (0.0, *self.milestones, 1.0)
        lengths = [end - start for start, end in pairwise(edges)]
        return math.fsum(self._weight_after(n) * length for n, length in enumerate(lengths))

    def _weight_after(self, milestones: int) -> float:
        return _weight_of(self.lr_max * self.factor**milestones, self)


@dataclass(frozen=True, kw_only=True)
class Sgdr(WarmupBaseline):
    """Cosine with warm restarts (Loshchilov and Hutter, arXiv:1608.03983, eq. 5).

    Cycle i has the length T_i = T_0 · T_mult^i. By default three cycles, of one, two and four
    sevenths, fill the training.

    Args:
        first_cycle_share: T_0 / T, length of the first cycle as a share of the updates.
        cycle_factor: T_mult, from 1 to 1000: each cycle is longer than the one before by it.
    """

    first_cycle_share: float = 1 / 7
    cycle_factor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(first_cycle_share=share("first_cycle_share", self.first_cycle_share))
        self._set(cycle_factor=in_range("cycle_factor", self.cycle_factor, 1.0, 1000.0))

    def weight(self, u: float) -> float:
        cycle, done = self._position(u)
        # A restart that falls on the very end has no update left to use it.
        at_end = u == 1.0 and cycle > 0 and done == 0.0
        return cosine_weight(1.0 if at_end else done)

    def mean_weight(self) -> float:
        """Half of each whole cycle, and ∫ ½(1 + cos πx) dx of the last one."""
        cycle, done = self._position(1.0)
        last = 0.5 * done + math.sin(math.pi * done) / (2.0 * math.pi)
        lengths = 0.5 * self._start(cycle) + self.cycle_factor**cycle * last
        return self.first_cycle_share * lengths

    def _position(self, u: float) -> tuple[int, float]:
        """Index of the cycle at ``u``, and the share of it that is done, in [0, 1)."""
        time = u / self.first_cycle_share
        growth = self.cycle_factor - 1.0
        index = math.log1p(time * growth) / math.log1p(growth) if growth else time
        # A restart must not come an update late because of rounding.
        cycle = math.floor(index + SAME_PLACE)
        done = (time - self._start(cycle)) / self.cycle_factor**cycle
        return cycle, done if done > SAME_PLACE else 0.0

    def _start(self, cycle: int) -> float:
        """Start of a cycle, in lengths of the first: (m^i − 1) / (m − 1), or i if m is 1."""
        growth = self.cycle_factor - 1.0
        # expm1: a factor such as 1.000001 would lose its digits in m^i - 1.
        return math.expm1(cycle * math.log1p(growth)) / growth if growth else float(cycle)


@dataclass(frozen=True, kw_only=True)
class ClrTriangular(Baseline):
    """Cyclical LR, policy ``triangular`` (Smith, arXiv:1506.01186): lines up from lr_min to lr_max
    and down again.

    torch's CyclicLR is the same, but also cycles the momentum unless it is told not to.

    Args:
        half_cycle_share: The paper's stepsize, length of half a cycle, as a share of the updates.
    """

    half_cycle_share: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(half_cycle_share=share("half_cycle_share", self.half_cycle_share))

    def weight(self, u: float) -> float:
        cycle, x = self._position(u)
        return self._height(cycle) * (1.0 - abs(x - 1.0))

    def mean_weight(self) -> float:
        cycle, x = self._position(1.0)
        last = 0.5 * x * x if x <= 1.0 else 1.0 - 0.5 * (2.0 - x) ** 2
        return self.half_cycle_share * (self._heights_before(cycle) + self._height(cycle) * last)

    def _position(self, u: float) -> tuple[int, float]:
        """Index of the cycle at ``u``, from 0, and the place in it, in [0, 2) half cycles."""
        halves = u / self.half_cycle_share
        cycle = math.floor(halves / 2.0)
        return cycle, halves - 2.0 * cycle

    def _height(self, cycle: int) -> float:
        """Weight at the peak of a cycle."""
        return 1.0

    def _heights_before(self, cycle: int) -> float:
        """Sum of the heights of all cycles before this one."""
        return float(cycle)


@dataclass(frozen=True, kw_only=True)
class ClrTriangular2(ClrTriangular):
    """Policy ``triangular2``: as ``triangular``, with each peak half as far above lr_min as the one
    before."""

    def _height(self, cycle: int) -> float:
        return 0.5**cycle

    def _heights_before(self, cycle: int) -> float:
        return 2.0 - 2.0 * 0.5**cycle


@dataclass(frozen=True, kw_only=True)
class Htd(WarmupBaseline):
    """Hyperbolic-tangent decay (Hsueh et al., arXiv:1806.01593): ½ (1 − tanh(L + (U − L)u)).

    The paper uses (L, U) = (−6, 3) and (−4, 4). The ends are near lr_max and lr_min, not at them.

    Args:
        lower: L, from −100 to 100.
        upper: U, from −100 to 100, above L.
    """

    lower: float = -6.0
    upper: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(lower=in_range("lower", self.lower, -100.0, 100.0))
        self._set(upper=in_range("upper", self.upper, -100.0, 100.0))
        if not self.lower < self.upper:
            raise InvalidSchedule(
                f"lower={self.lower!r} must be below upper={self.upper!r}; swap them"
            )

    def weight(self, u: float) -> float:
        return 0.5 * (1.0 - math.tanh(self.lower + (self.upper - self.lower) * u))

    def mean_weight(self) -> float:
        rise = _log_cosh(self.upper) - _log_cosh(self.lower)
        return 0.5 * (1.0 - rise / (self.upper - self.lower))


@dataclass(frozen=True, kw_only=True)
class OneCycle(Baseline):
    """One cycle with cosine sides (Smith and Topin, arXiv:1708.07120): up to lr_max, then down to
    lr_min.

    torch's OneCycleLR is the same, but also cycles the momentum unless it is told not to.

    Args:
        peak_share: Share of the updates after which lr_max is reached.
        start_divisor: The first LR is lr_max divided by this, but not below lr_min.
    """

    peak_share: float = 0.3
    start_divisor: float = 25.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(peak_share=share("peak_share", self.peak_share))
        self._set(start_divisor=in_range("start_divisor", self.start_divisor, 1.0, 1e9))

    def weight(self, u: float) -> float:
        if u < self.peak_share:
            start = self._start()
            return start + (1.0 - start) * cosine_weight(1.0 - u / self.peak_share)
        return cosine_weight((u - self.peak_share) / (1.0 - self.peak_share or 1.0))

    def mean_weight(self) -> float:
        return 0.5 * (1.0 + self.peak_share * self._start())

    def _start(self) -> float:
        return _weight_of(self.lr_max / self.start_divisor, self)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(WarmupBaseline):
    """Warm-up, then lr_max, then a decay to lr_min (Hägele et al., arXiv:2405.18392).

    With v the share of the decay that is done, its shape is 1 − √v or 1 − v.

    Args:
        decay_share: Length of the decay as a share of the updates.
        decay: Shape of the decay: "1-sqrt" or "linear".
    """

    decay_share: float = 0.2
    decay: DecayEnd = "1-sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(decay_share=share("decay_share", self.decay_share))
        one_of("decay", self.decay, get_args(DecayEnd))

    def weight(self, u: float) -> float:
        start = 1.0 - self.decay_share
        # 1 - start, not decay_share: so v is exactly 1 at the end.
        v = max(0.0, u - start) / (1.0 - start)
        return 1.0 - (v if self.decay == "linear" else math.sqrt(v))

    def mean_weight(self) -> float:
        lost = 1.0 / 2.0 if self.decay == "linear" else 2.0 / 3.0
        return 1.0 - lost * self.decay_share


@dataclass(frozen=True, kw_only=True)
class Rex(WarmupBaseline):
    """Reflected exponential (Chen et al., arXiv:2107.04197): weight (1 − u) / (1 − u/2)."""

    def weight(self, u: float) -> float:
        return (1.0 - u) / (1.0 - 0.5 * u)

    def mean_weight(self) -> float:
        return 2.0 - 2.0 * math.log(2.0)


def _weight_of(lr: float, schedule: Schedule) -> float:
    """Weight in [0, 1] that gives ``lr``, or lr_min if that is higher."""
    return max(0.0, lr - schedule.lr_min) / (schedule.lr_max - schedule.lr_min or 1.0)


def _log_cosh(x: float) -> float:
    """ln cosh x, without overflow."""
    return abs(x) + math.log1p(math.exp(-2.0 * abs(x))) - math.log(2.0)


BASELINES: Mapping[str, type[Schedule]] = MappingProxyType(
    {
        "linear": Linear,
        "polynomial": Polynomial,
        "cosine": Cosine,
        "exponential": Exponential,
        "multi-step": MultiStep,
        "sgdr": Sgdr,
        "clr-triangular": ClrTriangular,
        "clr-triangular2": ClrTriangular2,
        "htd": Htd,
        "one-cycle": OneCycle,
        "warmup-stable-decay": WarmupStableDecay,
        "rex": Rex,
    }
)
"""Every baseline by the name that study files use. The order must not change: it numbers the
candidates of stored confirmations (:data:`kdecay_search.study.comparators.COMPARATORS`)."""
