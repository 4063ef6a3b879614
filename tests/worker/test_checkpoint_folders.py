"""Workers whose checkpoints lie where other users can write: nobody else's code runs as them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from kdecay_search import reconcile
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, records
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey, State
from kdecay_search.tasks.checkpoint import Checkpoint, CheckpointFolder
from tests.support.embedded_homes import is_root
from tests.support.kdecay_command import Kdecay
from tests.support.memory_studies import study
from tests.support.wait import wait_for

SOURCE = """
def train(run):
    total = run.resume() or 0
    print(run.checkpoint_dir, run.epochs_done, file=open("begun", "a"))
    for epoch in run.remaining_epochs():
        run.report(epoch, 40.0 - epoch)
        run.save(total + epoch)
"""
ONE_RUN = {"k_max": 1.0, "k_cap": 1.0, "seeds": 1, "max_terms": 1}
NOBODY = 65534
needs_root = pytest.mark.skipif(not is_root, reason="only root can give a file to another user")


class Touch:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Case:
    """A study of one run, launched, and a root for its checkpoints that all users can write to."""

    def __init__(self, name: str, tmp_path: Path, kdecay: Kdecay, storage: Storage) -> None:
        Path("mine.py").write_text(SOURCE)
        task = {"kind": "python", "epochs": 3, "entry": "mine:train"}
        workers = {"heartbeat_seconds": 0.2}
        self.spec: StudySpec = study(name, task=task, search=ONE_RUN, workers=workers)
        reconcile.launch(storage, self.spec)
        reconcile.reconcile(storage, name)
        self.root, self.mark = tmp_path / "shared", tmp_path / "mark"
        self.root.mkdir()
        self.root.chmod(0o1777)
        self.folder = CheckpointFolder(self.root).of_study(
            self.spec, records.read_study(storage, name).launch
        )
        fingerprint = self.spec.fingerprint((1.0,), 0)
        self.checkpoint = Checkpoint(self.folder, RunKey(1, 0, 0), fingerprint, 300.0)
        self.kdecay, self.storage = kdecay, storage

    def write_state(self, state: object) -> None:
        """Write a checkpoint as the version before did: after one epoch."""
        curve = [(1, None, 39.0, None, None)]
        whole = {"curve": curve, "updates": [], "state": state}
        self.checkpoint.write(b"P" + pickle.dumps(whole))

    def work(self, code: int = 0) -> str:
        options = ["--drain", "--allow", "mine:train", "--checkpoints", str(self.root)]
        return self.kdecay.run("worker", "--study", self.spec.name, *options, code=code).stderr

    def state(self) -> str:
        return read_snapshot(self.storage, self.spec.name).state

    @property
    def begun(self) -> list[str]:
        """The folder of each attempt, and how many epochs it resumed from."""
        return Path("begun").read_text().splitlines() if Path("begun").exists() else []


@pytest.fixture
def case(
    request: pytest.FixtureRequest, own_folder: Path, tmp_path: Path, kdecay: Kdecay,
    storage: Storage,
) -> Case:  # fmt: skip
    name = request.node.name.removeprefix("test_").replace("_", "-").partition("[")[0][:40]
    return Case(name.strip("-"), tmp_path, kdecay, storage)


@needs_root
def test_forged_folder(case: Case) -> None:
    """Another user has made the study's folder first, with a state of his own in it."""
    case.write_state(Touch(case.mark))
    for path in (case.folder, case.checkpoint.path):
        os.chown(path, NOBODY, NOBODY)
    error = case.work(code=2)
    assert not case.mark.exists()
    assert error.splitlines()[-1] == (
        f"kdecay: checkpoints: {case.folder} belongs to user nobody; what is read from there could "
        "run code as this user: give --checkpoints (or KDECAY_CHECKPOINTS) a folder of your own"
    )
    assert case.begun == []
    assert read_snapshot(case.storage, case.spec.name).count(State.WAITING) == 1, "none is used up"


def test_forged_state(case: Case) -> None:
    """Other users could write to the folder: the run starts over, with one line."""
    case.write_state(Touch(case.mark))
    case.folder.chmod(0o777)
    log = case.work()
    assert not case.mark.exists()
    assert log.count("other users could write to") == 1
    assert case.begun == [f"{case.checkpoint.folder} 0"]
    assert case.state() == "done"


def test_link_as_folder(case: Case, tmp_path: Path) -> None:
    """Another user has made a link to a folder of ours: nothing is written there."""
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    case.folder.symlink_to(own)
    assert "is a symbolic link" in case.work(code=2)
    assert list(own.iterdir()) == []


def test_state_of_the_version_before(case: Case) -> None:
    case.write_state(5)
    case.folder.chmod(0o755)
    case.checkpoint.path.chmod(0o644)
    case.work()
    assert case.begun == [f"{case.checkpoint.folder} 1"]
    assert case.state() == "done"


def test_a_new_launch_of_the_same_study_begins_anew(case: Case) -> None:
    """Its code may have changed, which nothing in its file says."""
    case.write_state(5)
    case.kdecay.run("delete", case.spec.name, "--yes")
    assert case.checkpoint.path.exists(), "the command was not told of this folder"
    reconcile.launch(case.storage, case.spec)
    case.work()
    assert [line.split()[-1] for line in case.begun] == ["0"]
    assert case.state() == "done"
    assert list(case.root.iterdir()) == [case.folder], "only the new launch's folder is removed"


def test_deletion_removes_the_checkpoints(case: Case) -> None:
    case.write_state(5)
    case.kdecay.run("delete", case.spec.name, "--yes", "--checkpoints", str(case.root))
    assert list(case.root.iterdir()) == []


def test_a_worker_whose_study_is_deleted_removes_the_checkpoints(case: Case) -> None:
    Path("mine.py").write_text(SOURCE.replace("run.save(", "import time; time.sleep(1); run.save("))
    options = ["--allow", "mine:train", "--checkpoints", str(case.root)]
    worker = case.kdecay.fork("worker", "--study", case.spec.name, *options, "--device", "cpu")
    try:
        wait_for(case.checkpoint.path.exists, "a checkpoint")
        case.kdecay.run("delete", case.spec.name, "--yes")
        wait_for(lambda: list(case.root.iterdir()) == [], "their removal")
    finally:
        worker.terminate()
        worker.communicate()


def test_a_root_that_all_may_write_to_serves(case: Case) -> None:
    case.work()
    assert case.begun == [f"{case.checkpoint.folder} 0"]
    assert case.state() == "done"
    assert list(case.root.iterdir()) == [], "what was kept is removed at the end"
