"""How far a search is, in a terminal or in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from kdecay_search.api.in_process import Listener
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.trials import State, Trial

UPDATES_PER_RUN = 100
"""How often, at most, a notebook's bar moves within one run."""


class Silent:
    """Shows nothing."""

    def planned(self, snapshot: StudySnapshot) -> None:
        """Show nothing."""

    def began(self, trial: Trial, name: str) -> None:
        """Show nothing."""

    def reported(self, share: float) -> None:
        """Show nothing."""


class _Bar:
    """Counts runs; a subclass shows them."""

    def __init__(self) -> None:
        self._total, self._done, self._name, self._best = 0.0, 0.0, "", ""
        self._runs = 0
        self._shown = -1.0

    def planned(self, snapshot: StudySnapshot) -> None:
        length, plan = snapshot.spec.task.length, snapshot.plan
        ended = (State.COMPLETE, State.PRUNED, State.FAILED)
        self._done = float(
            sum(t.state in ended and t.worker is not None for t in snapshot.attempts)
        )
        self._runs = int(self._done)
        self._total = max(snapshot.epochs_planned / length.total, self._done)
        if plan.leader.errors:
            mean = sum(plan.leader.errors.values()) / len(plan.leader.errors)
            self._best = f"best {plan.format.number(mean)}"
        self._show()

    def began(self, trial: Trial, name: str) -> None:
        self._done = float(self._runs)
        self._runs += 1
        self._name = name
        self._show()

    def reported(self, share: float) -> None:
        self._done = self._runs - 1 + share
        if abs(self._done - self._shown) * UPDATES_PER_RUN >= 1:
            self._show()

    def _text(self) -> str:
        parts = [
            f"run {self._runs} of {max(self._runs, round(self._total))}",
            self._best,
            self._name,
        ]
        return "  ".join(part for part in parts if part)

    def _show(self) -> None:
        self._shown = self._done
        self._draw(self._done, max(self._total, 1.0), self._text())

    def _draw(self, done: float, total: float, text: str) -> None:
        raise NotImplementedError


class _TerminalBar(_Bar):
    def __init__(self, progress: Any, task: Any) -> None:
        super().__init__()
        self._progress, self._task = progress, task

    def _draw(self, done: float, total: float, text: str) -> None:
        self._progress.update(self._task, completed=done, total=total, description=text)


class _NotebookBar(_Bar):
    def __init__(self, handle: Any, html: Any) -> None:
        super().__init__()
        self._handle, self._html = handle, html

    def _draw(self, done: float, total: float, text: str) -> None:
        bar = f'<progress value="{done:.3f}" max="{total:g}" style="width:240px"></progress>'
        self._handle.update(self._html(f"{bar} {escape(text)}"))


@contextmanager
def shown(wanted: bool | None) -> Iterator[Listener]:
    """A bar that moves while a search runs, and is gone afterwards.

    Args:
        wanted: Whether to show one; None means in a notebook and where stderr is a terminal.
    """
    display = _display() if wanted is not False else None
    if display is not None:
        handle = display.display(display.HTML(""), display_id=True)
        try:
            yield _NotebookBar(handle, display.HTML)
        finally:
            handle.update(display.HTML(""))
        return
    if wanted is False or not (wanted or sys.stderr.isatty()):
        yield Silent()
        return
    from rich.console import Console  # noqa: PLC0415 - slow
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _TerminalBar(progress, progress.add_task("planning", total=None))


def _display() -> Any:
    """What shows something in this notebook; None elsewhere."""
    if "ipykernel" not in sys.modules:
        return None
    ipython: Any = import_module("IPython")
    return import_module("IPython.display") if hasattr(ipython.get_ipython(), "kernel") else None
