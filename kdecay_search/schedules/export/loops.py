"""A schedule as Python source for programs that have a training loop of their own.

nanoGPT, torchtitan and Ultralytics each take a schedule in a way of their own. In each,
the source counts optimizer updates. Every source but nanoGPT's is for an optimizer whose lr is the
schedule's lr_max; a parameter group with another lr has its ratio to that.
"""

from __future__ import annotations

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.export.python import (
    learning_rate_function,
    needs_math,
)

_NANOGPT = '''
def get_lr(it):
    """In place of train.py's function of this name. it counts updates, as in train.py."""
    return learning_rate(it, {total_or_theirs})
'''

_TORCHTITAN = '''
class KDecay(LRSchedulersContainer):
    """In a config function of torchtitan: Trainer.Config(lr_scheduler=KDecay.Config(), ...), with
    an optimizer made with lr={lr_max!r}. Without total_steps, it has training.steps."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        warmup_steps: int = {warmup}  # for torchtitan's log alone
        total_steps: int | None = {total_steps}

        def build(self, *, optimizers, training_steps):
            total = self.total_steps or training_steps
            return KDecay(optimizers, lambda step: learning_rate(step, total) / {lr_max!r})
'''

_ULTRALYTICS = '''
class KDecay:
    """A callback of Ultralytics: model.add_callback("on_train_start", KDecay()). Then
    model.train(lr0={lr_max!r}, warmup_epochs=0, ...), with an optimizer other than "auto"."""

    def __init__(self, total_steps={total_steps}):
        self.total_steps = total_steps

    def __call__(self, trainer):
        if trainer.args.warmup_epochs or trainer.args.time:
            raise ValueError("KDecay counts updates: train with warmup_epochs=0 and without time")
        batches = len(trainer.train_loader)
        total = self.total_steps or trainer.epochs * batches // trainer.accumulate
        done = trainer.start_epoch * batches // trainer.accumulate  # of a resumed training

        def set_rates(optimizer, *_):
            nonlocal done
            share = learning_rate(done, total) / {lr_max!r}
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            done += 1

        trainer.optimizer.register_step_pre_hook(set_rates)
'''


def nanogpt_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source of ``get_lr(it)`` for nanoGPT's ``train.py``; it needs the standard library.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; None takes ``lr_decay_iters`` of
            ``train.py``.

    Raises:
        InvalidSchedule: The schedule is neither a k-decay schedule nor a cooldown, or its warm-up
            does not fit into ``total_steps``.
    """
    source = _source(schedule, total_steps, [], _NANOGPT)
    # train.py has a number of the name learning_rate.
    return source.replace("learning_rate(", "_learning_rate(")


def torchtitan_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source with a configuration of torchtitan's schedulers; it needs torchtitan.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; None takes ``training.steps``.

    Raises:
        InvalidSchedule: The schedule is neither a k-decay schedule nor a cooldown, or its warm-up
            does not fit into ``total_steps``.
    """
    imports = [
        "from dataclasses import dataclass\n",
        "from torchtitan.components.optimizer import LRSchedulersContainer",
    ]
    return _source(schedule, total_steps, imports, _TORCHTITAN)


def ultralytics_source(schedule: Schedule, total_steps: int | None = None) -> str:
    """Source of a callback of Ultralytics; it needs the standard library.

    Args:
        schedule: The schedule to write.
        total_steps: Optimizer updates of the training; with None, the callback counts them.

    Raises:
        InvalidSchedule: The schedule is neither a k-decay schedule nor a cooldown, or its warm-up
            does not fit into ``total_steps``.
    """
    return _source(schedule, total_steps, [], _ULTRALYTICS)


def _source(schedule: Schedule, total_steps: int | None, imports: list[str], then: str) -> str:
    """The imports, the function ``learning_rate``, and what uses it."""
    function = learning_rate_function(schedule, total_steps)
    used = then.format(
        lr_max=schedule.lr_max,
        warmup=schedule.warmup_steps,
        total_steps=total_steps,
        total_or_theirs=total_steps or "lr_decay_iters",
    )
    lines = (["import math"] if needs_math(schedule) else []) + imports
    head = "\n".join(lines) + "\n\n\n" if lines else ""
    return head + function + ("\n" + used if used else "")
