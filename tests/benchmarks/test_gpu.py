"""The benchmark that a GPU machine gets, small and on the CPU: all but CUDA graphs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

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


def test_what_there_is_no_time_for_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    report = gpu.measure(options("--out", str(file), "--seconds", "0"))
    assert json.loads(file.read_text()) == report
    assert {each["failed"] for each in report["results"]} == {"no time was left"}
    names = [each["way"] for each in report["results"] if each["model"] == "wrn-16-8"]
    assert names == ["plain-fp32", "eager-fp32", "eager-bf16", "compile-fp32", "compile-bf16"]
    assert ("resnet20", "graphs-bf16") in gpu.jobs(options(), torch.device("cuda"))


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
