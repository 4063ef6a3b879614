"""``KDecayLR``: k-decay (arXiv:2004.05909) as a learning-rate scheduler of torch."""

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
    """Scheduler that anneals every parameter group's learning rate by k-decay.

    Each group starts at its own ``lr`` and ends at ``lr_min``. A group with ``lr`` 0 is frozen and
    stays so. The learning rate of a step is computed from the step's number alone, so a training
    that is resumed from a state dict, at any step, continues with the same learning rates to the
    last bit.

    Groups may be added later: such a group has the learning rate that it would have if it had been
    there from the start with its ``lr``.

    Args:
        optimizer: The optimizer whose learning rates are set.
        total_steps: How often ``step()`` will be called: epochs · batches if it is called after
            every batch, as in the paper, or epochs if it is called after every epoch. Further calls
            leave the learning rate at ``lr_min``.
        ks: Exponents k_1 < k_2 < … of the schedule (eq. 14 of arXiv:2004.05909); one exponent gives
            eq. 10. ``(1.0,)`` is the plain schedule of the family.
        family: ``polynomial`` (eq. 11), ``cosine`` (eq. 12) or ``exponential`` (eq. 13).
        power: Exponent N of the polynomial (eq. 11); must be 1 in the other families.
        lr_min: Learning rate at the end: one number for all parameter groups, or a list with one
            for each. It is absolute, as in torch's schedulers, so that the learning rates are those
            of the search to the last bit.
        warmup_steps: Steps of linear warm-up; they are a part of ``total_steps``.
        last_epoch: Number of steps made minus one, if the optimizer's groups have an ``initial_lr``
            from an earlier training; -1 starts a new one.

    Raises:
        InvalidSchedule: A setting is outside its domain (a ``ValueError``).
    """

    total_steps: int
    """How often ``step()`` will be called."""
    family: Family
    """Family of the schedule: polynomial, cosine or exponential."""
    ks: tuple[float, ...]
    """Exponents of the schedule, in increasing order."""
    power: float
    """Exponent N of the polynomial family."""
    lr_min: list[float]
    """Learning rate at the end, for each parameter group."""
    warmup_steps: int
    """Number of warm-up steps."""

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
        # Numbers and strings only: they make the state dict, which torch.load reads safely.
        self.total_steps = int(total_steps)
        self.family = family
        self.ks = checked.ks
        self.power = checked.power
        self.lr_min = _one_per_group(lr_min, len(optimizer.param_groups))
        self.warmup_steps = checked.warmup_steps
        for group, end in zip(optimizer.param_groups, self.lr_min, strict=True):
            self._rate(0, float(group.get("initial_lr", group["lr"])), end)
        super().__init__(optimizer, last_epoch)
        optimizer.register_step_pre_hook(self._set_new_groups)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each parameter group at the present step.

        Raises:
            InvalidSchedule: A group was added to an optimizer whose groups differ in ``lr_min``, or
                its ``lr`` is below ``lr_min``.
        """
        groups = self.optimizer.param_groups
        for group in groups[len(self.base_lrs) :]:
            if len(set(self.lr_min)) > 1:
                raise InvalidSchedule(
                    f"lr_min={self.lr_min!r} has no number for a parameter group that was added "
                    "later; give one number for all groups"
                )
            self.base_lrs.append(float(group.setdefault("initial_lr", float(group["lr"]))))
            self.lr_min.append(self.lr_min[0])
        return [
            self._rate(self.last_epoch, float(lr_max), lr_min)
            for _, lr_max, lr_min in zip(groups, self.base_lrs, self.lr_min, strict=False)
        ]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """Called by torch when it jumps to a step, as ``SequentialLR`` does."""
        return self.get_lr()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict and set the learning rates at once.

        The optimizer's own state may be loaded before or after this, or not at all.
        """
        super().load_state_dict(state_dict)
        for group, rate in zip(self.optimizer.param_groups, self.get_last_lr(), strict=False):
            set_rate(group, float(rate))

    def _rate(self, step: int, lr_max: float, lr_min: float) -> float:
        """Learning rate at ``step`` of a group that starts at ``lr_max``; 0 if it is frozen."""
        if not lr_max:
            return 0.0
        settings = self.family, tuple(self.ks), self.power, lr_max, lr_min, self.warmup_steps
        return _schedule(*settings)(min(step, self.total_steps), self.total_steps)

    def _set_new_groups(self, optimizer: Optimizer, *arguments: Any) -> None:
        """Before an update, set the learning rate of groups added since the last ``step()``."""
        groups, known = optimizer.param_groups, len(self.base_lrs)
        if len(groups) > known and self.last_epoch >= 0:
            for group, rate in zip(groups[known:], self.get_lr()[known:], strict=True):
                set_rate(group, float(rate))


# Cached, because checking the parameters takes longer than computing a learning rate.
_schedule = lru_cache(maxsize=1024)(KDecaySchedule)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a parameter group's learning rate; one that is a tensor is changed in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _one_per_group(lr_min: float | Sequence[float], groups: int) -> list[float]:
    """``lr_min`` as one number for each of ``groups`` parameter groups."""
    if isinstance(lr_min, str) or not isinstance(lr_min, Sequence):
        return [number("lr_min", lr_min)] * groups
    if len(lr_min) != groups:
        raise InvalidSchedule(
            f"lr_min={lr_min!r} must be one number, or {groups}: one per parameter group"
        )
    return [number(f"lr_min[{i}]", value) for i, value in enumerate(lr_min)]
