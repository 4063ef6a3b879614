"""Train a point of a table, for :mod:`benchmarks.record_table`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.record_points import Point, schedule_of
from benchmarks.recording import BareRun, Column
from benchmarks.tasks import text
from kdecay_search.schedules.base import Schedule
from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Epoch, Interruption, Run
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import AnySplit
from kdecay_search.training.device import make_deterministic
from kdecay_search.training.seeding import forked_rng
from kdecay_search.training.trainer import Trainer
from kdecay_search.user_code.run import TaskRun

ScheduleMaker = Callable[[int], Schedule]
"""Makes a schedule for a number of updates."""
PointTrainer = Callable[[Point, int], tuple[Column, Column]]
"""Trains a point with a seed; returns its curves of raw and of averaged weights."""
DEVICE = "cpu"


def make_trainer(spec: StudySpec) -> PointTrainer:
    """Return the function that trains the points of a task, one after another."""
    task = spec.task
    split = load(task.data, torch.device(DEVICE)) if isinstance(task, ImagesTask) else None

    def train(point: Point, seed: int) -> tuple[Column, Column]:
        run = BareRun(spec, (1.0,), seed, DEVICE)
        make_schedule: ScheduleMaker = lambda steps: schedule_of(point, steps)  # noqa: E731
        if isinstance(task, ImagesTask) and split is not None:
            train_images(run, task, split, make_schedule)
        else:
            train_text(run, make_schedule)
        return curves_of(run.epochs, task.length.reports)

    return train


class _ScheduledTrainer(Trainer):
    """The trainer of the image task with any schedule in place of the run's."""

    def __init__(
        self, run: Run, task: ImagesTask, split: AnySplit, make_schedule: ScheduleMaker
    ) -> None:
        super().__init__(run, task, split, torch.device(DEVICE))
        self._schedule = make_schedule(self._total_steps)


def train_images(run: Run, task: ImagesTask, split: AnySplit, make_schedule: ScheduleMaker) -> None:
    """Train as :func:`kdecay_search.training.trainer.train` does, with another schedule."""
    make_deterministic(task.threads)
    with forked_rng("model", run.seed, torch.device(DEVICE)):
        _ScheduledTrainer(run, task, split, make_schedule).fit()


class _ScheduledTaskRun(TaskRun):
    """A run of own code with any schedule in place of the study's."""

    def __init__(self, run: Run, make_schedule: ScheduleMaker) -> None:
        super().__init__(run)
        self._given = make_schedule(self.total_steps)

    def schedule(self, step: int) -> float:
        return self._given(min(step, self.total_steps), self.total_steps)


def train_text(run: Run, make_schedule: ScheduleMaker) -> None:
    """Train the transformer; a training that diverges ends there."""
    try:
        text.train(_ScheduledTaskRun(run, make_schedule))
    except Interruption:
        return


def curves_of(epochs: Sequence[Epoch], length: int) -> tuple[Column, Column]:
    """Columns of full length, with None from where the training diverged."""
    raw: Column = [None] * length
    averaged: Column = [None] * length
    for epoch in epochs:
        if epoch.diverged or epoch.averaged_error is None:
            break
        raw[epoch.number - 1] = epoch.validation_error
        averaged[epoch.number - 1] = epoch.averaged_error
    return raw, averaged
