"""Ways to run the training loop on a GPU, in one run: ``python -m benchmarks.gpu --out FILE.json``.

Each way trains the same network on the same generated images for the same number of epochs, in a
process of its own: the loop that a user would write, ours as it is, with CUDA graphs and with
torch.compile, in both precisions. The file is written after each of them, and what there is no
time for any more is left out, so that one run ends within ``--seconds``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.files import replace_object
from benchmarks.limits import wait_for
from benchmarks.plain import READY_BATCHES
from benchmarks.recording import BareRun
from benchmarks.training import CLASSES, NETWORKS, PRECISIONS, OurLoop, Setting, named, study
from kdecay_search.errors import KDecayError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.split import Split
from kdecay_search.training.device import make_deterministic, resolve_device
from kdecay_search.training.evaluation import Evaluator
from kdecay_search.training.in_memory_loader import InMemoryValidationLoader

WAYS = ("plain", "eager", "graphs", "compile")
SECONDS = 230.0
"""How long a run takes at most."""
LONGEST_JOB_SECONDS = 75.0
"""How long one way may take: compiling takes longest."""
WARM_UPS = 3
"""Updates before a graph is captured, as torch's documentation asks for."""
HELD_OUT = 1024
"""Images to measure the error on."""


class GraphedLoop(OurLoop):
    """Our loop, whose update is captured once as a CUDA graph and replayed."""

    _graph: torch.cuda.CUDAGraph | None = None

    def step(self) -> None:
        images, labels = next(self._pairs)
        rate = self._schedule(self._step, self._total_steps)
        if self._graph is None:
            self._capture(images, labels)
        assert self._graph is not None
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._rate.fill_(rate)
        self._graph.replay()
        self._averaged.update()
        self._step += 1

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        self._rate = torch.zeros((), device=self._device)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate  # zero: the warm-up changes no weights
        before = {name: value.clone() for name, value in self._model.state_dict().items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._update()
        torch.cuda.current_stream().wait_stream(stream)
        for state in self._optimizer.state.values():
            state["momentum_buffer"].zero_()
        self._model.load_state_dict(before)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._update()

    def _update(self) -> None:
        with self._autocast():
            loss = nn.functional.cross_entropy(self._model(self._images), self._labels)
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class CompiledLoop(OurLoop):
    """Our loop, whose network is compiled."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._model.compile()


LOOPS = {"eager": OurLoop, "graphs": GraphedLoop, "compile": CompiledLoop}


def generated(device: torch.device, count: int, side: int) -> Split:
    """Images of noise over a pattern of their class, which a network learns in a few epochs."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(CLASSES, 3, side // 4, side // 4, generator=generator)
    patterns = nn.functional.interpolate(patterns, side, mode="bilinear")
    labels = torch.arange(count + HELD_OUT) % CLASSES
    noise = torch.rand(len(labels), 3, side, side, generator=generator)
    images = (25 * patterns[labels] + 230 * noise).to(torch.uint8).to(device)
    labels = labels.to(device)
    train, held_out = slice(0, count), slice(count, None)
    parts = images[train], labels[train], images[held_out], labels[held_out]
    return Split(*parts, CLASSES, (127.5,) * 3, (66.0,) * 3)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Train one network in one way, and return what was measured."""
    device = resolve_device(options.device)
    spec = study(options.models[0], options.batch_size, options.epochs, DataSpec(name="digits"))
    setting = Setting(spec, generated(device, options.images, options.size), device)
    way, precision = options.job.split("-")
    model, step = _loop(setting, way, PRECISIONS[precision])
    start = time.perf_counter()
    for _ in range(READY_BATCHES):
        step()
    wait_for(device)
    setup = time.perf_counter() - start
    per_epoch = options.images // options.batch_size
    steps, speeds = options.epochs * per_epoch - READY_BATCHES, []
    for first in range(0, steps, per_epoch):
        start, count = time.perf_counter(), min(per_epoch, steps - first)
        for _ in range(count):
            step()
        wait_for(device)
        speeds.append(count * options.batch_size / (time.perf_counter() - start))
    validation = Evaluator(InMemoryValidationLoader(setting.split, device), device)
    on_gpu = device.type == "cuda"
    return {
        "images_per_second": statistics.median(speeds),
        "setup_seconds": setup,
        "error": float(validation.error(model)),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
    }


def _loop(setting: Setting, way: str, precision: str) -> tuple[nn.Module, Callable[[], None]]:
    """The network of a loop, and what makes one update of it."""
    if way == "plain":
        plain = setting.plain()
        return plain.model, plain.step
    make_deterministic(0)
    torch.manual_seed(0)
    task = setting.task.model_copy(update={"precision": precision})
    spec = setting.spec.model_copy(update={"task": task})
    run = BareRun(spec, (1.0,), 0, str(setting.device))
    loop = LOOPS[way](run, task, setting.split, setting.device)
    return loop._model, loop.step


def jobs(options: argparse.Namespace, device: torch.device) -> list[tuple[str, str]]:
    """The networks and the ways to measure, such as ``("resnet20", "graphs-bf16")``.

    What takes longest, compiling, comes last: it is what there may be no time for.
    """
    names = []
    for way in options.ways:
        if way == "plain":
            names.append("plain-fp32")
        elif way != "graphs" or device.type == "cuda":
            names += [f"{way}-{precision}" for precision in options.precisions]
    return [(model, name) for name in names for model in options.models]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that there is time for; write the file after each way."""
    device, until = resolve_device(options.device), time.monotonic() + options.seconds
    settings = ("batch_size", "images", "size", "epochs")
    report: dict[str, Any] = {
        "device": named(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        **{name: getattr(options, name) for name in settings},
        "results": [],
    }
    same = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in settings]
    for model, job in jobs(options, device):
        seconds = min(LONGEST_JOB_SECONDS, until - time.monotonic())
        command = [sys.executable, "-m", "benchmarks.gpu", "--device", options.device, *same]
        command += ["--models", model, "--job", job]
        found = _outcome(command, seconds) if seconds > 0 else {"failed": "no time was left"}
        report["results"].append({"model": model, "way": job, **found})
        print(json.dumps(report["results"][-1]), file=sys.stderr)
        _compare(report["results"], model)
        replace_object(options.out, report)
    return report


def _outcome(command: Sequence[str], seconds: float) -> dict[str, Any]:
    """What the process of one way measured, or why there is nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {seconds:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _compare(results: list[dict[str, Any]], model: str) -> None:
    """Add to each result its speed as a multiple of the plain loop's."""
    own = [each for each in results if each["model"] == model and "failed" not in each]
    plain = next((each for each in own if each["way"].startswith("plain")), None)
    for each in own if plain else []:
        assert plain is not None
        each["ratio"] = each["images_per_second"] / plain["images_per_second"]


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    result.add_argument("--device", default="auto")
    result.add_argument("--models", nargs="+", default=["resnet20", "wrn-16-8"], choices=NETWORKS)
    result.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    result.add_argument("--precisions", nargs="+", default=[*PRECISIONS], choices=PRECISIONS)
    result.add_argument("--batch-size", type=int, default=128)
    result.add_argument("--images", type=int, default=16_384)
    result.add_argument("--size", type=int, default=32, help="pixels a side")
    result.add_argument("--epochs", type=int, default=3)
    result.add_argument("--seconds", type=float, default=SECONDS, help="for all together")
    result.add_argument("--out", type=Path, default=Path("gpu.json"), help="the file to write")
    result.add_argument("--job", help=argparse.SUPPRESS)  # one way, in a process of its own
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for an error."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
    try:
        if options.job:
            print(json.dumps(measured(options)))
        else:
            measure(options)
    except KDecayError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
