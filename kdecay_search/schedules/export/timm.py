"""A schedule as Python source for timm, which runs with timm alone."""

from __future__ import annotations

import math
import sys

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.export.python import (
    check_total,
    learning_rate_function,
    needs_math,
    title,
    total_steps_parameter,
)
from kdecay_search.schedules.kdecay import KDecaySchedule

MANY_STEPS = 10_000_000
"""Optimizer updates that a training is assumed to have at most, where no number is given."""

_TIMM = '''from timm.scheduler import {name}


def kdecay_scheduler(optimizer, {parameter}):
    """{title}.

    k-decay, arXiv:2004.05909. For an optimizer made with lr={lr_max!r}; after every update call
    scheduler.step_update(updates), with the number of updates done so far.

    A parameter group with another lr has its ratio to that; one with lr=0 stays frozen. After a
    group is added, call this function again.{arguments}
    """
    for group in optimizer.param_groups:
        ratio = group.get("initial_lr", group["lr"]) / {lr_max!r}
        if ratio != 1.0:  # timm's own name for a ratio
            group["lr_scale"] = group.get("lr_scale", 1.0) * ratio
            group["initial_lr"] = {lr_max!r}
    return {name}(
        optimizer,
{settings}
    )
'''

_OWN = '''from timm.scheduler.scheduler import Scheduler


{function}

class KDecayScheduler(Scheduler):
    """Multiplies the lr of every parameter group; timm itself has no such schedule."""

    def __init__(self, optimizer, total):
        self.total = total
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.step_update(0)

    def _get_lr(self, t):
        share = learning_rate(t, self.total) / {lr_max!r}
        return [value * share for value in self.base_values]


def kdecay_scheduler(optimizer, {parameter}):
    """A scheduler of timm, for an optimizer made with lr={lr_max!r}; after every update call
    scheduler.step_update(updates), with the number of updates done so far.

    A parameter group with another lr has its ratio to that; one with lr=0 stays frozen. After a
    group is added, call this function again.
    """
    return KDecayScheduler(optimizer, total_steps)
'''


def timm_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source with a scheduler of timm; it needs timm.

    It is one of timm's own schedulers, which have k-decay, where timm computes the same learning
    rates: polynomial or cosine, one term. Else it is a class derived from timm's ``Scheduler``.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; None leaves them a parameter.

    Raises:
        InvalidSchedule: The schedule is neither a k-decay schedule nor a cooldown, or its warm-up
            does not fit into ``total_steps``.
    """
    check_total(schedule, total_steps)
    if isinstance(schedule, KDecaySchedule) and _timm_has(schedule, total_steps):
        return _own_scheduler(schedule, total_steps)
    own = _OWN.format(
        function=learning_rate_function(schedule, total_steps),
        parameter=total_steps_parameter(total_steps),
        lr_max=schedule.lr_max,
    )
    return ("import math\n\n" if needs_math(schedule) else "") + own


def _timm_has(schedule: KDecaySchedule, total_steps: int | None) -> bool:
    """Whether timm's own schedulers compute this schedule."""
    if schedule.family == "exponential" or len(schedule.ks) > 1:
        return False
    # timm computes t**k / T**k, which overflows where (t/T)**k does not.
    return schedule.ks[0] * math.log(total_steps or MANY_STEPS) < math.log(sys.float_info.max)


def _own_scheduler(schedule: KDecaySchedule, total_steps: int | None) -> str:
    """Source with timm's ``PolyLRScheduler`` or ``CosineLRScheduler``."""
    warmup = schedule.warmup_steps
    settings = {
        "t_initial": f"total_steps - {warmup}" if warmup else "total_steps",
        "lr_min": repr(schedule.lr_min),
        "k_decay": repr(schedule.ks[0]),
    }
    if schedule.family == "polynomial":
        settings["power"] = repr(schedule.power)
    if warmup:
        settings["warmup_t"] = str(warmup)
        settings["warmup_lr_init"] = repr(schedule.lr_max / (warmup + 1))
        settings["warmup_prefix"] = "True"
    settings["t_in_epochs"] = "False"
    return _TIMM.format(
        name="PolyLRScheduler" if schedule.family == "polynomial" else "CosineLRScheduler",
        parameter=total_steps_parameter(total_steps),
        title=title(schedule),
        lr_max=schedule.lr_max,
        arguments=_arguments(schedule),
        settings="\n".join(f"        {name}={value}," for name, value in settings.items()),
    )


def _arguments(schedule: KDecaySchedule) -> str:
    """Lines of the docstring with the arguments of timm's ``train.py`` that do the same.

    None with a warm-up, which ``train.py`` counts in epochs beside those of ``--epochs``.
    """
    if schedule.warmup_steps:
        return ""
    shape = f"poly --decay-rate {schedule.power!r}" if schedule.family == "polynomial" else "cosine"
    return (
        f"\n\n    The arguments of timm's own train.py for the same learning rates:\n"
        f"    --sched {shape} --lr-k-decay {schedule.ks[0]!r}\n"
        f"    --lr {schedule.lr_max!r} --min-lr {schedule.lr_min!r} --sched-on-updates "
        "--warmup-epochs 0"
    )
