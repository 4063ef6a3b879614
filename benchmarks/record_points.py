"""The schedules of a recorded table: quasi-random points of the default space, and the usual ones.

A point is a JSON object: ``family``, the keys that this family has, and those that all have.
``lr_max`` is a learning rate, ``lr_min`` a share of it, ``warmup`` and ``decay_share`` are shares
of the updates.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.kdecay import KDecaySchedule

Point = dict[str, str | float]

LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Levels of the usual schedules, as multiples of the task's own lr_max; the first and the last one
are the bounds of the quasi-random levels."""
K = (0.3, 30.0)
POWER = (0.5, 4.0)
DECAY_SHARE = (0.05, 0.6)
LARGEST_LR_MIN = 0.1
"""Largest lr_min, as a share of lr_max."""
LARGEST_WARMUP = 0.1
"""Longest warm-up, as a share of the updates."""
USUAL_LR_MIN = 0.01
"""lr_min of the usual schedules, as a share of lr_max."""
BASES = (2, 3, 5, 7, 11)
"""Bases of the Halton sequence, one a coordinate."""


def points(lr_max: float, warmup: float, number: int) -> list[Point]:
    """The points of a table, the same on every call; more points come behind these.

    Args:
        lr_max: The task's own level.
        warmup: Warm-up of the usual schedules, as a share of the updates.
        number: Number of quasi-random points.
    """
    return [*usual(lr_max, warmup), *quasi_random(lr_max, number)]


def usual(lr_max: float, warmup: float) -> list[Point]:
    """Linear, cosine and cooldown, each at five levels."""
    shapes: tuple[Point, ...] = (
        {"family": "polynomial", "k": 1.0, "power": 1.0},
        {"family": "cosine", "k": 1.0},
        {"family": "cooldown", "decay_share": 0.2, "decay": "1-sqrt"},
    )
    return [
        {**shape, "lr_max": _rounded(level * lr_max), "lr_min": USUAL_LR_MIN, "warmup": warmup}
        for shape in shapes
        for level in LEVELS
    ]


def quasi_random(lr_max: float, number: int) -> list[Point]:
    """Points of the default space: two thirds polynomial, one third cooldown.

    Each family has a Halton sequence of its own, without its first point. So the first points are
    the same for any ``number``.
    """
    levels = LEVELS[0] * lr_max, LEVELS[-1] * lr_max
    polynomials, cooldowns = _halton(), _halton()
    found = []
    for index in range(number):
        point: Point
        if index % 3 == 2:
            # The coordinate of base 2 chooses the decay: its halves are then equally large.
            decay, level, share, floor, warmup = next(cooldowns)
            point = {"family": "cooldown", "decay_share": _log(share, DECAY_SHARE)}
            point["decay"] = "1-sqrt" if decay < 0.5 else "linear"
        else:
            level, k, power, floor, warmup = next(polynomials)
            point = {"family": "polynomial", "k": _log(k, K), "power": _log(power, POWER)}
        point["lr_max"] = _log(level, levels)
        point["lr_min"] = _rounded(floor * LARGEST_LR_MIN)
        point["warmup"] = _rounded(warmup * LARGEST_WARMUP)
        found.append(point)
    return found


def schedule_of(point: Point, total_steps: int) -> Schedule:
    """The schedule of a point, for a training of this many updates."""
    values = {name: value for name, value in point.items() if isinstance(value, int | float)}
    lr_max = values["lr_max"]
    lr_min, warmup_steps = values["lr_min"] * lr_max, round(values["warmup"] * total_steps)
    if point["family"] == "cooldown":
        return WarmupStableDecay(
            lr_max=lr_max,
            lr_min=lr_min,
            warmup_steps=warmup_steps,
            decay_share=values["decay_share"],
            decay="linear" if point["decay"] == "linear" else "1-sqrt",
        )
    return KDecaySchedule(
        family="cosine" if point["family"] == "cosine" else "polynomial",
        ks=(values["k"],),
        power=values.get("power", 1.0),
        lr_max=lr_max,
        lr_min=lr_min,
        warmup_steps=warmup_steps,
    )


def _halton() -> Iterator[tuple[float, ...]]:
    for index in count(1):
        yield tuple(_radical_inverse(index, base) for base in BASES)


def _radical_inverse(index: int, base: int) -> float:
    """The digits of ``index`` mirrored at the point."""
    inverse, scale = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        scale /= base
        inverse += digit * scale
    return inverse


def _log(share: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return _rounded(low * (high / low) ** share)


def _rounded(value: float) -> float:
    """Six digits: the same number wherever the logarithms end in other bits."""
    return float(f"{value:.6g}")
