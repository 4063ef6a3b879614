"""A schedule as Python source that needs only the standard library."""

from __future__ import annotations

from numbers import Integral

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.kdecay import KDecaySchedule


def kdecay_python_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source of a function ``learning_rate(step, total_steps)``, with the values filled in.

    Executed, it gives the same floats as ``schedule``, bit for bit. Steps before the first have the
    first rate, and steps beyond the last have the last one.

    Args:
        schedule: The schedule to write.
        total_steps: Default of the function's parameter of that name; None leaves it required.

    Returns:
        Python source that imports ``math`` at most.

    Raises:
        InvalidSchedule: The schedule is neither a k-decay schedule nor a cooldown, or its warm-up
            does not fit into ``total_steps``.
    """
    imports = "import math\n\n\n" if needs_math(schedule) else ""
    return imports + learning_rate_function(schedule, total_steps)


def learning_rate_function(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source of the function alone, without its imports."""
    check_total(schedule, total_steps)
    lr_max, lr_min, warmup = schedule.lr_max, schedule.lr_min, schedule.warmup_steps
    warming = [
        f"    if step < {warmup}:",
        f"        return {lr_max!r} * ((step + 1) / {warmup + 1})",
    ]
    u = f"(step - {warmup}) / (total_steps - {warmup})" if warmup else "step / total_steps"
    lines = [
        f"def learning_rate(step, {total_steps_parameter(total_steps)}):",
        f'    """{title(schedule)}.',
        "",
        f"    {origin(schedule)}",
        '    """',
        "    step = min(max(step, 0), total_steps)",
        *(warming if warmup else []),
        f"    u = {u}",
        *(f"    {line}" for line in _shape(schedule)),
        "    if weight == 1.0:",
        f"        return {lr_max!r}",
        f"    return {lr_min!r} + ({lr_max!r} - {lr_min!r}) * weight",
    ]
    return "\n".join(lines) + "\n"


def check_total(schedule: Schedule, total_steps: int | None) -> None:
    """Refuse a number of updates that the schedule does not fit into; None is any number.

    Raises:
        InvalidSchedule: It is no whole number, below 1, or not above the warm-up.
    """
    if total_steps is None:
        return
    if isinstance(total_steps, bool) or not isinstance(total_steps, Integral):
        raise InvalidSchedule(
            f"total_steps={total_steps!r} must be a whole number; count optimizer updates"
        )
    schedule(0, int(total_steps))


def needs_math(schedule: Schedule) -> bool:
    """Whether the function needs ``import math``."""
    return "math." in "".join(_shape(schedule))


def total_steps_parameter(total_steps: int | None) -> str:
    """The parameter as it is written in a function's signature, with its default if it has one."""
    return "total_steps" if total_steps is None else f"total_steps={total_steps}"


def title(schedule: Schedule) -> str:
    """One line for people, such as ``Cosine schedule with k = 1, 3.5, from 0.1 to 0.001``."""
    rates = f"from {schedule.lr_max:g} to {schedule.lr_min:g}"
    if isinstance(schedule, WarmupStableDecay):
        shape = "linear" if schedule.decay == "linear" else "1 - sqrt"
        share = f"{100 * schedule.decay_share:g} %"
        return f"Constant rate, then a {shape} cooldown over the last {share}, {rates}"
    found = known(schedule)
    ks = ", ".join(f"{k:g}" for k in found.ks)
    power = f", N = {found.power:g}" if found.family == "polynomial" else ""
    return f"{found.family.capitalize()} schedule with k = {ks}{power}, {rates}"


def known(schedule: Schedule) -> KDecaySchedule:
    """The schedule, which is of a kind that can be written.

    Raises:
        InvalidSchedule: It is not.
    """
    if not isinstance(schedule, KDecaySchedule):
        raise InvalidSchedule(
            f"a schedule of the kind {type(schedule).__name__} has no source; use --as csv, which "
            "has any schedule"
        )
    return schedule


def origin(schedule: Schedule) -> str:
    if isinstance(schedule, WarmupStableDecay):
        return "Haegele et al., arXiv:2405.18392. step counts optimizer updates from 0."
    return "k-decay, arXiv:2004.05909, eq. 10 to 14. step counts optimizer updates from 0."


def _shape(schedule: Schedule) -> list[str]:
    """The lines that calculate ``weight`` from ``u``."""
    if isinstance(schedule, WarmupStableDecay):
        start = 1.0 - schedule.decay_share
        share = f"max(0.0, u - {start!r}) / (1.0 - {start!r})"
        fallen = "v" if schedule.decay == "linear" else "math.sqrt(v)"
        return [f"v = {share}", f"weight = 1.0 - {fallen}"]
    found = known(schedule)
    return [f"phi = {_phi(found.ks)}", f"weight = {_weight(found)}"]


def _phi(ks: tuple[float, ...]) -> str:
    return f"u**{ks[0]!r}" if len(ks) == 1 else f"math.fsum(u**k for k in {ks!r}) / {len(ks)}"


def _weight(schedule: KDecaySchedule) -> str:
    if schedule.family == "polynomial":
        return f"(1.0 - phi) ** {schedule.power!r}"
    if schedule.family == "cosine":
        return "0.5 * (1.0 + math.cos(math.pi * phi))"
    return "math.expm1(1.0 - phi) / math.expm1(1.0)"
