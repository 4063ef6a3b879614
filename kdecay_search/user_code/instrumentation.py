"""Observes a task in a short run: the calls that it makes, and the LRs of its optimizer."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdecay_search.user_code.run import TaskRun

Log = Callable[[str], None]
"""Takes one line of the log."""
SHOWN_CHARACTERS = 60
"""Longest argument that is logged as it is; a longer one is logged by its type."""
FREQUENT = {"poll", "schedule", "is_report_due"}
"""Methods that a task calls for every update: counted, but not logged."""
LR_TOLERANCE = 1e-6
"""Relative difference up to which two LRs are equal: some frameworks hold them as float32."""


@dataclass(frozen=True)
class Mismatch:
    """An LR that is not the schedule's times a constant ratio of its parameter group."""

    update: int
    """Number of the update, from 0."""
    group: int
    """Number of the parameter group, from 0."""
    used: float
    """The LR that the group had in this update."""
    expected: float
    """The LR that it would have by the schedule and the group's ratio."""


class LearningRates:
    """Records the LRs that each update of a torch optimizer used, whatever set them."""

    used: list[list[float]]
    """The LR of every parameter group of the first optimizer, for every update so far."""

    def __init__(self) -> None:
        self.used = []
        self._remove: Callable[[], None] | None = None
        self._optimizer: Any = None

    def start(self) -> None:
        """Record from now on, if torch is in use at all; a second call changes nothing."""
        if self._remove is not None or "torch" not in sys.modules:
            return
        from torch.optim.optimizer import (  # noqa: PLC0415 - only where the task imported torch
            register_optimizer_step_post_hook,
        )

        self._remove = register_optimizer_step_post_hook(self._record).remove

    def stop(self) -> None:
        """Stop recording."""
        if self._remove is not None:
            self._remove()

    def forget_optimizer(self) -> None:
        """Record the next optimizer that is seen: the task is called again and makes a new one."""
        self._optimizer = None

    def _record(self, optimizer: Any, *arguments: Any) -> None:
        if self._optimizer is None:
            self._optimizer = optimizer
        if optimizer is self._optimizer:
            self.used.append([float(group["lr"]) for group in optimizer.param_groups])

    def first_mismatch(
        self, schedule: Callable[[int], float], base_is_stated: bool = False
    ) -> Mismatch | None:
        """Return the first LR that does not follow the schedule; None if all do.

        The LR of a parameter group follows the schedule if it is the schedule's times a constant
        ratio, or 0 while the group is frozen. In every update one group must not be frozen.

        Args:
            schedule: Gives the LR of an update.
            base_is_stated: Whether the task stated which LR the ratios refer to. Otherwise one
                group must have the ratio 1 from the first update on.
        """
        ratios: dict[int, float] = {}
        for update, used in enumerate(self.used):
            rate = schedule(update)
            if rate and not any(used):
                return Mismatch(update, 0, 0.0, rate)
            if not (ratios or base_is_stated or any(_are_close(lr, rate) for lr in used)):
                group = next(group for group, lr in enumerate(used) if lr)
                return Mismatch(update, group, used[group], rate)
            for group, lr in enumerate(used):
                if rate and lr:
                    ratios.setdefault(group, lr / rate)
                expected = ratios.get(group, 1.0) * rate
                if lr and not _are_close(lr, expected):
                    return Mismatch(update, group, lr, expected)
        return None

    def group_ratios(self, schedule: Callable[[int], float]) -> list[float]:
        """Return the last ratio of each parameter group's LR to the schedule's; 0 if frozen."""
        ratios = [0.0] * max(map(len, self.used), default=0)
        for update, used in enumerate(self.used):
            rate = schedule(update)
            for group, lr in enumerate(used):
                if rate:
                    ratios[group] = lr / rate
        return ratios


def _are_close(one: float, other: float) -> bool:
    return abs(one - other) <= LR_TOLERANCE * max(abs(other), 1e-12)


class LoggingTaskRun:
    """Stands in for a :class:`TaskRun`: logs and counts every use of it, then passes it on."""

    def __init__(self, run: TaskRun, log: Log, rates: LearningRates, calls: Counter[str]) -> None:
        object.__setattr__(self, "_parts", (run, log, rates, calls))

    def __getattr__(self, name: str) -> Any:
        run, log, rates, calls = self._parts
        rates.start()
        value = getattr(run, name)
        if not callable(value) or name == "args":
            if not calls[name]:
                log(f"run.{name} = {_brief(value)}")
            calls[name] += 1
            return value

        def call(*arguments: Any, **keywords: Any) -> Any:
            calls[name] += 1
            if keywords.get("base_lr") is not None:
                calls["base_lr"] += 1
            if name not in FREQUENT and name != "report":
                named = [f"{keyword}={_brief(each)}" for keyword, each in keywords.items()]
                log(f"run.{name}({', '.join([*map(_brief, arguments), *named])})")
            return value(*arguments, **keywords)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        run, log, _, calls = self._parts
        setattr(run, name, value)
        calls[f"{name} ="] += 1
        log(f"run.{name} = {_brief(value)}  (set)")


def _brief(value: object) -> str:
    """Return short numbers, texts and containers as they are, and anything else by its type."""
    if isinstance(value, Path):
        return str(value)
    plain = isinstance(value, str | int | float | dict | list) or value is None
    text = repr(value)
    return text if plain and len(text) <= SHOWN_CHARACTERS else type(value).__name__
