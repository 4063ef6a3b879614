"""Existing code in a search: torchvision's own training script."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
from pathlib import Path

import numpy
import pytest
from PIL import Image

from kdecay_search.study.file import load, to_toml
from kdecay_search.user_code.command import train as train_command
from tests.support.kdecay_command import Kdecay
from tests.support.recorded_run import RecordedRun

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "torchvision"
ORIGINALS = {
    "train.py": "d2fd34035ee8ba701550894a39ae5bd2c5b2ef20f87cd5672a2b255f39e030f9",
    "presets.py": "0efe11825f0223c946391fdf3876ea31a7c3479266baad8f90ac32f62c3350be",
    "sampler.py": "2f1a5540a2b4c44ae45f1c0cd3a52c101e79d51a5b7b25f37b388f6b8cea4d24",
    "transforms.py": "d5fd898a7ce9d3e15bf7e810eccb35d6dadb7512bcf3e49c7d3b0c556c17616a",
    "utils.py": "583d97bc9e59129370465e76ec80a19597d72886e0072e4ebc4620e977228c20",
}
"""SHA-256 of the files of torchvision 0.14.1, by their names."""
MOST_CHANGED_LINES = 10
SMALL = """
    --data-path data/{run.purpose} --device {run.device} --epochs {run.epochs}
    --model squeezenet1_1 --batch-size 16 --workers 0 --output-dir=
    --model-ema --model-ema-steps 1 --model-ema-decay 0.98
    --train-crop-size 32 --val-resize-size 32 --val-crop-size 32
"""
CLASSES = 5
"""Number of classes; the script needs five, since it reports the top-5 accuracy."""


def difference() -> list[str]:
    """Return what was changed in the original script, with one line of context."""
    names = ("train.py", "train_kdecay.py")
    before, after = ((EXAMPLE / name).read_text().splitlines() for name in names)
    return list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_script_is_torchvision_s_own(name: str) -> None:
    assert hashlib.sha256((EXAMPLE / name).read_bytes()).hexdigest() == ORIGINALS[name]


def test_ten_lines_are_changed() -> None:
    added = [line for line in difference() if line.startswith("+")]
    removed = [line for line in difference() if line.startswith("-")]
    assert len(removed) <= len(added) <= MOST_CHANGED_LINES


def test_the_document_shows_these_lines() -> None:
    shown = "\n".join(["```diff", *difference(), "```"])
    assert shown in (ROOT / "docs" / "own-code.md").read_text()


ON_CPU = """
import runpy, sys
import torch
from torch import distributed
from torch.nn import parallel

begin, tensor = distributed.init_process_group, torch.tensor
wrapped = parallel.DistributedDataParallel
torch.cuda.set_device = lambda device: None
distributed.init_process_group = lambda backend, **options: begin("gloo", **options)
parallel.DistributedDataParallel = lambda model, device_ids: wrapped(model)
torch.tensor = lambda data, **options: tensor(data, **(options | {"device": "cpu"}))
_, *sys.argv = sys.argv
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Stands in for the calls of CUDA that the script makes in several processes."""


def test_the_unchanged_script_under_torchrun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("on_cpu.py").write_text(ON_CPU)
    task = load(EXAMPLE / "torchrun.toml").task.model_dump(mode="json")
    command = [
        {"resnet50": "squeezenet1_1", "32": "8", "4": "0"}.get(a, a) for a in task["command"]
    ]
    command.insert(command.index("with_schedule.py"), "on_cpu.py")
    command += ["--train-crop-size=32", "--val-resize-size=32", "--val-crop-size=32"]
    run = RecordedRun(task=task | {"command": command, "epochs": 2, "steps_per_epoch": 2})
    run.device = "cpu,cpu"
    train_command(run)
    assert [epoch.number for epoch in run.epochs] == [1, 2]
    assert all(0 <= epoch.validation_error <= 100 for epoch in run.epochs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example, with a small study, and images whose class is their brightness."""
    for file in EXAMPLE.iterdir():
        shutil.copy(file, tmp_path)
    random = numpy.random.default_rng(0)
    for part, count in (("train", 30), ("val", 20)):
        for index in range(count):
            kind = index % CLASSES
            place = tmp_path / "data" / "search" / part / f"class{kind}" / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 50, (32, 32, 3)) + 50 * kind
            Image.fromarray(pixels.astype("uint8")).save(place)
    spec = load(
        tmp_path / "study.toml",
        [
            f"task.args.options={json.dumps(SMALL)}", "task.epochs=2", "schedule.lr_max=0.01",
            "search.ks=[1,2]", "search.seeds=1", "search.max_terms=1",
            "workers.heartbeat_seconds=1", "name=real-code",
        ],
    )  # fmt: skip
    (tmp_path / "study.toml").write_text(to_toml(spec))
    return tmp_path


def test_it_works_and_resumes(tmp_path: Path, folder: Path) -> None:
    done = Kdecay(tmp_path / "home").run("try", "study.toml", cwd=folder)
    out = done.stdout + done.stderr
    for words in (
        "2 of 2 epochs were reported",
        "values of averaged weights were reported",
        "all 4 optimizer updates used the schedule's LR",
        "interrupted after a report, it resumed from there",
    ):
        assert words in out
