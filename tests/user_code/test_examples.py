"""The examples that ``kdecay init`` writes."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from kdecay_search.cli.init import Kind
from kdecay_search.study.file import load
from kdecay_search.tasks.protocol import Released
from kdecay_search.user_code.function import run_function
from tests.support.kdecay_command import Kdecay
from tests.support.recorded_run import RecordedRun

EXAMPLES = Path(str(files("kdecay_search"))) / "examples"
FUNCTIONS = [Kind.PYTORCH, Kind.LIGHTNING, Kind.HUGGINGFACE]
EPOCHS = 3


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The examples set the number of threads to one: restore it for other tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def module(kind: Kind) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{kind}_example", EXAMPLES / kind / "train.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def recorded(kind: Kind, folder: Path, **options: Any) -> RecordedRun:
    study = load(EXAMPLES / kind / "study.toml", [f"task.epochs={EPOCHS}"])
    tables = study.model_dump(mode="json", include={"task", "schedule"})
    return RecordedRun(folder, **options, **tables)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_an_example_resumes_to_the_same_numbers(tmp_path: Path, kind: Kind) -> None:
    train = module(kind).train
    whole = recorded(kind, tmp_path / "whole")
    run_function(train, whole)
    first = recorded(kind, tmp_path / "parts", ends={2: Released})
    with pytest.raises(Released):
        run_function(train, first)
    second = recorded(kind, tmp_path / "parts")
    run_function(train, second)
    assert [*second.restored, *second.epochs] == whole.epochs
    assert [epoch.number for epoch in second.epochs] == [3]
    assert all(epoch.averaged_error is not None for epoch in whole.epochs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_an_example_opens_the_test_set_only_to_confirm(tmp_path: Path, kind: Kind) -> None:
    data = module(kind).data
    searched, confirmed = data("search"), data("confirmation")
    assert [len(part) for part in (*searched, *confirmed)] == [397, 1040, 1437, 360]
    run = recorded(kind, tmp_path, comparator="original", ks=(1.0,))
    run_function(module(kind).train, run)
    assert run.epochs[-1].validation_error * 3.6 == pytest.approx(
        round(run.epochs[-1].validation_error * 3.6), abs=1e-3
    ), "a share of 360 images"


@pytest.mark.parametrize("kind", Kind)
def test_an_example_is_searched_to_its_end(kdecay: Kdecay, tmp_path: Path, kind: Kind) -> None:
    out = kdecay.run("init", "mine", "--for", kind, cwd=tmp_path).stdout
    lines = [
        shlex.split(line.partition("  ")[0]) for line in out.replace("    ", "", 4).split("\n")
    ]
    steps = [line for line in lines if line and line[0] in ("cd", "pip", "kdecay")]
    launch = ["kdecay", "launch", "study.toml"]
    assert steps == [["cd", "mine"], ["kdecay", "try", "study.toml"], launch]
    kdecay.run(*launch[1:], cwd=tmp_path / "mine")
    study = kdecay.json("status", f"example-{kind}")
    assert (study["state"], study["failures"]) == ("done", [])
    assert study["trials"]["complete"] == 2
    assert study["epochs"] == {"trained": 12, "planned": 12}
    (stage,) = study["stages"]
    original, other = (candidate["mean"] for candidate in stage["candidates"])
    assert other < original, "there is a better schedule than the original"
