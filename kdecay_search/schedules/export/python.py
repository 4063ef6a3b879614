"""A schedule as Python source that needs only the standard library."""

from __future__ import annotations

from kdecay_search.schedules.kdecay import KDecaySchedule


def kdecay_python_source(schedule: KDecaySchedule, total_steps: int | None = None) -> str:
    """Source of a function ``learning_rate(step, total_steps)``, with the values filled in.

    Executed, it gives the same floats as ``schedule``, bit for bit. It checks no arguments.

    Args:
        schedule: The schedule to write.
        total_steps: Default of the function's parameter of that name; None leaves it required.

    Returns:
        Python source that imports ``math`` at most.
    """
    imports = "import math\n\n\n" if needs_math(schedule) else ""
    return imports + learning_rate_function(schedule, total_steps)


def learning_rate_function(schedule: KDecaySchedule, total_steps: int | None = None) -> str:
    """Source of the function alone, without its imports."""
    lr_max, lr_min, warmup = schedule.lr_max, schedule.lr_min, schedule.warmup_steps
    warming = [
        f"    if step < {warmup}:",
        f"        return {lr_max!r} * ((step + 1) / {warmup + 1})",
    ]
    shifted = f"(step - {warmup}) / (total_steps - {warmup})"
    lines = [
        f"def learning_rate(step, {total_steps_parameter(total_steps)}):",
        f'    """{title(schedule)}.',
        "",
        "    k-decay, arXiv:2004.05909, eq. 10 to 14. step counts optimizer updates from 0.",
        '    """',
        *(warming if warmup else []),
        f"    u = {shifted if warmup else 'step / total_steps'}",
        f"    phi = {_phi(schedule.ks)}",
        f"    weight = {_weight(schedule)}",
        "    if weight == 1.0:",
        f"        return {lr_max!r}",
        f"    return {lr_min!r} + ({lr_max!r} - {lr_min!r}) * weight",
    ]
    return "\n".join(lines) + "\n"


def needs_math(schedule: KDecaySchedule) -> bool:
    """Whether the function needs ``import math``."""
    return "math." in _phi(schedule.ks) + _weight(schedule)


def total_steps_parameter(total_steps: int | None) -> str:
    """The parameter as it is written in a function's signature, with its default if it has one."""
    return "total_steps" if total_steps is None else f"total_steps={total_steps}"


def title(schedule: KDecaySchedule) -> str:
    """One line for people, such as ``Cosine schedule with k = 1, 3.5, from 0.1 to 0.001``."""
    ks = ", ".join(f"{k:g}" for k in schedule.ks)
    power = f", N = {schedule.power:g}" if schedule.family == "polynomial" else ""
    name = schedule.family.capitalize()
    return f"{name} schedule with k = {ks}{power}, from {schedule.lr_max:g} to {schedule.lr_min:g}"


def _phi(ks: tuple[float, ...]) -> str:
    return f"u**{ks[0]!r}" if len(ks) == 1 else f"math.fsum(u**k for k in {ks!r}) / {len(ks)}"


def _weight(schedule: KDecaySchedule) -> str:
    if schedule.family == "polynomial":
        return f"(1.0 - phi) ** {schedule.power!r}"
    if schedule.family == "cosine":
        return "0.5 * (1.0 + math.cos(math.pi * phi))"
    return "math.expm1(1.0 - phi) / math.expm1(1.0)"
