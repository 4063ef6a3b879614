"""Runs of the built-in image task on several devices: real processes, and a whole study."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from kdecay_search.cli.launch import worker_count
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Epoch, Lost, Paused
from kdecay_search.user_code import built_in, built_in_rank
from kdecay_search.worker.devices import usable_cores
from tests.support.kdecay_command import Kdecay
from tests.support.memory_studies import images_table
from tests.support.recorded_run import RecordedRun
from tests.user_code.programs import alive, failure

MARK = "KDECAY_TEST_MARK"
EPOCHS = 6


class Disturbed(RecordedRun):
    """A run that is paused after a report, or whose rank 1 is killed then; by its number."""

    pauses_after: int | None = None
    kills_after: int | None = None
    ranks: list[int]

    def report(self, epoch: Epoch) -> None:
        super().report(epoch)
        self.ranks = [process_of(f"RANK={rank}") for rank in range(2)]
        if epoch.number == self.kills_after:
            os.kill(self.ranks[1], signal.SIGKILL)

    def poll(self) -> None:
        if self.pauses_after is not None and len(self.epochs) >= self.pauses_after:
            raise Paused


def process_of(variable: str) -> int:
    """The id of this test's process that has the environment variable."""
    wanted = {variable.encode(), f"{MARK}={os.environ[MARK]}".encode()}
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= {*file.read_bytes().split(b"\0")}:
                return int(file.parent.name)
        except OSError:
            continue
    raise AssertionError(variable)


@pytest.fixture(autouse=True)
def images(own_folder: Path) -> None:
    """A folder of images whose class is their brightness."""
    random = numpy.random.default_rng(0)
    for index in range(120):
        place = Path("images", f"class{index % 3}", f"{index}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 120, (12, 12, 3)) + 60 * (index % 3)
        Image.fromarray(pixels.astype("uint8")).save(place)


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """Restore what a training sets for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def image_run(folder: str | None, device: str = "cpu,cpu", **task: Any) -> Disturbed:
    data = {"name": "image-folder", "root": "images"}
    model = {"name": "wide-resnet", "depth": 10, "widen": 1, "dropout": 0.2}
    whole = {"kind": "images", "epochs": EPOCHS, "batch_size": 15, "model": model, "data": data}
    run = Disturbed(folder and Path(folder).resolve(), task=whole | task)
    run.device = device
    return run


def test_a_paused_and_killed_run_ends_with_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dropout; at last, one process goes on with what two of them have kept."""
    monkeypatch.setenv(MARK, uuid.uuid4().hex)
    undisturbed = image_run(None)
    built_in.train(undisturbed)
    paused = image_run("kept")
    paused.pauses_after = 2
    with pytest.raises(Paused):
        built_in.train(paused)
    killed = image_run("kept")
    killed.kills_after = 4
    error = failure(built_in.train, killed)
    assert str(error).startswith("rank 1 was killed by SIGKILL and returned nothing")
    for run in (undisturbed, paused, killed):
        assert not any(alive(pid) for pid in run.ranks)
    assert len(killed.restored) >= 2
    resumed = image_run("kept")
    built_in.train(resumed)
    assert 3 <= len(resumed.restored) < EPOCHS
    assert [*resumed.restored, *resumed.epochs] == undisturbed.epochs
    alone = image_run("kept", "cpu")
    built_in.train(alone)
    assert (alone.restored, alone.epochs) == (undisturbed.epochs, [])


def test_what_a_rank_sends_when_it_ends() -> None:
    run: Any = image_run(None)
    run.device = "cpu"
    run.end = Lost()
    run.poll = partial(RecordedRun.poll, run)
    assert built_in_rank._outcome(run) == {"interrupted": "Lost"}
    run.poll = partial(int, "x")
    sent = built_in_rank._outcome(run)
    assert sent["failed"].startswith("ValueError: invalid literal for int()")
    assert "Traceback" in sent["traceback"]
    run.device = "gpu"
    refused = "device 'gpu' is unknown: must be auto, cpu, cuda or cuda:N"
    assert built_in_rank._outcome(run) == {"invalid_entry": refused}


def test_the_number_of_workers() -> None:
    spec = StudySpec.model_validate_json(json.dumps(images_table()))
    assert worker_count(spec, 3, ["cpu,cpu"]) == 3
    assert worker_count(spec, None, ["cpu,cpu"]) == max(1, usable_cores() // 2)
    assert worker_count(spec, None, ["cuda:0,1", "cuda:2,3"]) == 2


def test_a_whole_study_of_image_files(kdecay: Kdecay) -> None:
    study = """
name = "image-ranks"
task.kind = "images"
task.epochs = 3
task.batch_size = 15
task.model.width = 4
task.data = { name = "image-folder", root = "images" }
schedule.lr_max = 0.05
search = { sampler = "grid", ks = [1.0, 3.0], seeds = 1, max_terms = 1 }
pruning.enabled = false
workers.heartbeat_seconds = 1
"""
    Path("study.toml").write_text(study)
    options = ["--device", "cpu", "--devices-per-run", "2", "--workers", "1"]
    kdecay.run("launch", "study.toml", *options)
    status = json.loads(kdecay.run("status", "image-ranks", "--json").stdout)
    assert status["state"] == "done"
    log = next(Path(kdecay.home).glob("logs/image-ranks/worker-0.log")).read_text()
    assert ":cpu,cpu serves image-ranks" in log
    assert log.count("96 images to train on") == 2, "rank 0 alone says what it read"
