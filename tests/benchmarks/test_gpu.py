"""The benchmark that a GPU machine gets, small and on the CPU: all but CUDA graphs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu
from kdecay_search.study.builtin_tasks import DataSpec

SMALL = ["--device", "cpu", "--batch-size", "16", "--images", "96", "--size", "16", "--epochs", "1"]


def options(*more: str) -> argparse.Namespace:
    return gpu.parser().parse_args([*SMALL, *more])


@pytest.mark.parametrize("job", ["plain-fp32", "eager-fp32"])
def test_a_way_is_measured(job: str) -> None:
    found = gpu.measured(options("--models", "resnet20", "--job", job))
    assert found["images_per_second"] > 0
    assert found["setup_seconds"] > 0
    assert 0 <= found["error"] <= 100
    assert found["peak_bytes"] is None


def loop(way: str) -> gpu.OurLoop:
    given = options("--models", "resnet20", "--epochs", "2")
    device = torch.device("cpu")
    spec = gpu.study("resnet20", given.batch_size, given.epochs, DataSpec(name="digits"))
    setting = gpu.Setting(spec, gpu.generated(device, given.images, given.size), device)
    _, step = gpu._loop(setting, way, "float32")
    for _ in range(8):
        step()
    return step.__self__  # type: ignore[attr-defined,no-any-return]


def test_a_graph_makes_the_same_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with a stand-in that records an update without making it, and makes it again."""

    @contextmanager
    def recording(graph: SimpleNamespace) -> Iterator[None]:
        (graphed,) = made
        parts = graphed._model, graphed._optimizer
        before = [deepcopy(part.state_dict()) for part in parts]
        yield
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        for group in graphed._optimizer.param_groups:
            group["lr"] = graphed._rate
        graph.replay = graphed._update

    made: list[gpu.GraphedLoop] = []
    capture = gpu.GraphedLoop._capture
    monkeypatch.setattr(
        gpu.GraphedLoop, "_capture", lambda self, *batch: (made.append(self), capture(self, *batch))
    )
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda used: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    graphed, eager = loop("graphs"), loop("eager")
    assert graphed._step == eager._step == 8
    for several, one in ((graphed._model, eager._model),
                         (graphed._averaged.model, eager._averaged.model)):  # fmt: skip
        for name, value in one.state_dict().items():
            torch.testing.assert_close(several.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_what_there_is_no_time_for_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    report = gpu.measure(options("--out", str(file), "--seconds", "0"))
    assert json.loads(file.read_text()) == report
    assert {each["failed"] for each in report["results"]} == {"no time was left"}
    names = [each["way"] for each in report["results"] if each["model"] == "wrn-16-8"]
    assert names == ["plain-fp32", "eager-fp32", "eager-bf16", "compile-fp32", "compile-bf16"]
    on_gpu = gpu.jobs(options(), torch.device("cuda"))
    assert ("resnet20", "graphs-bf16") in on_gpu
    assert [way.partition("-")[0] for _, way in on_gpu] == (
        ["plain"] * 2 + ["eager"] * 4 + ["graphs"] * 4 + ["compile"] * 4
    )


def test_a_way_that_fails_says_why(tmp_path: Path) -> None:
    found = gpu._outcome(["sh", "-c", "echo before >&2; echo CUDA error >&2; exit 1"], 60.0)
    assert found == {"failed": "CUDA error"}
    assert gpu._outcome(["sleep", "60"], 0.1) == {"failed": "took longer than 0 s"}
    results = [
        {"model": "a", "way": "plain-fp32", "images_per_second": 100.0},
        {"model": "a", "way": "graphs-bf16", "images_per_second": 450.0},
        {"model": "a", "way": "compile-bf16", "failed": "no time was left"},
    ]
    gpu._compare(results, "a")
    assert [each.get("ratio") for each in results] == [1.0, 4.5, None]
