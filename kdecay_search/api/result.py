"""What a search from Python returns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdecay_search.api.runs import Curves, Runs, runs_of
from kdecay_search.schedules.base import Schedule
from kdecay_search.search.verdict import Verdict
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study import file as study_file
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.user_tasks import PythonTask

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

TEXT_WIDTH = 120
"""Columns of a result that is printed."""
ExportForm = Literal["python", "pytorch", "huggingface", "lightning", "timm", "csv", "json"]


@dataclass(frozen=True, repr=False)
class Result:
    """What a search has found: the best schedule, and how sure it is that it is better.

    ``print(result)`` shows the tables of ``kdecay status``; in a notebook, the result shows its
    verdict and a figure.
    """

    snapshot: StudySnapshot
    """The study: its settings, its trials and the plan that follows from them."""
    steps_per_epoch: float = 1
    """Updates of an epoch, where the study counts epochs and the training function has stated
    them; else 1."""
    curves: Mapping[int, Curves] = field(default_factory=dict)
    """The curves of the runs, by trial id."""
    seconds: Mapping[int, float] = field(default_factory=dict)
    """How long the runs have trained, by trial id."""

    @property
    def spec(self) -> StudySpec:
        """The settings of the study, every default included."""
        return self.snapshot.spec

    @property
    def state(self) -> str:
        """``done``; ``stopped`` if Ctrl-C has ended the search early; ``running`` or ``failed``."""
        return self.snapshot.state

    @cached_property
    def schedule(self) -> Schedule:
        """The best schedule: ``schedule(step, total_steps)`` is the learning rate of an update.

        Its warm-up, if it has one, is that of a training as long as the search's runs.
        """
        from kdecay_search.report.winner import best_schedule  # noqa: PLC0415 - slow

        return best_schedule(self.snapshot, self.steps_per_epoch)

    @property
    def args(self) -> dict[str, Any]:
        """What the best run got as ``run.args``: your settings, and the values that the search has
        found for the parameters of your own in its space."""
        task, point = self.spec.task, self.snapshot.plan.leader.point
        stated = task.args if isinstance(task, PythonTask) else {}
        return {**stated, **dict(point.args if point else ())}

    @property
    def original(self) -> Schedule:
        """The schedule with k = 1 that the best one is compared with, at its own best level."""
        return self.snapshot.schedule_of(self.snapshot.plan.baseline, self.steps_per_epoch)

    @property
    def verdict(self) -> Verdict:
        """How the best schedule compares with the original, on validation data: ``sentence``,
        ``outcome``, ``estimate`` and ``interval``."""
        return self.snapshot.verdict

    @property
    def confirmed(self) -> Verdict | None:
        """How it compares on fresh seeds and test data; None without ``confirm_seeds``."""
        return self.snapshot.confirmed

    @cached_property
    def runs(self) -> Runs:
        """The runs, in the order in which they were begun; ``runs.to_dataframe()`` is a table."""
        return runs_of(self.snapshot, self.curves, self.seconds, self.steps_per_epoch)

    def scheduler(
        self, optimizer: Optimizer, total_steps: int, *, base_lr: float | None = None
    ) -> LRScheduler:
        """The best schedule as a scheduler of torch, for a training of any length.

        Args:
            optimizer: The learning rate of a parameter group is the schedule's, times the group's
                own ``lr`` divided by ``base_lr``. So with one group, its ``lr`` does not matter.
            total_steps: How often ``step()`` will be called: the optimizer updates of the training.
            base_lr: The ``lr`` that stands for the schedule's. By default it is the optimizer's
                own, if a group has it, and else that of the first group that is not frozen.
        """
        from kdecay_search.report.winner import best_schedule  # noqa: PLC0415 - slow
        from kdecay_search.training.lr_driver import schedule_lr  # noqa: PLC0415 - torch

        schedule = best_schedule(self.snapshot, total_steps / self.spec.task.length.total)
        return schedule_lr(optimizer, schedule, total_steps, base_lr=base_lr)

    def source(self, form: ExportForm = "python", total_steps: int | None = None) -> str:
        """The best schedule as text: as ``kdecay best --as`` prints it.

        Args:
            form: The form, such as ``python`` for ten lines that need no package.
            total_steps: Updates of the training that it is for; None leaves them as an argument.

        Raises:
            StudyError: No run is complete, or a warm-up needs ``total_steps``.
        """
        from kdecay_search.report.winner import winner_as  # noqa: PLC0415 - slow
        from kdecay_search.schedules.export import Form  # noqa: PLC0415

        return winner_as(self.snapshot, Form(form), total_steps)

    def report(self, path: str | Path) -> Path:
        """Write the report: one HTML file that works offline.

        Args:
            path: The file. Its folder is made if it is missing.

        Returns:
            The path of the file.
        """
        from kdecay_search.report import page  # noqa: PLC0415 - plotly
        from kdecay_search.report.contents import Facts  # noqa: PLC0415
        from kdecay_search.report.curves import curves_in  # noqa: PLC0415

        facts = Facts(self.snapshot, self.seconds, datetime.now(UTC))
        place = Path(path)
        page.write(place, page.report_page(facts, curves_in(self.snapshot, self.curves)))
        return place

    def study_file(self) -> str:
        """The study as a study file with every default written out, for ``kdecay launch``."""
        return study_file.to_toml(self.spec)

    def __str__(self) -> str:
        from rich.console import Console  # noqa: PLC0415 - slow

        from kdecay_search.report.text import study_panel  # noqa: PLC0415

        out = io.StringIO()
        Console(file=out, width=TEXT_WIDTH).print(study_panel(self.snapshot))
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def __repr__(self) -> str:
        return f"<Result of {self.spec.name!r}, {self.state}: {self.verdict.sentence}>"

    def _repr_html_(self) -> str:
        from kdecay_search.api.card import card  # noqa: PLC0415

        return card(self)


def sentences(result: Result) -> Sequence[str]:
    """The verdict on validation data, and the one of the confirmation if there is one."""
    confirmed = result.confirmed
    return [result.verdict.sentence, *([] if confirmed is None else [confirmed.sentence])]
