"""A run's schedule on a torch optimizer: by hooks of its updates, or as a scheduler of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Rate = Callable[[int], float]
"""LR of an update, counted from 0."""
Poll = Callable[[], None]
"""Raises if the run shall end."""


class Driver:
    """Sets the LR before each update of an optimizer, and polls. ``updates``: those done."""

    def __init__(self, optimizer: Optimizer, rate: Rate, poll: Poll) -> None:
        self.updates = 0
        self.rate: float | None = None
        """LR of the last update."""
        self._schedule, self._poll = rate, poll
        self._shares = _shares(optimizer)
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def _before(self, optimizer: Optimizer, *arguments: Any) -> None:
        self._poll()
        self.rate = self._schedule(self.updates)
        for group, share in zip(optimizer.param_groups, self._shares, strict=True):
            _set(group, share * self.rate)

    def _after(self, optimizer: Optimizer, *arguments: Any) -> None:
        self.updates += 1


class ScheduleLR(LRScheduler):
    """The LRs of ``rate``; call ``step()`` after every update.

    Parameter groups that differ in ``lr`` keep their ratio to the first. The state holds the
    count of updates and these ratios, and nothing else: the run knows its schedule.
    """

    def __init__(self, optimizer: Optimizer, rate: Rate, poll: Poll) -> None:
        self._schedule, self._poll = rate, poll
        self._shares = _shares(optimizer)
        self.rate: float | None = None
        """LR of the last update."""
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """After an update: set the LR of the next one. Raises if the run shall end."""
        self.rate = self._schedule(self.last_epoch) if self.last_epoch >= 0 else None
        super().step(epoch)
        if self.rate is not None:
            self._poll()

    def get_lr(self) -> list[float | Tensor]:
        rate = self._schedule(self.last_epoch)
        return [share * rate for share in self._shares]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """What torch asks for when it jumps to a step, as SequentialLR does."""
        return self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.last_epoch, "shares": list(self._shares)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; the LRs are set at once."""
        self.last_epoch, self._shares = state_dict["updates"], state_dict["shares"]
        self._step_count = self.last_epoch + 1
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            _set(group, float(rate))


def _shares(optimizer: Optimizer) -> list[float]:
    """Each parameter group's LR as a multiple of the first group's."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return [rate / rates[0] if rates[0] else 1.0 for rate in rates]


def _set(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def rates(optimizer: Optimizer) -> Sequence[float]:
    """The LR of each parameter group."""
    return [float(group["lr"]) for group in optimizer.param_groups]
