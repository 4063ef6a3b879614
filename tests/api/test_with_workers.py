"""Searches from Python whose runs worker processes train."""

from __future__ import annotations

import math
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

import kdecay_search as kd
from kdecay_search.api import with_workers
from kdecay_search.api.find import entry_of, is_importable
from kdecay_search.errors import InvalidSpec, MissingPackage, TaskError
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.storage import Storage, records
from kdecay_search.study.file import to_toml
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.user_code import carried
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext
from tests.support.memory_studies import study

KEYS: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 3, "budget": 4, "baselines": []}


def own_name() -> str:
    return f"python-{uuid.uuid4().hex}"


def named(run: kd.TaskRun) -> float:
    return run.schedule(1)


@pytest.mark.usefixtures("storage")
def test_a_function_without_a_name_is_carried_to_worker_processes() -> None:
    offset = 0.25

    def local(run: kd.TaskRun) -> float:
        return offset + abs(math.log(run.schedule(2)))

    found = kd.find_schedule(local, **KEYS, workers=1, progress=False)
    here = kd.find_schedule(local, **KEYS, progress=False)
    assert found.spec.name.startswith("find-schedule-")
    assert found.state == "done"
    assert [run.value for run in found.runs] == [run.value for run in here.runs]
    assert [run.values for run in found.runs] == [run.values for run in here.runs]
    assert found.verdict == here.verdict
    assert all(run.seconds for run in found.runs)


def serve(url: str, name: str, folder: Path) -> None:
    """A worker of somebody else's, which waits until the study is there."""
    storage = Storage(url)
    while name not in records.study_names(storage):
        time.sleep(0.05)
    context = WorkerContext("cpu", CheckpointFolder(folder), threading.Event())
    Worker(storage, Options(name, drain=True), context).serve()
    storage.close()


def test_runs_may_be_left_to_other_workers(storage_url: str, tmp_path: Path) -> None:
    spec = study(own_name(), search={"sampler": "joint", "budget": 4, "baselines": []})
    file = tmp_path / "study.toml"
    file.write_text(to_toml(spec))
    other = threading.Thread(target=serve, args=(storage_url, spec.name, tmp_path))
    other.start()
    found = kd.find_schedule(study_file=file, storage=storage_url, workers=0, progress=False)
    other.join()
    assert found.state == "done"
    assert found.spec.name == spec.name
    assert found.verdict == kd.find_schedule(study_file=file, progress=False).verdict


def test_ctrl_c_returns_what_there_is(
    storage_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(to_toml(study(own_name())))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(with_workers.time, "sleep", interrupted)
    found = kd.find_schedule(study_file=file, storage=storage_url, workers=0, progress=False)
    assert (found.state, len(found.runs)) == ("stopped", 0)


def test_a_function_that_cannot_be_carried_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = threading.Lock()

    def locked(run: kd.TaskRun) -> float:
        with lock:
            return 1.0

    with pytest.raises(TaskError, match=r"locked cannot be carried to workers: .*pickle"):
        carried.carried(locked)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(MissingPackage, match="pip install cloudpickle"):
        carried.carried(locked)
    assert carried.carried(named)


def test_a_carried_function_is_found_only_where_it_was_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = KDecaySchedule
    monkeypatch.delenv(carried.VARIABLE, raising=False)
    with pytest.raises(TaskError, match="belongs to the process that has launched it"):
        carried.train(run)
    file = tmp_path / "function"
    file.write_bytes(carried.carried(lambda given: given is run))
    monkeypatch.setenv(carried.VARIABLE, str(file))
    assert carried.train(run) is True


def test_workers_import_what_they_can_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_training.py").write_text("def train(run):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_own_training  # type: ignore[import-not-found]

    assert not is_importable(my_own_training.train)  # not in the folder of the workers
    monkeypatch.chdir(tmp_path)
    assert is_importable(my_own_training.train)
    assert entry_of(my_own_training.train) == "my_own_training:train"
    assert not is_importable(lambda run: 1.0)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(kd.KDecayError, match=r"workers = -1: must be from 0"):
        kd.find_schedule(named, **KEYS, workers=-1)
    with pytest.raises(InvalidSpec, match="catch goes without workers"):
        kd.find_schedule(named, **KEYS, workers=1, catch=ValueError)
