"""A run's learning-rate schedule on a torch optimizer, in user code.

:class:`LRDriver` sets the learning rate from hooks of the optimizer's updates (``run.drive``);
:class:`ScheduleLR` is a scheduler of torch (``run.scheduler``). Both set the same learning rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Rate = Callable[[int], float]
"""Gives the learning rate of an optimizer update, counted from 0."""
Poll = Callable[[], None]
"""Raises an :class:`~kdecay_search.tasks.protocol.Interruption` if the run shall end."""


class LRDriver:
    """Sets an optimizer's learning rate before each of its updates, and polls.

    Parameter groups that differ in ``lr`` keep their ratio to the first.

    Args:
        optimizer: The optimizer to drive.
        rate: The run's schedule.
        poll: Called before every update.
    """

    def __init__(self, optimizer: Optimizer, rate: Rate, poll: Poll) -> None:
        self.updates = 0
        """Number of updates that the optimizer has made."""
        self.rate: float | None = None
        """Learning rate of the last update; None before the first."""
        self._schedule, self._poll = rate, poll
        self._ratios = _ratios_to_first(optimizer)
        optimizer.register_step_pre_hook(self._before_update)
        optimizer.register_step_post_hook(self._after_update)

    def _before_update(self, optimizer: Optimizer, *arguments: Any) -> None:
        self._poll()
        self.rate = self._schedule(self.updates)
        for group, ratio in zip(optimizer.param_groups, self._ratios, strict=True):
            _set_rate(group, ratio * self.rate)

    def _after_update(self, optimizer: Optimizer, *arguments: Any) -> None:
        self.updates += 1


class ScheduleLR(LRScheduler):
    """A run's schedule as a scheduler of torch: call ``step()`` after every update.

    Parameter groups that differ in ``lr`` keep their ratio to the first. The state dict holds the
    number of updates and these ratios only, because the run knows its schedule.

    Args:
        optimizer: The optimizer whose learning rate is set.
        rate: The run's schedule.
        poll: Called after every update.
    """

    def __init__(self, optimizer: Optimizer, rate: Rate, poll: Poll) -> None:
        self._schedule, self._poll = rate, poll
        self._ratios = _ratios_to_first(optimizer)
        self.rate: float | None = None
        """Learning rate of the last update; None before the first."""
        super().__init__(optimizer)

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
        rate = self._schedule(self.last_epoch)
        return [ratio * rate for ratio in self._ratios]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """Called by torch when it jumps to a step, as ``SequentialLR`` does."""
        return self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """The number of updates and the groups' ratios."""
        return {"updates": self.last_epoch, "shares": list(self._ratios)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, and set the learning rates at once."""
        self.last_epoch, self._ratios = state_dict["updates"], state_dict["shares"]
        self._step_count = self.last_epoch + 1
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            _set_rate(group, float(rate))


def _ratios_to_first(optimizer: Optimizer) -> list[float]:
    """Each parameter group's learning rate as a multiple of the first group's."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return [rate / rates[0] if rates[0] else 1.0 for rate in rates]


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a parameter group's learning rate; one that is a tensor is changed in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
