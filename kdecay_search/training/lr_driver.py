"""A run's learning-rate schedule on a torch optimizer, in user code.

:class:`LRDriver` sets the learning rate from hooks of the optimizer's updates (``run.drive``);
:class:`ScheduleLR` is a scheduler of torch (``run.scheduler``). Both set the same learning rates:
each parameter group's is the schedule's times a constant ratio (:class:`GroupRatios`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdecay_search.errors import TaskError
from kdecay_search.schedules.base import Schedule
from kdecay_search.training.kdecay_lr import set_rate

Rate = Callable[[int], float]
"""Gives the learning rate of an optimizer update, counted from 0."""
Poll = Callable[[], None]
"""Raises an :class:`~kdecay_search.tasks.protocol.Interruption` if the run shall end."""

BASE = "kdecay_base_lr"
"""Key of a parameter group: the ``lr`` that stood for the schedule's when the group was added."""


class GroupRatios:
    """The ratio of each parameter group's learning rate to that of the schedule.

    A group's ratio is its own ``lr``, as it was when the group was added, divided by a base. So a
    group with ``lr`` 0 is frozen and stays so. Groups may be added at any time.

    A group's first learning rate is kept in the group as ``initial_lr``, as torch's schedulers do,
    and the base beside it: they are a part of the optimizer's state, so a run that resumes has the
    same ratios.

    Args:
        optimizer: The optimizer whose groups are driven.
        base_lr: The ``lr`` that stands for the schedule's. None is the optimizer's own default, as
            in ``SGD(groups, lr=0.1)``, if a group has it, and else the ``lr`` of the first group
            that is not frozen.

    Raises:
        TaskError: ``base_lr`` is not a number above 0, or it is None and all groups are frozen.
    """

    def __init__(self, optimizer: Optimizer, base_lr: float | None = None) -> None:
        self._optimizer = optimizer
        self.initial = [
            float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups
        ]
        """First learning rate of each parameter group seen so far."""
        if base_lr is None:
            default = float(optimizer.defaults.get("lr", 0.0))
            rates = [rate for rate in self.initial if rate]
            base_lr = default if default in rates else next(iter(rates), None)
            if base_lr is None:
                raise TaskError(
                    "every parameter group of the optimizer has lr 0, and so is frozen: give it a "
                    "learning rate above 0, or state base_lr if groups are added later"
                )
        elif (
            isinstance(base_lr, bool)
            or not isinstance(base_lr, Real)
            or not (math.isfinite(base_lr) and base_lr > 0)
        ):
            raise TaskError(f"base_lr={base_lr!r}: must be a number above 0, such as 0.1")
        self.base = float(base_lr)
        """The ``lr`` of a group whose learning rate is the schedule's own."""

    def rates(self, rate: float) -> list[float]:
        """Learning rate of each parameter group when the schedule's is ``rate``."""
        groups = self._optimizer.param_groups
        for index, group in enumerate(groups):
            if index == len(self.initial):
                self.initial.append(float(group.get("initial_lr", group["lr"])))
            # Missing in new groups, and in the state of optimizers of earlier versions.
            group.setdefault("initial_lr", self.initial[index])
            group.setdefault(BASE, self.base)
        return [float(group["initial_lr"]) / group[BASE] * rate for group in groups]


class LRDriver:
    """Sets an optimizer's learning rate before each of its updates, and polls.

    Args:
        optimizer: The optimizer to drive.
        rate: The run's schedule.
        poll: Called before every update.
        base_lr: The ``lr`` that stands for the schedule's; see :class:`GroupRatios`.
    """

    def __init__(
        self, optimizer: Optimizer, rate: Rate, poll: Poll, base_lr: float | None = None
    ) -> None:
        self.updates = 0
        """Number of updates that the optimizer has made."""
        self.rate: float | None = None
        """The schedule's learning rate at the last update; None before the first."""
        self._schedule, self._poll = rate, poll
        self._ratios = GroupRatios(optimizer, base_lr)
        optimizer.register_step_pre_hook(self._before_update)
        optimizer.register_step_post_hook(self._after_update)

    def _before_update(self, optimizer: Optimizer, *arguments: Any) -> None:
        self._poll()
        self.rate = self._schedule(self.updates)
        rates = self._ratios.rates(self.rate)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            set_rate(group, rate)

    def _after_update(self, optimizer: Optimizer, *arguments: Any) -> None:
        self.updates += 1


class ScheduleLR(LRScheduler):
    """A run's schedule as a scheduler of torch: call ``step()`` after every update.

    The state dict holds the number of updates, the base and the groups' first learning rates only,
    because the run knows its schedule.

    Args:
        optimizer: The optimizer whose learning rate is set.
        rate: The run's schedule.
        poll: Called after every update.
        base_lr: The ``lr`` that stands for the schedule's; see :class:`GroupRatios`.
    """

    def __init__(
        self, optimizer: Optimizer, rate: Rate, poll: Poll, base_lr: float | None = None
    ) -> None:
        self._schedule, self._poll = rate, poll
        self._ratios = GroupRatios(optimizer, base_lr)
        self.rate: float | None = None
        """The schedule's learning rate at the last update; None before the first."""
        super().__init__(optimizer)
        optimizer.register_step_pre_hook(self._set_new_groups)

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rate of the next update. Call this after every update.

        Raises:
            Interruption: The run shall end.
        """
        self.rate = self._schedule(self.last_epoch) if self.last_epoch >= 0 else None
        super().step(epoch)
        if self.rate is not None:
            self._poll()

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of the next update for each parameter group."""
        return [*self._ratios.rates(self._schedule(self.last_epoch))]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """Called by torch when it jumps to a step, as ``SequentialLR`` does."""
        return self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, the base, and the groups' first learning rates."""
        groups = self.optimizer.param_groups
        initial = [float(group.get("initial_lr", group["lr"])) for group in groups]
        return {"updates": self.last_epoch, "base_lr": self._ratios.base, "initial_lrs": initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, and set the learning rates at once."""
        self.last_epoch = state_dict["updates"]
        if "shares" in state_dict:  # of an earlier version, which kept the ratios themselves
            state_dict = {"base_lr": 1.0, "initial_lrs": state_dict["shares"]}
        self._ratios.base = state_dict["base_lr"]
        self._ratios.initial = list(state_dict["initial_lrs"])
        for group, initial in zip(self.optimizer.param_groups, self._ratios.initial, strict=False):
            group["initial_lr"], group[BASE] = initial, self._ratios.base
        self._step_count = self.last_epoch + 1
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            set_rate(group, float(rate))

    def _set_new_groups(self, optimizer: Optimizer, *arguments: Any) -> None:
        """Before an update, set the learning rate of groups added since the last ``step()``."""
        groups = optimizer.param_groups
        new = [index for index, group in enumerate(groups) if "initial_lr" not in group]
        if new and self.last_epoch >= 0:
            rates = self.get_lr()
            for index in new:
                set_rate(groups[index], float(rates[index]))


def schedule_lr(
    optimizer: Optimizer, schedule: Schedule, total_steps: int, *, base_lr: float | None = None
) -> ScheduleLR:
    """Any schedule as a scheduler of torch.

    Args:
        optimizer: The learning rate of a parameter group is the schedule's, times the group's own
            ``lr`` divided by ``base_lr``. So with one group, its ``lr`` does not matter.
        schedule: The schedule, such as one of ``suggest_schedule``.
        total_steps: How often ``step()`` will be called: the optimizer updates of the training.
            Further calls leave the learning rate as it is.
        base_lr: The ``lr`` that stands for the schedule's; see :class:`GroupRatios`.

    Raises:
        InvalidSchedule: The training ends with the warm-up.
    """
    schedule(0, total_steps)
    return ScheduleLR(
        optimizer, lambda step: schedule(min(step, total_steps), total_steps), lambda: None, base_lr
    )
