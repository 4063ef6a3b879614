"""The k-decay schedule: equations 9 to 14 of Zhang and Li, arXiv:2004.05909.

The paper's symbols and their names here:

    t   step         optimizer update, counted from 0
    T   total_steps  number of optimizer updates
    L0  lr_max       learning rate at t = 0
    Le  lr_min       learning rate at t = T
    k   ks           exponents, k_1 < k_2 < … < k_n
    N   power        power of the polynomial
    u                t / T, the share of the training that is done

k-decay replaces u in an ordinary schedule by u^k:

    eq. 10  linear       L(t) = (L0 − Le) (1 − u^k) + Le
    eq. 11  polynomial   L(t) = (L0 − Le) (1 − u^k)^N + Le
    eq. 12  cosine       L(t) = ½ (L0 − Le) (1 + cos(π u^k)) + Le
    eq. 13  exponential  L(t) = (L0 − Le) / (1 − e⁻¹) · e^(−u^k) + (Le − L0 e⁻¹) / (1 − e⁻¹)
    eq. 14  n terms      L(t) = (L0 − Le) (1 − φ)^N + Le,  φ(u) = (1/n) Σ u^(k_i)

k = 1 is the ordinary schedule, and a larger k holds the rate high for longer. Every equation is a
weight in [0, 1] between the two rates, L(t) = Le + (L0 − Le) · weight, and the functions below are
these weights.

Where this differs from the paper:

- The paper has several terms for the polynomial only. Using φ in all three families is our
  generalisation of eq. 14; with one term, φ = u^k, each is the paper's.
- Eq. 9, from which eq. 10 is derived, has a sign slip: eq. 10 follows with a1 = +(L0 − Le)/T.
- Eq. 14 is read as above, the mean of (t/T)^(k_i) over the terms.
- (t/T)**k is computed as it stands. t**k / T**k is the same on paper, but overflows for large k.
- A warm-up is a line before the decay; u then counts from its end
  (:class:`~kdecay_search.schedules.base.Schedule`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.base import Schedule, mean_over_unit_interval
from kdecay_search.schedules.checks import increasing_numbers, number, one_of

Family = Literal["polynomial", "cosine", "exponential"]
FAMILIES: tuple[Family, ...] = get_args(Family)

GAMMA_EXTENT = 1000.0
"""Largest N or 1/k for which the mean is computed by gamma functions. Beyond it, their logarithms
lose more digits to cancellation than the quadrature loses."""


def polynomial_weight(phi: float, power: float = 1.0) -> float:
    """(1 − φ)^N, eq. 11 and 14; eq. 10 at N = 1.

    Args:
        phi: φ, in [0, 1].
        power: N, above 0.

    Returns:
        The weight, in [0, 1].
    """
    return float((1.0 - phi) ** power)


def cosine_weight(phi: float) -> float:
    """½ (1 + cos πφ), eq. 12; φ and the weight lie in [0, 1]."""
    return 0.5 * (1.0 + math.cos(math.pi * phi))


def exponential_weight(phi: float, rate: float = 1.0) -> float:
    """(e^(−rφ) − e^(−r)) / (1 − e^(−r)), which is eq. 13 at r = 1.

    Args:
        phi: φ, in [0, 1].
        rate: r, above 0.

    Returns:
        The weight, in [0, 1].
    """
    # Both sides of the fraction are multiplied by e^r: exact at both ends, and no cancellation.
    return math.expm1(rate * (1.0 - phi)) / math.expm1(rate)


def polynomial_mean_weight(k: float, power: float) -> float:
    """Mean of (1 − u^k)^N over u in [0, 1]: Γ(1+1/k) Γ(N+1) / Γ(N+1+1/k)."""
    a = 1.0 / k
    return math.exp(math.lgamma(1 + a) + math.lgamma(power + 1) - math.lgamma(power + 1 + a))


def exponential_mean_weight(rate: float = 1.0) -> float:
    """Mean of :func:`exponential_weight` over φ in [0, 1]: 1/r − 1/(e^r − 1)."""
    return 1.0 / rate - 1.0 / math.expm1(rate)


@dataclass(frozen=True)
class KDecaySchedule(Schedule):
    """k-decay of the polynomial (eq. 10, 11, 14), cosine (eq. 12) or exponential (eq. 13) schedule.

    The LR never rises after the warm-up, as far as the C library's pow, cos and expm1 are monotone:
    every other operation here is correctly rounded, and so monotone.

    Args:
        family: The schedule that k-decay is applied to.
        ks: The terms k_1 < k_2 < … of eq. 14, all above 0. (1.0,) is the family's plain schedule.
        power: N of the polynomial family; 1 in the others.
        lr_max: L0, the LR at the start of the decay.
        lr_min: Le, the LR at the end.
        warmup_steps: Optimizer updates of linear warm-up before the decay.

    Raises:
        InvalidSchedule: A parameter lies outside its domain; the text is one line.

    Example:
        The paper's setting, eq. 10 with k = 2, at every other tenth of a training:

        >>> schedule = KDecaySchedule(ks=(2.0,), lr_max=0.1, lr_min=0.001)
        >>> [round(schedule(t, 10), 5) for t in range(0, 11, 2)]
        [0.1, 0.09604, 0.08416, 0.06436, 0.03664, 0.001]
    """

    family: Family = "polynomial"
    ks: tuple[float, ...] = (1.0,)
    power: float = 1.0
    lr_max: float = 0.1
    lr_min: float = 0.001
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("family", self.family, FAMILIES)
        self._set(ks=increasing_numbers("ks", self.ks, above=0.0))
        self._set(power=number("power", self.power, above=0.0))
        if self.family != "polynomial" and self.power != 1.0:
            raise InvalidSchedule(
                f"power={self.power!r} must be 1 in the {self.family} family, which has no power; "
                "leave it out"
            )

    def phi(self, u: float) -> float:
        """φ(u) = (1/n) Σ u^(k_i), the factor of eq. 14; u^k with one term.

        It lies in [0, 1], and φ(0) = 0 and φ(1) = 1 are exact.
        """
        # fsum, because sum() rounds differently from Python 3.12 on, and one study may have workers
        # of both.
        return math.fsum(u**k for k in self.ks) / len(self.ks)

    def weight(self, u: float) -> float:
        phi = self.phi(u)
        if self.family == "polynomial":
            return polynomial_weight(phi, self.power)
        return cosine_weight(phi) if self.family == "cosine" else exponential_weight(phi)

    def mean_weight(self) -> float:
        """Mean of ``weight`` over u from 0 to 1, to 1e-9 for N and 1/k up to 10^6.

        In closed form where there is one, such as k/(k+1) for eq. 10; else by quadrature.
        """
        if self.family == "polynomial" and self.power == 1.0:
            return math.fsum(k / (k + 1.0) for k in self.ks) / len(self.ks)
        extent = max(1.0 / self.ks[0], self.power)
        if self.family == "polynomial" and len(self.ks) == 1 and extent <= GAMMA_EXTENT:
            return polynomial_mean_weight(self.ks[0], self.power)
        if self.ks == (1.0,) and self.family != "polynomial":
            return 0.5 if self.family == "cosine" else exponential_mean_weight()
        return mean_over_unit_interval(self.weight)
