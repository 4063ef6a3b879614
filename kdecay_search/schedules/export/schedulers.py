"""A schedule as Python source for a training library, which runs with that library alone.

Every source has a function ``kdecay_scheduler(optimizer, total_steps)`` for an optimizer whose lr
is the schedule's lr_max. A parameter group with another lr has its ratio to that, as in the search:
one with lr 0 is frozen. A ``total_steps`` given to the export becomes that parameter's default.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.export.python import (
    learning_rate_function,
    needs_math,
    title,
    total_steps_parameter,
)
from kdecay_search.schedules.kdecay import KDecaySchedule

MANY_STEPS = 10_000_000
"""Optimizer updates that a training is assumed to have at most, where no number is given."""

_TORCH = '''
class KDecayScheduler(LRScheduler):
    """Multiplies the lr of every parameter group, also of those that are added later."""

    def __init__(self, optimizer, total):
        self.total = total
        super().__init__(optimizer)

    def get_lr(self):
        share = learning_rate(min(self.last_epoch, self.total), self.total) / {lr_max!r}
        groups = self.optimizer.param_groups
        return [float(group.setdefault("initial_lr", group["lr"])) * share for group in groups]


def kdecay_scheduler(optimizer, {parameter}):
    """A scheduler for an optimizer made with lr={lr_max!r}; call its step() after every update.

    A parameter group with another lr has its ratio to that; one with lr=0 stays frozen.
    """
    return KDecayScheduler(optimizer, total_steps)
'''

_TRAINER = '''
class KDecayTrainer(Trainer):
    """A Trainer with this schedule, from TrainingArguments(learning_rate={lr_max!r}, ...)."""

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = kdecay_scheduler({arguments})
        return self.lr_scheduler
'''

_MODULE = '''
class KDecayModule(lightning.LightningModule):
    """{usage}"""
{own}
    def configure_optimizers(self):
        optimizer = {optimizer}
        scheduler = kdecay_scheduler({arguments})
        return {{
            "optimizer": optimizer,
            "lr_scheduler": {{"scheduler": scheduler, "interval": "step"}},
        }}
'''

_OWN_OPTIMIZER = """
    def make_optimizer(self):
        raise NotImplementedError("return your optimizer, made with lr={lr_max!r}")
"""

_TIMM = '''from timm.scheduler import {name}


def kdecay_scheduler(optimizer, {parameter}):
    """{title}.

    k-decay, arXiv:2004.05909. For an optimizer made with lr={lr_max!r}; after every update call
    scheduler.step_update(updates), with the number of updates done so far.

    A parameter group with another lr has its ratio to that; one with lr=0 stays frozen. After a
    group is added, call this function again.
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


def pytorch_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source with a scheduler of torch; it needs torch.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; None leaves them a parameter.
    """
    return _source(schedule, total_steps, ["from torch.optim.lr_scheduler import LRScheduler"])


def huggingface_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source with a ``Trainer``; it needs torch and transformers.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; with None, the trainer counts them.
    """
    imports = [
        "from torch.optim.lr_scheduler import LRScheduler",
        "from transformers import Trainer",
    ]
    given = "" if total_steps else ", num_training_steps"
    trainer = _TRAINER.format(
        lr_max=schedule.lr_max, arguments=f"optimizer or self.optimizer{given}"
    )
    return _source(schedule, total_steps, imports) + "\n" + trainer


def lightning_source(
    schedule: Schedule,
    total_steps: int | None = None,
    sgd: Mapping[str, float] | None = None,
) -> str:
    """Source with a ``LightningModule``; it needs torch and lightning.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; with None, Lightning estimates them.
        sgd: Settings of torch's SGD by name, without the learning rate; with None, the module's
            ``make_optimizer`` is to return an optimizer of the user's.
    """
    imports = ["import lightning", "from torch.optim.lr_scheduler import LRScheduler"]
    given = "" if total_steps else ", int(self.trainer.estimated_stepping_batches)"
    usage, own = "Derive your module from this one, or copy its method into yours.", ""
    optimizer = "self.make_optimizer()"
    if sgd is None:
        usage = (
            "Derive your module from this one, and let its make_optimizer return your optimizer."
        )
        own = _OWN_OPTIMIZER.format(lr_max=schedule.lr_max)
    else:
        imports.insert(1, "from torch.optim import SGD")
        settings = {"lr": schedule.lr_max, **sgd}
        listed = ", ".join(f"{name}={value!r}" for name, value in settings.items() if value)
        optimizer = f"SGD(self.parameters(), {listed})"
    arguments = f"optimizer{given}"
    module = _MODULE.format(usage=usage, own=own, optimizer=optimizer, arguments=arguments)
    return _source(schedule, total_steps, imports) + "\n" + module


def _source(schedule: Schedule, total_steps: int | None, imports: list[str]) -> str:
    standard = "import math\n\n" if needs_math(schedule) else ""
    function = learning_rate_function(schedule, total_steps)
    parameter = total_steps_parameter(total_steps)
    scheduler = _TORCH.format(parameter=parameter, lr_max=schedule.lr_max)
    return standard + "\n".join(imports) + "\n\n\n" + function + "\n" + scheduler


def timm_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source with one of timm's own schedulers, which have k-decay; it needs timm.

    Args:
        schedule: A schedule of one term, polynomial or cosine.
        total_steps: Optimizer updates of the training; None leaves them a parameter.

    Raises:
        InvalidSchedule: timm cannot compute this schedule; the error names another form.
    """
    known = _what_timm_has(schedule, total_steps)
    warmup = schedule.warmup_steps
    settings = {
        "t_initial": f"total_steps - {warmup}" if warmup else "total_steps",
        "lr_min": repr(schedule.lr_min),
        "k_decay": repr(known.ks[0]),
    }
    if known.family == "polynomial":
        settings["power"] = repr(known.power)
    if warmup:
        settings["warmup_t"] = str(warmup)
        settings["warmup_lr_init"] = repr(schedule.lr_max / (warmup + 1))
        settings["warmup_prefix"] = "True"
    settings["t_in_epochs"] = "False"
    return _TIMM.format(
        name="PolyLRScheduler" if known.family == "polynomial" else "CosineLRScheduler",
        parameter=total_steps_parameter(total_steps),
        title=title(schedule),
        lr_max=schedule.lr_max,
        settings="\n".join(f"        {name}={value}," for name, value in settings.items()),
    )


def _what_timm_has(schedule: Schedule, total_steps: int | None) -> KDecaySchedule:
    """The schedule, if timm can compute it.

    Raises:
        InvalidSchedule: It cannot; the error names another form.
    """
    instead = "use --as pytorch, which works with timm's models too"
    if not isinstance(schedule, KDecaySchedule):
        raise InvalidSchedule(
            "timm has k-decay in the polynomial and cosine families only, and no schedule that is "
            f"constant before its decay; {instead}"
        )
    if schedule.family == "exponential":
        raise InvalidSchedule(
            f"timm has k-decay in the polynomial and cosine families only, not in the exponential; "
            f"{instead}"
        )
    if len(schedule.ks) > 1:
        found = ", ".join(f"{k:g}" for k in schedule.ks)
        raise InvalidSchedule(
            f"timm's k-decay has one term, and this schedule has {len(schedule.ks)}, k = {found}; "
            f"{instead}"
        )
    # timm computes t**k / T**k, which overflows where (t/T)**k does not.
    if schedule.ks[0] * math.log(total_steps or MANY_STEPS) >= math.log(sys.float_info.max):
        steps = f"{total_steps or MANY_STEPS:,}"
        fix = instead if total_steps else f"give --total-steps, or {instead}"
        raise InvalidSchedule(
            f"timm computes T**k, which is too large a number for k = {schedule.ks[0]:g} and "
            f"T = {steps} updates; {fix}"
        )
    return schedule
