"""Compare our training loop with one that a user would write: ``python -m benchmarks.training``.

Both train the same network on the same images with the same batch size, in turns, each in a process
with the settings that it has for its users; images a second are the median of several turns. With
--data FOLDER --epochs N, both are also trained to the end and their errors are compared.

With --fuse 1,4,8, our loop is compared with itself instead: so many runs trained together in one
process, as :mod:`kdecay_search.training.fused` does, beside one run at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.arguments import counts
from benchmarks.fused_runs import FusedLoop, compared, show_fused
from benchmarks.limits import limits, wait_for
from benchmarks.plain import READY_BATCHES, Pictures, PlainLoop
from benchmarks.recording import BareRun
from kdecay_search.errors import KDecayError
from kdecay_search.study.builtin_tasks import DataSpec, ImagesTask
from kdecay_search.study.networks import ResNetSpec
from kdecay_search.study.paper_networks import PAPER_NETWORKS
from kdecay_search.study.spec import StudySpec
from kdecay_search.training import models
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import Split
from kdecay_search.training.device import make_deterministic, resolve_device
from kdecay_search.training.device_inventory import cpu_info
from kdecay_search.training.evaluation import Evaluator
from kdecay_search.training.in_memory_loader import InMemoryValidationLoader
from kdecay_search.training.seeding import forked_rng
from kdecay_search.training.trainer import Trainer
from kdecay_search.worker.devices import usable_cores
from kdecay_search.worker.local_workers import MALLOC_SETTINGS

SPAWN = multiprocessing.get_context("spawn")

NETWORKS = {
    network.title.lower().replace("resnet-", "resnet"): network.spec
    for network in reversed(PAPER_NETWORKS)  # of two with one name, the first in the list counts
    if "cifar10" in network.data_sets
} | {"quick-start": ResNetSpec(width=8)}
LR = (0.1, 0.001)
"""First and last learning rate."""
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
"""Precisions of our loop: the name in tables, and that in a study file."""
CLASSES = 10
"""Number of classes of the random images."""


class OurLoop(Trainer):
    """The loop of the image task, one update at a time."""

    def __init__(self, run: BareRun, task: ImagesTask, split: Split, device: torch.device) -> None:
        super().__init__(run, task, split, device)
        self._pairs = self._forever()

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in itertools.count(1):
            yield from self._train_loader.epoch(number)

    def step(self) -> None:
        """Train on one batch."""
        self._loss_sum += self._train_step(*next(self._pairs))


@dataclass(frozen=True)
class Setting:
    """What both loops train."""

    spec: StudySpec
    """A study with the image task."""
    split: Split
    """The images."""
    device: torch.device
    """Where to train."""

    @property
    def task(self) -> ImagesTask:
        """The image task of the study."""
        assert isinstance(self.spec.task, ImagesTask)
        return self.spec.task

    def lasting(self, steps: int) -> Setting:
        """The same setting with enough epochs for this number of updates."""
        per_epoch = len(self.split.training_labels) // self.task.batch_size
        task = self.task.model_copy(update={"epochs": math.ceil(steps / max(1, per_epoch))})
        return replace(self, spec=self.spec.model_copy(update={"task": task}))

    def ours(self, precision: str, seed: int = 0) -> OurLoop:
        """Our loop in a precision as a study file names it."""
        task = self.task.model_copy(update={"precision": precision})
        spec = self.spec.model_copy(update={"task": task})
        return OurLoop(BareRun(spec, (1.0,), seed, str(self.device)), task, self.split, self.device)

    def fused(self, runs: int) -> FusedLoop:
        """The loop of several runs that are trained together, in float32."""
        return FusedLoop(self.spec, self.task, self.split, self.device, runs)

    def plain(self, seed: int = 0) -> PlainLoop:
        """The loop that a user would write."""
        torch.manual_seed(seed)
        model = models.build(self.task.model, self.split.classes, 3)
        pictures = Pictures(
            self.split.training_images.permute(0, 2, 3, 1).cpu().numpy(),
            self.split.training_labels.cpu().numpy(),
        )
        return PlainLoop(model, pictures, self.task.batch_size, self.task.epochs, LR, self.device)


def study(model: str, batch_size: int, epochs: int, data: DataSpec) -> StudySpec:
    """A study with the image task."""
    task = ImagesTask(
        kind="images",
        epochs=epochs,
        batch_size=batch_size,
        threads=0,
        model=NETWORKS[model],
        data=data,
    )
    return StudySpec(name="benchmark", task=task)


def random_split(device: torch.device, count: int = 4096, side: int = 32) -> Split:
    """Random images, which suffice to measure speed."""
    random = np.random.default_rng(0)
    pixels = random.integers(256, size=(count, 3, side, side), dtype=np.uint8)
    images = torch.from_numpy(pixels).to(device)
    labels = torch.from_numpy(random.integers(CLASSES, size=count)).to(device)
    return Split(images, labels, images[:512], labels[:512], CLASSES, (127.5,) * 3, (73.6,) * 3)


def speeds(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Measure the images a second of each loop, as medians of the turns."""
    names = ["plain", "fp32", *(["bf16"] if has_bfloat16(device) else [])]
    times = update_seconds(names, options)
    return {name: options.batch_size / seconds for name, seconds in times.items()}


def update_seconds(names: Sequence[str], options: argparse.Namespace) -> dict[str, float]:
    """Measure the seconds of an update of each loop, as medians of the turns."""
    measured: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        loops = {name: stack.enter_context(Loop(name, options)) for name in names}
        for turn in range(options.turns + 1):
            for name, loop in loops.items():
                seconds = loop.turn()
                if turn:  # the first warms up
                    measured[name].append(seconds / options.steps)
    return {name: statistics.median(values) for name, values in measured.items()}


class Loop:
    """A training loop in a process of its own; a context manager.

    The plain loop has the default settings of Python and torch; ours has those of a worker that
    ``launch`` starts. Between its turns a loop sleeps.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, name, options))
        with _environment({} if name == "plain" else MALLOC_SETTINGS):
            self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def turn(self) -> float:
        """Train the number of updates of a turn, and return the time in seconds."""
        self._pipe.send(True)
        try:
            return float(self._pipe.recv())
        except EOFError:
            raise KDecayError("a training loop failed; its error is printed above") from None

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join()


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe: Connection, name: str, options: argparse.Namespace) -> None:
    """Train a turn for each message, until the pipe is closed."""
    setting = setting_of(options).lasting((options.turns + 1) * (options.steps + READY_BATCHES))
    if name == "plain":
        step = setting.plain().step
    else:
        make_deterministic(0)
        loop = setting.fused(int(name)) if name.isdigit() else setting.ours(PRECISIONS[name])
        step = loop.step
    with contextlib.suppress(EOFError):
        while pipe.recv():
            pipe.send(_time(setting.device, step, options.steps))


def setting_of(options: argparse.Namespace) -> Setting:
    """The setting that the options describe."""
    device = resolve_device(options.device)
    torch.set_num_threads(usable_cores())
    data = DataSpec(name="digits")
    if options.data:
        data = DataSpec(
            name="image-folder", root=options.data, subset=options.subset, image_size=options.size
        )
    spec = study(options.model, options.batch_size, max(1, options.epochs), data)
    random = partial(random_split, device, options.images, options.size)
    split = load(data, device) if options.data else random()
    return Setting(spec, split, device)


def _time(device: torch.device, step: Callable[[], None], steps: int) -> float:
    """Time in seconds of some updates in the steady state.

    The loader's processes prepare batches during the other loop's turn; these are used up before
    the clock starts.
    """
    for _ in range(READY_BATCHES):
        step()
    wait_for(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for(device)
    return time.perf_counter() - start


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware calculates in bfloat16; an emulation would only cost time."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(cpu_info()["bf16"])


def errors(setting: Setting, seeds: int, precision: str) -> dict[str, list[float]]:
    """Validation errors (%) of both loops after the same number of epochs, one for each seed."""
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    validation = Evaluator(InMemoryValidationLoader(setting.split, setting.device), setting.device)
    for seed in range(seeds):
        found["plain"].append(float(validation.error(_trained_plainly(setting, seed))))
        with forked_rng("model", seed, setting.device):
            ours = setting.ours(precision, seed)
            ours.fit()
        found["ours"].append(float(validation.error(ours._model)))
        print(f"seed {seed}: {found['plain'][-1]:.2f} {found['ours'][-1]:.2f}", file=sys.stderr)
    return found


def _trained_plainly(setting: Setting, seed: int) -> nn.Module:
    plain = setting.plain(seed)
    for _ in range(setting.task.epochs * plain.steps_per_epoch):
        plain.step()
    return plain.model


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both loops, and return the object that ``--json`` prints."""
    setting = setting_of(options)
    found = speeds(options, setting.device)
    make_deterministic(0)
    best = "bf16" if found.get("bf16", 0.0) > found["fp32"] else "fp32"
    report: dict[str, Any] = {
        "device": named(setting.device),
        "model": options.model,
        "plain_images_per_second": found["plain"],
        "ours_images_per_second": found[best],
        "ratio": found[best] / found["plain"],
        "fp32_ratio": found["fp32"] / found["plain"],
        "precision": best,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "turns": options.turns,
        "threads": torch.get_num_threads(),
        "limits": _limits(setting, best),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    if options.data and options.epochs:
        report["errors"] = errors(setting, options.seeds, PRECISIONS[best])
    return report


def measure_fused(options: argparse.Namespace) -> dict[str, Any]:
    """Measure runs trained together, and return the object that ``--fuse --json`` prints."""
    setting = setting_of(options)
    names = [f"{runs}" for runs in options.fuse]
    seconds = update_seconds(["fp32", *names], options)
    return {
        "device": named(setting.device),
        "model": options.model,
        "batch_size": options.batch_size,
        "size": options.size,
        "steps": options.steps,
        "turns": options.turns,
        "threads": torch.get_num_threads(),
        **compared(seconds["fp32"], {int(name): seconds[name] for name in names}),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _limits(setting: Setting, precision: str) -> dict[str, float]:
    dtype = getattr(torch, PRECISIONS[precision])
    model = models.build(setting.task.model, setting.split.classes, 3).to(setting.device)
    batch = setting.split.training_images[: setting.task.batch_size].float()
    return limits(model, batch, dtype)


def named(device: torch.device) -> str:
    """The name of the GPU, or that of the CPU and the number of usable cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_info()['name']}, {usable_cores()} cores"


def show(report: dict[str, Any]) -> None:
    """Print the result as text."""
    bound = report["limits"]
    print(f"{report['model']} on {report['device']}, batch {report['batch_size']}")
    print(f"  plain loop   {report['plain_images_per_second']:10,.0f} images/s")
    print(f"  ours         {report['ours_images_per_second']:10,.0f} images/s")
    print(
        f"  ratio        {report['ratio']:10.2f} ({report['precision']}); "
        f"fp32 {report['fp32_ratio']:.2f}"
    )
    for name in ("arithmetic", "memory"):
        limit = bound[f"images_per_second_by_{name}"]
        share = report["ours_images_per_second"] / limit
        print(f"  by {name:<11}{limit:10,.0f} images/s at most: {share:.0%} reached")
    for name, values in report.get("errors", {}).items():
        print(f"  error, {name}: " + ", ".join(f"{value:.2f}" for value in values) + " %")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    result.add_argument("--device", default="auto")
    result.add_argument("--model", default="resnet20", choices=sorted(NETWORKS))
    result.add_argument("--batch-size", type=int, default=128)
    result.add_argument("--size", type=int, default=32, help="pixels a side")
    result.add_argument("--images", type=int, default=4096, help="random images, without --data")
    result.add_argument("--steps", type=int, default=16, help="updates in a turn")
    result.add_argument("--turns", type=int, default=5)
    result.add_argument("--data", help="folder of images, one folder per class; default: random")
    result.add_argument("--subset", type=int, help="number of its images to use")
    result.add_argument("--epochs", type=int, default=0, help="compare errors after this number")
    result.add_argument("--seeds", type=int, default=3, help="for the comparison of errors")
    result.add_argument("--fuse", type=counts, help="numbers of runs to train together: 1,4,8")
    result.add_argument("--json", action="store_true")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for an error."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    try:
        report = (measure_fused if options.fuse else measure)(options)
    except KDecayError as error:
        print(f"benchmarks.training: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        (show_fused if options.fuse else show)(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
