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
    one = ("--workers", "1")  # which imports the libraries once
    kdecay.run(*launch[1:], *one, cwd=tmp_path / "mine")
    study = kdecay.json("status", f"example-{kind}")
    assert (study["state"], study["failures"]) == ("done", [])
    assert study["trials"]["complete"] == 2
    assert study["epochs"] == {"trained": 12, "planned": 12}
    (stage,) = study["stages"]
    original, other = (candidate["mean"] for candidate in stage["candidates"])
    assert other < original, "there is a better schedule than the original"
    if kind == Kind.PYTORCH:
        check_as_accuracy(kdecay, tmp_path / "mine", study)


def check_as_accuracy(kdecay: Kdecay, folder: Path, in_percent: dict[str, Any]) -> None:
    """Report accuracy as a fraction instead of the error in percent: the answer is the same."""
    code, study = folder / "train.py", folder / "study.toml"
    reported = "run.report(epoch, error, averaged_error)"
    assert reported in code.read_text()
    changed = reported.replace("error, averaged_error", "1 - error / 100, 1 - averaged_error / 100")
    code.write_text(code.read_text().replace(reported, changed))
    metric = '[task.metric]\nname = "accuracy"\ndirection = "max"\n\n[schedule]'
    study.write_text(study.read_text().replace("[schedule]", metric))
    accuracy = ("--set", "name=accuracy", "--workers", "1")
    kdecay.run("launch", "study.toml", *accuracy, cwd=folder)
    found = kdecay.json("status", "accuracy")
    assert found["metric"]["direction"] == "max"
    (ours,), (theirs,) = found["stages"], in_percent["stages"]
    assert (ours["k"], ours["kept"]) == (theirs["k"], theirs["kept"])
    assert ours["gain"]["mean"] == pytest.approx(theirs["gain"]["mean"] / 100)
    assert found["verdict"]["outcome"] == in_percent["verdict"]["outcome"]
    for one, other in zip(ours["candidates"], theirs["candidates"], strict=True):
        assert one["k"] == other["k"]
        assert one["mean"] == pytest.approx(1 - other["mean"] / 100)
