"""Runs on several devices: with a real worker, and the example with torch's process group."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage
from kdecay_search.study.file import load
from kdecay_search.study.trials import ERROR, State
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.tasks.protocol import Released
from kdecay_search.user_code import command, python
from kdecay_search.user_code.allowance import Allowance
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay
from tests.support.recorded_run import RecordedRun
from tests.support.wait import wait_for
from tests.user_code.programs import alive, failure, program
from tests.user_code.test_workers import ONE_RUN, launched, python_study

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "ddp"

pytestmark = pytest.mark.usefixtures("own_folder")

KEEPS = """
import os, pathlib, time
def train(run):
    total = run.resume() or 0
    for epoch in run.remaining_epochs():
        while epoch == 2 and not os.path.exists("go"):
            pathlib.Path(f"waiting{run.rank}").write_text(str(os.getpid()))
            time.sleep(0.01)
            run.poll()
        if not run.rank:
            print(epoch, file=open("trained", "a"))
        total += epoch
        run.report(epoch, 40.0 / total)
        run.save(total)
"""


def waiting() -> list[int]:
    """Wait until both ranks are in their second epoch; return their process ids."""
    files = [Path(f"waiting{rank}") for rank in range(2)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), "two ranks")
    pids = [int(file.read_text()) for file in files]
    for file in files:
        file.unlink(missing_ok=True)
    return pids


def test_a_killed_rank_and_a_stopped_worker(kdecay: Kdecay, storage: Storage) -> None:
    quick = {"heartbeat_seconds": 0.2, "grace_seconds": 10.0, "max_attempts": 2}
    spec = python_study("two-ranks", KEEPS, search=ONE_RUN, workers=quick)
    launched(storage, spec)
    options = ["--devices-per-run", "2", "--device", "cpu", "--checkpoints", "checkpoints"]
    worker = kdecay.start("worker", "--study", spec.name, *Allowance.of(spec).options, *options)
    killed = waiting()
    wait_for(lambda: list(Path("checkpoints").rglob("*.ckpt")), "the first epoch's state")
    os.kill(killed[1], signal.SIGKILL)
    wait_for(lambda: read_snapshot(storage, spec.name).count(State.FAILED), "the failed attempt")
    (failed,) = (t for t in read_snapshot(storage, spec.name).trials if t.state == State.FAILED)
    assert failed.reason == ERROR
    stopped = waiting()
    worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=TIMEOUT_SECONDS)
    assert worker.returncode == 0, log
    assert "rank 1 was killed by SIGKILL and returned nothing" in log
    assert ":cpu,cpu serves two-ranks" in log
    assert not any(alive(pid) for pid in [*killed, *stopped])
    Path("go").touch()
    folder = CheckpointFolder(Path("checkpoints").resolve())
    context = WorkerContext("cpu,cpu", folder, threading.Event())
    Worker(storage, Options(spec.name, True, Allowance.of(spec)), context).serve()
    snapshot = read_snapshot(storage, spec.name)
    assert Path("trained").read_text().split() == ["1", "2", "3"], "each epoch once"
    assert [t.error for t in snapshot.trials if t.state == State.COMPLETE] == [40.0 / 6]


class StopsAt(RecordedRun):
    """A run that is stopped when its code has made the file ``stop``."""

    def poll(self) -> None:
        if Path("stop").exists():
            raise Released


LOGGED = """
import json, os, pathlib, signal, time
import torch
import train as example
from kdecay_search.user_code.run import TaskRun
from torch.optim.optimizer import register_optimizer_step_post_hook


class Undisturbed:
    checkpoint = None

    def __init__(self, run):
        names = "spec ks lr_max point comparator seed device rank world_size"
        vars(self).update({name: getattr(run, name) for name in names.split()})
        self.errors = []

    def report(self, epoch):
        self.errors.append([epoch.validation_error, epoch.averaged_error])
        if epoch.number == self.spec.task.epochs:
            pathlib.Path(f"undisturbed{self.rank}").write_text(json.dumps(self.errors))

    def poll(self):
        pass


def train(run):
    updates = trainings = 0

    def log(optimizer, *arguments):
        nonlocal updates
        updates += 1
        with open(f"rates{run.rank}-{trainings}", "a") as file:
            print(optimizer.param_groups[0]["lr"], file=file)
        if run.epochs_done == 1 and updates >= 30:  # in the second epoch
            pathlib.Path("stop").touch()
            time.sleep(1)  # the stop is seen by another process
        if trainings == 2 and updates == 30 and run.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(log)
    torch.distributed.init_process_group("gloo")
    vars(torch.distributed).update(init_process_group=str, destroy_process_group=str)
    for trainings in range(3):  # what is left; undisturbed; until rank 1 is killed
        updates = 0
        example.train(TaskRun(Undisturbed(run._run)) if trainings else run)
"""


def example_run() -> RecordedRun:
    """Return a run of the example on two processes."""
    spec = load(EXAMPLE / "study.toml")
    shutil.copy(EXAMPLE / "train.py", ".")
    Path("logged.py").write_text(LOGGED)
    Path("stop").unlink(missing_ok=True)
    tables = spec.model_dump(mode="json", include={"task", "schedule"})
    tables["task"] |= {"epochs": 3, "entry": "logged:train"}
    run = StopsAt(Path("checkpoints").resolve(), **tables)
    run.device = "cpu,cpu"
    return run


def rates(training: int) -> list[list[str]]:
    """Return the learning rates of all updates on both ranks."""
    return [Path(f"rates{rank}-{training}").read_text().split() for rank in range(2)]


def test_the_example_with_a_process_group() -> None:
    """Two processes: stopped in their second epoch, resumed, and trained again without a break; at
    last, one of them is killed."""
    stopped = example_run()
    with pytest.raises(Released):
        python.train(stopped)
    first, second = rates(0)
    assert first == second, "they ended at the same update"
    assert 30 <= len(first) < 44
    for rank in range(2):
        Path(f"rates{rank}-0").unlink()
    resumed = example_run()
    error = failure(python.train, resumed)
    assert str(error).startswith("rank 1 was killed by SIGKILL")
    (left, also_left), (whole, also_whole) = rates(0), rates(1)
    assert (left, whole) == (also_left, also_whole)
    assert (len(whole), whole[:30], whole[22:]) == (66, first[:30], left)
    errors = [[epoch.validation_error, epoch.averaged_error] for epoch in resumed.epochs]
    undisturbed = json.loads(Path("undisturbed0").read_text())
    assert (len(resumed.restored), errors) == (1, undisturbed[1:3])


def test_a_command_gets_the_number_of_processes() -> None:
    run = program('echo "$2 $CUDA_VISIBLE_DEVICES" > given; exit 1', "{nproc}")
    run.device = "cuda:1,3"
    failure(command.train, run)
    assert Path("given").read_text() == "2 1,3\n"
