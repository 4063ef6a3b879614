"""Runs of the built-in image task on two ranks: ``python -m tests.support.two_ranks JSON``.

Both ranks train the same list of runs, one after the other; each prints a JSON list of what it has
recorded. :func:`recorded` trains one in the calling process alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdecay_search.tasks.protocol import Epoch, Released
from kdecay_search.training import trainer
from kdecay_search.training.models import build
from kdecay_search.training.process_group import ALONE, ProcessGroup
from kdecay_search.user_code.ranks import rendezvous
from tests.support.kdecay_command import TIMEOUT_SECONDS
from tests.support.recorded_run import RecordedRun

ROOT = Path(__file__).parents[2]


class Network(nn.Module):
    """A network in float64. ``chunks``: the parts of a batch that batch norm normalises alone."""

    def __init__(self, inner: nn.Module, chunks: int) -> None:
        super().__init__()
        self.inner, self.chunks = inner.double(), chunks

    def forward(self, images: Tensor) -> Tensor:
        parts = images.double().tensor_split(self.chunks if self.training else 1)
        return torch.cat([self.inner(part) for part in parts])


def plain(_model: object, classes: int, channels: int, *more: nn.Module) -> nn.Module:
    """A network without batch norm."""
    layers = [nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), *more]
    return nn.Sequential(*layers, nn.Linear(72, classes))


def dropout(_model: object, classes: int, channels: int) -> nn.Module:
    return plain(_model, classes, channels, nn.Dropout(0.2))


NETWORKS = {"plain": plain, "dropout": dropout, "built-in": build}


class Stopped(RecordedRun):
    """A run that is released at a poll, by its number from 1; at none if that is None."""

    rank, world_size = 0, 1
    last: int | None = None

    def poll(self) -> None:
        super().poll()
        if self.polls == self.last:
            raise Released


def recorded(
    group: ProcessGroup = ALONE,
    network: str = "plain",
    chunks: int = 1,
    stops_at: int | None = None,
    folder: str | None = None,
    **task: Any,
) -> dict[str, Any]:
    """Train one run; return its reports and whether it was interrupted."""
    data = {"name": "digits", "subset": 320, "validation": 0.25}
    whole = {"kind": "images", "epochs": 3, "batch_size": 50, "model": {"width": 4}, "data": data}
    run = Stopped(folder and Path(folder), task=whole | task)
    run.last, run.rank, run.world_size = stops_at, group.rank, group.size

    def built(*arguments: Any) -> nn.Module:
        return Network(NETWORKS[network](*arguments), chunks)

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the sum of losses
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer.models, "build", built)
            patch.setattr(trainer, "process_group", lambda *_: nullcontext(group))
            trainer.train(run)
        is_whole = True
    except Released:
        is_whole = False
    finally:
        torch.set_default_dtype(before)
    curve = [astuple(epoch) for epoch in [*run.restored, *run.epochs]]
    return {"curve": curve, "restored": len(run.restored), "is_whole": is_whole}


def on_two_ranks(*runs: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train runs on two ranks, each with these arguments of :func:`recorded`."""
    environment = {**os.environ, **rendezvous(2), "OMP_NUM_THREADS": "1"}
    start = partial(subprocess.Popen, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    command = [sys.executable, "-m", "tests.support.two_ranks", json.dumps(runs)]
    ranks = [start(command, env={**environment, "RANK": str(rank)}) for rank in range(2)]
    try:
        outputs = [rank.communicate(timeout=TIMEOUT_SECONDS)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    return first, second


def epochs(found: dict[str, Any]) -> list[Epoch]:
    return [Epoch(*values) for values in found["curve"]]


def main() -> None:
    torch.distributed.init_process_group("gloo")
    group = ProcessGroup(int(os.environ["RANK"]), 2)
    print(json.dumps([recorded(group, **run) for run in json.loads(sys.argv[1])]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
