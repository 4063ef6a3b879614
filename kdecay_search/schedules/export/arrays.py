"""A schedule as Python source for Keras and for optax, which compile it.

There the rate is computed from a step that is an array, in 32 bits as a rule. So the source never
subtracts two nearly equal numbers: it has both shares of the training, the one that is done and the
one that is left, whose numerators are differences of whole numbers. Each rate then differs from the
schedule's by a few of the last bits only, also at the ends of a long training.
"""

from __future__ import annotations

import math
from typing import Any

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.export.python import (
    check_total,
    known,
    origin,
    title,
    total_steps_parameter,
)

_OPTAX = '''import jax.numpy as jnp


def kdecay_schedule({parameter}):
    """{title}.

    {origin}
    For any optimizer of optax, as its learning rate.
    """
    if total_steps <= {warmup}:
        raise ValueError(f"total_steps={{total_steps}} must be above {warmup}, the warm-up")

    def learning_rate(step):
        step = jnp.clip(step, 0, total_steps)
{body}

    return learning_rate
'''

_KERAS = '''import keras
from keras import ops


@keras.saving.register_keras_serializable("kdecay", "{name}")
class KDecay(keras.optimizers.schedules.LearningRateSchedule):
    """{title}.

    {origin}
    For any optimizer of Keras, as its learning_rate. Where the optimizer has
    gradient_accumulation_steps, Keras counts batches: give that number as accumulation.
    """

    def __init__(
        self,
        {parameter},
        accumulation=1,
{signature}
    ):
        if total_steps <= warmup_steps:
            text = f"total_steps={{total_steps}} must be above {{warmup_steps}}, the warm-up"
            raise ValueError(text)
        self.settings = {{
            "total_steps": int(total_steps),
            "accumulation": int(accumulation),
{settings}
        }}

    def get_config(self):
        return dict(self.settings)

    def __call__(self, step):
        {unpacked} = self.settings.values()
        step = ops.clip(ops.floor_divide(step, accumulation), 0, total_steps)
{body}
'''


def optax_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source of a schedule of optax, ``kdecay_schedule(total_steps)``; it needs jax alone.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; None leaves them a parameter.

    Raises:
        InvalidSchedule: The schedule is neither a k-decay schedule nor a cooldown, or its warm-up
            does not fit into ``total_steps``.
    """
    check_total(schedule, total_steps)
    values = {name: repr(value) for name, value in _settings(schedule).items()}
    return _OPTAX.format(
        parameter=total_steps_parameter(total_steps),
        title=title(schedule),
        origin=origin(schedule),
        warmup=schedule.warmup_steps,
        body=_indented(_body(schedule, values, "jnp", "({})"), 8),
    )


def keras_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source of a ``LearningRateSchedule`` of Keras 3, ``KDecay(total_steps)``; it needs Keras.

    Its configuration has every number of the schedule, so a saved model keeps its schedule.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; None leaves them a parameter.

    Raises:
        InvalidSchedule: The schedule is neither a k-decay schedule nor a cooldown, or its warm-up
            does not fit into ``total_steps``.
    """
    check_total(schedule, total_steps)
    settings = _settings(schedule)
    names = {name: name.removesuffix("_steps") for name in settings}
    cast = 'ops.cast({}, "float32")'
    return _KERAS.format(
        name=f"KDecay-{_kind(schedule)}",
        title=title(schedule),
        origin=origin(schedule),
        parameter=total_steps_parameter(total_steps),
        signature=_indented([f"{name}={value!r}," for name, value in settings.items()], 8),
        settings=_indented(
            [f'"{name}": {"list(ks)" if name == "ks" else name},' for name in settings], 12
        ),
        unpacked=", ".join(["total_steps", "accumulation", *names.values()]),
        body=_indented(_body(schedule, names, "ops", cast), 8),
    )


def _kind(schedule: Schedule) -> str:
    if isinstance(schedule, WarmupStableDecay):
        return "cooldown" if schedule.decay == "1-sqrt" else "linear-cooldown"
    return known(schedule).family


def _settings(schedule: Schedule) -> dict[str, Any]:
    """The numbers of the schedule by name, those of its shape first."""
    if isinstance(schedule, WarmupStableDecay):
        shape: dict[str, Any] = {"decay_share": schedule.decay_share}
    else:
        shape = {"ks": known(schedule).ks}
        if known(schedule).family == "polynomial":
            shape["power"] = known(schedule).power
    rates = {"lr_max": schedule.lr_max, "lr_min": schedule.lr_min}
    return {**shape, **rates, "warmup_steps": schedule.warmup_steps}


def _body(schedule: Schedule, values: dict[str, str], module: str, cast: str) -> list[str]:
    """The lines that calculate the rate from ``step``, a whole number within the training.

    Args:
        schedule: The schedule.
        values: How each of its numbers is written in the source.
        module: The name of the module with the functions for arrays.
        cast: How a whole number becomes one with a fraction, around ``{}``.
    """
    warmup, lr_max, lr_min = values["warmup_steps"], values["lr_max"], values["lr_min"]
    shape = _shape(schedule, values, module, cast)
    rate = f"{lr_min} + ({lr_max} - {lr_min}) * weight"
    if warmup == "0":
        ends = ["length = total_steps", f"left = {cast.format('total_steps - step')} / length"]
        done = f"done = {cast.format('step')} / length"
    else:
        ends = [
            f"length = total_steps - {warmup}",
            f"left = {module}.minimum(1.0, {cast.format('total_steps - step')} / length)",
        ]
        done = f"done = {cast.format(f'{module}.maximum(step - {warmup}, 0)')} / length"
    lines = [*ends, *([done] if "done <" in "".join(shape) else []), *shape]
    if warmup == "0":
        return [*lines, f"return {rate}"]
    return [
        *lines,
        f"decaying = {rate}",
        f"warming = {lr_max} * ({cast.format('step + 1')} / ({warmup} + 1))",
        f"return {module}.where(step < {warmup}, warming, decaying)",
    ]


def _shape(schedule: Schedule, values: dict[str, str], module: str, cast: str) -> list[str]:
    """The lines that calculate ``weight`` from ``left``."""
    if isinstance(schedule, WarmupStableDecay):
        share, done = values["decay_share"], "step"
        part = f"part = {module}.minimum(1.0, left / {share})"
        if schedule.decay == "linear":
            return [part, "weight = part"]
        if values["warmup_steps"] != "0":
            done = f"step - {values['warmup_steps']}"
        # 1 - sqrt(v) without the difference: part is 1 - v, and v is exact where it begins.
        return [
            part,
            f"start = (1.0 - {share}) * length",
            "whole = int(start)",
            f"begun = {cast.format(f'{done} - whole')} - (start - whole)",
            f"v = {module}.maximum(0.0, begun) / (length - start)",
            f"weight = part / (1.0 + {module}.sqrt(v))",
        ]
    lines = [
        f"log = {module}.where(done < left, {module}.log(done), {module}.log1p(-left))",
        f"terms = [-{module}.expm1(k * log) for k in {values['ks']}]",
        "fall = sum(terms) / len(terms)  # 1 - phi",
    ]
    family = known(schedule).family
    if family == "polynomial":
        return [*lines, f"weight = fall ** {values['power']}"]
    if family == "cosine":
        return [*lines, f"weight = {module}.sin({math.pi / 2!r} * fall) ** 2"]
    return [*lines, f"weight = {module}.expm1(fall) / {math.expm1(1.0)!r}"]


def _indented(lines: list[str], spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in lines)
