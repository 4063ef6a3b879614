"""Runs that are trained together in one process, for :mod:`benchmarks.training`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.recording import BareRun
from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.spec import StudySpec
from kdecay_search.training.data.split import Split
from kdecay_search.training.data_loaders import make_data_loaders
from kdecay_search.training.fused.trainer import FusedTraining, Member


class FusedLoop(FusedTraining):
    """The loop of runs of one seed that are trained together, in the precision of the task.

    Args:
        spec: A study with the image task.
        task: Its task.
        split: The images.
        device: Where to train.
        runs: The number of runs; they differ in k.
    """

    def __init__(
        self, spec: StudySpec, task: ImagesTask, split: Split, device: torch.device, runs: int
    ) -> None:
        loaders = make_data_loaders(task, split, 0, device, spec.workers.decoders)
        members = []
        for number in range(runs):
            run = BareRun(spec, (1.0 + number,), 0, str(device))
            members.append(Member(run, task, split, device, loaders=loaders))
            members[-1].resume()
        super().__init__(members, loaders, task, device, lambda run, error: None)

    def step(self) -> None:
        """Train every run on one batch."""
        self._train_step(*next(self._pairs))

    @cached_property
    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (pair for number in itertools.count(1) for pair in self._loader.epoch(number))


def compared(alone: float, together: Mapping[int, float]) -> dict[str, Any]:
    """The times of one run at a time and of several runs together, as ``--fuse --json`` has them.

    Args:
        alone: Seconds of an update of one run.
        together: Seconds of an update of all runs, by their number.
    """
    fused = [
        {"runs": runs, "ms_per_run": 1e3 * seconds / runs, "ratio": alone * runs / seconds}
        for runs, seconds in together.items()
    ]
    return {"alone_ms": 1e3 * alone, "fused": fused}


def show_fused(report: dict[str, Any]) -> None:
    """Print as text what ``--fuse`` has measured."""
    print(f"{report['model']} on {report['device']}, batch {report['batch_size']}")
    print(f"  one run at a time {report['alone_ms']:10.2f} ms for an update")
    for each in report["fused"]:
        time, ratio = f"{each['ms_per_run']:10.2f} ms", f"{each['ratio']:.2f}"
        print(f"  {each['runs']:3} runs together {time} for an update of each: ratio {ratio}")
