"""A schedule as Python source for a training library, which runs with that library alone.

Every source has a function ``kdecay_scheduler(optimizer, total_steps)`` for an optimizer whose lr
is the schedule's lr_max. A parameter group with another lr has its ratio to that, as in the search:
one with lr 0 is frozen. A ``total_steps`` given to the export becomes that parameter's default.
"""

from __future__ import annotations

from collections.abc import Mapping

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.export.python import (
    learning_rate_function,
    needs_math,
    total_steps_parameter,
)

_TORCH = '''
class KDecayScheduler(LRScheduler):
    """Multiplies the lr of every parameter group, also of those that are added later."""

    def __init__(self, optimizer, total):
        self.total = total
        super().__init__(optimizer)

    def get_lr(self):
        share = learning_rate(self.last_epoch, self.total) / {lr_max!r}
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
