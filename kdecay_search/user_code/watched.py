"""What a task did in a short run: the calls that it made, and the rates of its optimizer."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdecay_search.user_code.run import TaskRun

Tell = Callable[[str], None]
"""Takes one line of the protocol."""
SHOWN_LENGTH = 60
"""Characters of an argument that are told."""
FREQUENT = {"poll", "schedule"}
"""Called for every update: counted, not told."""
SAME_RATE = 1e-6
"""Relative difference up to which two LRs are the same: some frameworks hold them as float32."""


class Rates:
    """The LR that each update of a torch optimizer used, whoever set it."""

    def __init__(self) -> None:
        self.used: list[float] = []
        self._remove: Callable[[], None] | None = None
        self._optimizer: Any = None

    def listen(self) -> None:
        """From now on, if torch is in use at all."""
        if self._remove is not None or "torch" not in sys.modules:
            return
        from torch.optim.optimizer import (  # noqa: PLC0415 - only where the task imported torch
            register_optimizer_step_post_hook,
        )

        self._remove = register_optimizer_step_post_hook(self._note).remove

    def stop(self) -> None:
        if self._remove is not None:
            self._remove()

    def forget_optimizer(self) -> None:
        """The task begins anew: it will make another."""
        self._optimizer = None

    def _note(self, optimizer: Any, *arguments: Any) -> None:
        """Of the first optimizer that is seen, and of its first group: others may differ."""
        if self._optimizer is None:
            self._optimizer = optimizer
        if optimizer is self._optimizer:
            self.used.append(float(optimizer.param_groups[0]["lr"]))

    def first_wrong(self, schedule: Callable[[int], float]) -> int | None:
        """The first update whose LR was not the schedule's."""
        for step, used in enumerate(self.used):
            wanted = schedule(step)
            if abs(used - wanted) > SAME_RATE * max(abs(wanted), 1e-12):
                return step
        return None


class Watched:
    """A :class:`TaskRun` that tells every call, and counts them."""

    def __init__(self, run: TaskRun, tell: Tell, rates: Rates, calls: Counter[str]) -> None:
        object.__setattr__(self, "_parts", (run, tell, rates, calls))

    def __getattr__(self, name: str) -> Any:
        run, tell, rates, calls = self._parts
        rates.listen()
        value = getattr(run, name)
        if not callable(value) or name == "args":
            if not calls[name]:
                tell(f"run.{name} = {_brief(value)}")
            calls[name] += 1
            return value

        def call(*arguments: Any, **keywords: Any) -> Any:
            calls[name] += 1
            if name not in FREQUENT and name != "report":
                tell(f"run.{name}({_arguments(arguments, keywords)})")
            return value(*arguments, **keywords)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        run, tell, _, calls = self._parts
        setattr(run, name, value)
        calls[f"{name} ="] += 1
        tell(f"run.{name} = {_brief(value)}  (set)")


def _arguments(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    named = [f"{name}={_brief(value)}" for name, value in keywords.items()]
    return ", ".join([*map(_brief, arguments), *named])


def _brief(value: object) -> str:
    """Numbers, words and small tables as they are, everything else by its kind."""
    if isinstance(value, Path):
        return str(value)
    plain = isinstance(value, str | int | float | dict | list) or value is None
    return repr(value) if plain and len(repr(value)) <= SHOWN_LENGTH else type(value).__name__
