"""Train one run to its end with several averages at once, for :mod:`benchmarks.record`.

torch is imported only for studies that train networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.curves import AVERAGED, RAW
from kdecay_search.study.builtin_tasks import ImagesTask, SimulatedTask
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Epoch
from kdecay_search.tasks.simulated import curve

TRAIN_LOSS = "train_loss"
DIVERGED_ERROR = 100.0
"""Error (%) that a recording holds for a training that has diverged."""

Column = list[float | None]
"""A value after each epoch; None for a training loss that is not finite."""
Recorded = dict[str, Column]
"""The columns of a run by name: ``raw``, ``averaged_W`` and ``train_loss``."""
Recorder = Callable[[float, int], Recorded]
"""Trains a k with a seed to the end."""


def averaged_name(window: float) -> str:
    """Name of the column of weights averaged with a half-life of ``window`` epochs."""
    return f"{AVERAGED}{window:g}"


def make_recorder(spec: StudySpec, windows: Sequence[float], device: str) -> Recorder:
    """Return the function that trains the task of a study."""
    task = spec.task
    if isinstance(task, SimulatedTask):
        return lambda k, seed: simulated(task, windows[0], k, seed)
    return lambda k, seed: images(spec, task, windows, device, k, seed)


def simulated(task: SimulatedTask, window: float, k: float, seed: int) -> Recorded:
    """Simulate a run. The simulated task has one averaged error, recorded as that of ``window``."""
    epochs = curve(task, [k], seed)
    averaged: Column = [epoch.averaged_error for epoch in epochs]
    return _columns(epochs, {averaged_name(window): averaged}, task.length.reports)


@dataclass
class BareRun:
    """A run as a task sees it (:class:`kdecay_search.tasks.protocol.Run`), never interrupted."""

    spec: StudySpec
    ks: tuple[float, ...]
    seed: int
    device: str
    epochs: list[Epoch] = field(default_factory=list)
    checkpoint: None = None
    comparator: None = None
    lr_max: None = None
    point: None = None

    def restore(self, epochs: Sequence[Epoch]) -> None:
        pass

    def report(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def poll(self) -> None:
        pass


def images(
    spec: StudySpec, task: ImagesTask, windows: Sequence[float], device: str, k: float, seed: int
) -> Recorded:
    """Train the image task once, with its weights averaged over each of ``windows``."""
    from benchmarks.averages import train  # noqa: PLC0415 - torch, only where it is needed

    run = BareRun(spec, (k,), seed, device)
    averaged = train(run, task, windows)
    named = {averaged_name(window): column for window, column in averaged.items()}
    return _columns(run.epochs, named, task.length.reports)


def _columns(epochs: Sequence[Epoch], averaged: dict[str, Column], length: int) -> Recorded:
    """Columns of full length, also for a training that diverged before its end."""
    missing = length - len(epochs)
    failed: Column = [DIVERGED_ERROR] * missing
    raw: Column = [DIVERGED_ERROR if e.diverged else e.validation_error for e in epochs]
    losses = [epoch.training_loss for epoch in epochs]
    loss: Column = [v if v is not None and math.isfinite(v) else None for v in losses]
    columns = {RAW: raw + failed}
    columns |= {name: column + failed for name, column in averaged.items()}
    return columns | {TRAIN_LOSS: loss + [None] * missing}
