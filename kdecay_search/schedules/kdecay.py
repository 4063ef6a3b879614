"""k-decay learning-rate schedules (Zhang and Li, arXiv:2004.05909, eq. 10 to 14).

Words: ``step`` counts optimizer updates from 0, ``total_steps`` is their number, LR is the learning
rate. ``u`` in [0, 1] is the share of the updates after the warm-up that is done; update ``t`` uses
``schedule(t, total_steps)``, so ``u = 1`` is the state after the last update.

Every schedule is a shape, ``weight(u)`` in [0, 1], between two rates, ``lr_min`` and ``lr_max``.
The schedules that users compare k-decay with are in ``rivals``.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Literal, get_args

from kdecay_search.errors import InvalidSchedule

Family = Literal["polynomial", "cosine", "exponential"]
FAMILIES: tuple[Family, ...] = get_args(Family)
# Beyond it the logarithms of the gamma functions lose more digits to cancellation than quadrature.
GAMMA_EXTENT = 1000.0


def number(name: str, value: object, *, above: float = -math.inf) -> float:
    """``value`` as a float, or InvalidSchedule unless it is finite and above ``above``."""
    given = _float_or_nan(value)
    if not math.isfinite(given):
        raise InvalidSchedule(f"{name}={value!r} must be a finite number; give one such as 0.5")
    if not given > above:
        raise InvalidSchedule(f"{name}={value!r} must be above {above:g}; raise it")
    return given


def _float_or_nan(value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    return math.nan


def choice(name: str, value: object, known: Iterable[str]) -> None:
    """InvalidSchedule, with the nearest known name, unless ``value`` is one of ``known``."""
    known = tuple(known)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    mend = f"did you mean {near[0]!r}?" if near else "choose one of them"
    raise InvalidSchedule(f"{name}={value!r} is not one of {', '.join(known)}; {mend}")


def increasing_numbers(name: str, values: object, *, above: float) -> tuple[float, ...]:
    """``values`` as floats, or InvalidSchedule unless one or more, strictly increasing."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidSchedule(f"{name}={values!r} must be a list of numbers; write [1.0] for one")
    given = tuple(values)
    if not given:
        raise InvalidSchedule(f"{name}={given!r} must have a value at least; write [1.0] for one")
    checked = tuple(number(f"{name}[{i}]", value, above=above) for i, value in enumerate(given))
    if any(later <= earlier for earlier, later in pairwise(checked)):
        raise InvalidSchedule(
            f"{name}={checked!r} must strictly increase; sort it, each value once"
        )
    return checked


def polynomial_weight(phi: float, power: float = 1.0) -> float:
    """(1 − phi)^N, eq. 11; phi and the result in [0, 1], ``power`` is the paper's N."""
    return float((1.0 - phi) ** power)


def cosine_weight(phi: float) -> float:
    """½(1 + cos(π phi)), eq. 12; phi and the result in [0, 1]."""
    return 0.5 * (1.0 + math.cos(math.pi * phi))


def exponential_weight(phi: float, rate: float = 1.0) -> float:
    """(e^(−r phi) − e^(−r)) / (1 − e^(−r)), eq. 13 at r = 1; phi and the result in [0, 1]."""
    # Both sides of the fraction are multiplied by e^r: exact at both ends, and no cancellation.
    return math.expm1(rate * (1.0 - phi)) / math.expm1(rate)


def exponential_mean_weight(rate: float = 1.0) -> float:
    """Mean of ``exponential_weight`` over phi in [0, 1]: 1/r − 1/(e^r − 1)."""
    return 1.0 / rate - 1.0 / math.expm1(rate)


def mean_over_unit_interval(f: Callable[[float], float]) -> float:
    """Mean of ``f`` over [0, 1], by tanh-sinh quadrature with 385 points.

    u = 1/(1 + e^(−s)), s = π sinh(x), puts points near the ends at every scale, so neither the
    edge of u^1000 at u = 1 nor a root at an end costs accuracy (1e-12 relative for our shapes).
    """
    spacing = 1 / 32
    terms = []
    for i in range(-192, 193):
        s = math.pi * math.sinh(i * spacing)
        done, left = 1.0 / (1.0 + math.exp(-s)), 1.0 / (1.0 + math.exp(s))
        terms.append(f(done) * done * left * math.pi * math.cosh(i * spacing))
    return spacing * math.fsum(terms)


class Schedule(ABC):
    """LR by update: ``schedule(step, total_steps)``; subclasses are frozen dataclasses.

    ``lr_max`` and ``lr_min`` are the paper's L0 and Le; every LR after the warm-up lies in
    [lr_min, lr_max]. The shape is shifted by ``warmup_steps`` updates, not cut: it begins at
    step == warmup_steps with u = 0. Raises InvalidSchedule, in one line, for parameters outside
    their domain.
    """

    lr_max: float
    lr_min: float
    warmup_steps: int = 0  # a field in the subclasses that can start with a warm-up

    def __post_init__(self) -> None:
        self._set(lr_max=number("lr_max", self.lr_max, above=0.0))
        self._set(lr_min=number("lr_min", self.lr_min))
        if self.lr_min < 0.0:
            raise InvalidSchedule(f"lr_min={self.lr_min!r} must be 0 or more; raise it")
        if self.lr_min > self.lr_max:
            raise InvalidSchedule(
                f"lr_min={self.lr_min!r} must not be above lr_max={self.lr_max!r}; exchange them"
            )
        steps: object = self.warmup_steps
        if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 0:
            raise InvalidSchedule(
                f"warmup_steps={steps!r} must be a whole number, 0 or more; count optimizer updates"
            )
        self._set(warmup_steps=int(steps))

    @abstractmethod
    def weight(self, u: float) -> float:
        """Shape in [0, 1] at ``u`` in [0, 1]: 1 is lr_max, 0 is lr_min."""

    @abstractmethod
    def mean_weight(self) -> float:
        """Integral of ``weight`` over u from 0 to 1."""

    def __call__(self, step: float, total_steps: int) -> float:
        """LR of update ``step`` (0-based; total_steps is the end). InvalidSchedule if outside."""
        self._check_total(total_steps)
        if not 0 <= step <= total_steps:
            raise InvalidSchedule(
                f"step={step!r} must be from 0 to total_steps={total_steps!r}; "
                "count optimizer updates, not epochs, in both"
            )
        warmup = self.warmup_steps
        if step < warmup:
            # (t+1)/(w+1), not t/w: at t/w the first update has LR 0 and is wasted. Both lines
            # meet lr_max at step w, where the decay starts.
            return self.lr_max * ((step + 1) / (warmup + 1))
        return self._between(self.weight((step - warmup) / (total_steps - warmup)))

    def area(self, total_steps: int) -> float:
        """Mean LR of the training, warm-up included: (1/T) ∫ lr(t) dt over t from 0 to T."""
        self._check_total(total_steps)
        decayed = self.lr_min + (self.lr_max - self.lr_min) * self.mean_weight()
        warming = self.lr_max * 0.5 * (1.0 + 1.0 / (self.warmup_steps + 1))
        return decayed + (warming - decayed) * (self.warmup_steps / total_steps)

    def _between(self, weight: float) -> float:
        """LR at ``weight``; exact at both ends and monotone in floating point."""
        # Rounded sums and products are monotone, but lr_min + (lr_max - lr_min) may miss lr_max by
        # the last bit. No clamp: a weight below 1 takes a bit off the difference, which is as much
        # as its rounding can have added.
        if weight == 1.0:
            return self.lr_max
        return self.lr_min + (self.lr_max - self.lr_min) * weight

    def _check_total(self, total_steps: int) -> None:
        if not total_steps >= 1:
            raise InvalidSchedule(f"total_steps={total_steps!r} must be 1 or more; raise it")
        if self.warmup_steps >= total_steps:
            raise InvalidSchedule(
                f"warmup_steps={self.warmup_steps} must be below total_steps={total_steps!r}; "
                "shorten the warm-up"
            )

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class KDecaySchedule(Schedule):
    """k-decay of the polynomial (eq. 10, 11, 14), cosine (12) or exponential (13) schedule.

    ``ks``: the terms k_1 < k_2 < …; with n of them phi(u) = (1/n) Σ u^(k_i), eq. 14, which the
    paper has for the polynomial only. ks = (1.0,) is the plain schedule of the family.
    ``power``: N of the polynomial; 1 in the other families.

    The LR never rises after the warm-up, as far as the C library's pow, cos and expm1 are monotone:
    every other operation here is correctly rounded, and so monotone.
    """

    family: Family = "polynomial"
    ks: tuple[float, ...] = (1.0,)
    power: float = 1.0
    lr_max: float = 0.1
    lr_min: float = 0.001
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("family", self.family, FAMILIES)
        self._set(ks=increasing_numbers("ks", self.ks, above=0.0))
        self._set(power=number("power", self.power, above=0.0))
        if self.family != "polynomial" and self.power != 1.0:
            raise InvalidSchedule(
                f"power={self.power!r} must be 1 in the {self.family} family, which has no power; "
                "leave it out"
            )

    def phi(self, u: float) -> float:
        """Factor phi(u) = (1/n) Σ u^(k_i), eq. 14, in [0, 1]; phi(0) = 0 and phi(1) = 1 exactly."""
        # u**k, never t**k / T**k, which overflows. fsum, because sum() rounds differently from
        # Python 3.12 on, and one study may have workers of both.
        return math.fsum(u**k for k in self.ks) / len(self.ks)

    def weight(self, u: float) -> float:
        phi = self.phi(u)
        if self.family == "polynomial":
            return polynomial_weight(phi, self.power)
        return cosine_weight(phi) if self.family == "cosine" else exponential_weight(phi)

    def mean_weight(self) -> float:
        """Closed form where there is one, else quadrature; to 1e-9 for N and 1/k up to 10^6."""
        if self.family == "polynomial" and self.power == 1.0:
            return math.fsum(k / (k + 1.0) for k in self.ks) / len(self.ks)
        extent = max(1.0 / self.ks[0], self.power)
        if self.family == "polynomial" and len(self.ks) == 1 and extent <= GAMMA_EXTENT:
            return _one_term_mean(self.ks[0], self.power)
        if self.ks == (1.0,) and self.family != "polynomial":
            return 0.5 if self.family == "cosine" else exponential_mean_weight()
        return mean_over_unit_interval(self.weight)


def _one_term_mean(k: float, power: float) -> float:
    """∫ (1 − u^k)^N du over [0, 1] = Γ(1+1/k) Γ(N+1) / Γ(N+1+1/k)."""
    a = 1.0 / k
    return math.exp(math.lgamma(1 + a) + math.lgamma(power + 1) - math.lgamma(power + 1 + a))
