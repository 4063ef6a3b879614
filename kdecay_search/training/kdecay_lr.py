"""k-decay as a scheduler of torch, for training loops of your own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.checks import number
from kdecay_search.schedules.kdecay import Family, KDecaySchedule


class KDecayLR(LRScheduler):
    """Sets each parameter group's LR by k-decay, from the group's own ``lr`` down to ``lr_min``.

    ``total_steps``: how often ``step()`` will be called: epochs · batches where it is called after
    every batch, as in the paper, or epochs where it is called after every epoch. Calls beyond that
    leave the LR at ``lr_min``.
    ``ks``, ``family``, ``power``, ``warmup_steps``: as :class:`~kdecay_search.KDecaySchedule` and
    ``kdecay best`` have them; the warm-up is a part of ``total_steps``.
    ``lr_min``: the LR at the end, one number for all parameter groups or one for each. It is
    absolute, as in torch's schedulers, so that the LRs are those of the search to the bit.
    ``last_epoch``: the steps done, less one, where the optimizer's groups have an ``initial_lr``
    from before; -1 starts anew.

    The LR of a step is computed from its number alone (a closed form): loading a state dict, at
    any step, goes on with the same bits. Raises InvalidSchedule (a ValueError).
    """

    total_steps: int
    family: Family
    ks: tuple[float, ...]
    power: float
    lr_min: list[float]
    warmup_steps: int

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        ks: Sequence[float] = (1.0,),
        family: Family = "polynomial",
        power: float = 1.0,
        lr_min: float | Sequence[float] = 0.0,
        warmup_steps: int = 0,
        last_epoch: int = -1,
    ) -> None:
        if isinstance(total_steps, bool) or not isinstance(total_steps, Integral):
            raise InvalidSchedule(
                f"total_steps={total_steps!r} must be a whole number; count the calls of step()"
            )
        checked = KDecaySchedule(family, ks, power, warmup_steps=warmup_steps)
        checked(0, int(total_steps))
        # Numbers and strings only: they are the state dict, which torch.load reads without trust.
        self.total_steps = int(total_steps)
        self.family = family
        self.ks = checked.ks
        self.power = checked.power
        self.lr_min = _one_each(lr_min, len(optimizer.param_groups))
        self.warmup_steps = checked.warmup_steps
        for group, end in zip(optimizer.param_groups, self.lr_min, strict=True):
            self._schedule(float(group.get("initial_lr", group["lr"])), end)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each parameter group at the present step."""
        step = min(self.last_epoch, self.total_steps)
        return [
            self._schedule(float(lr_max), lr_min)(step, self.total_steps)
            for lr_max, lr_min in zip(self.base_lrs, self.lr_min, strict=True)
        ]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """What torch asks for when it jumps to a step, as SequentialLR does."""
        return self.get_lr()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state dict. The LRs are set at once, before or after the optimizer's own
        state is loaded, or without it."""
        super().load_state_dict(state_dict)
        for group, rate in zip(self.optimizer.param_groups, self.get_last_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _schedule(self, lr_max: float, lr_min: float) -> KDecaySchedule:
        return _schedule(self.family, tuple(self.ks), self.power, lr_max, lr_min, self.warmup_steps)


# Checking the parameters takes longer than computing an LR.
_schedule = lru_cache(maxsize=1024)(KDecaySchedule)


def _one_each(lr_min: float | Sequence[float], groups: int) -> list[float]:
    if isinstance(lr_min, str) or not isinstance(lr_min, Sequence):
        return [number("lr_min", lr_min)] * groups
    if len(lr_min) != groups:
        raise InvalidSchedule(
            f"lr_min={lr_min!r} must be one number, or {groups}: one per parameter group"
        )
    return [number(f"lr_min[{i}]", value) for i, value in enumerate(lr_min)]
