"""Workers train whole candidates: by the simulated task, a Python function and a program."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path

import pytest

from kdecay_search.search import Progress
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.loop import _describe
from kdecay_search.worker.train import WorkerContext, train_trial
from tests.support.memory_studies import MemoryQueue, study
from tests.support.queued_runs import queued
from tests.support.whole_candidates import COOLDOWN, COSINE, LATE, POINTS, POLYNOMIAL, asked_for

JOINT = {"sampler": "joint"}
EPOCHS, STEPS = 3, 7

FUNCTION = """
import json

def train(run):
    rates = [run.schedule(step) for step in range(run.total_steps + 1)]
    with open(f"{rates[0]}.json", "w") as file:
        json.dump(rates, file)
    for epoch in range(1, run.epochs + 1):
        run.report(epoch, 10.0 / epoch)
"""
PROGRAM = """
cp "$1" "$2.csv"
file="$2.txt"
shift 2
echo "$@" > "$file"
for epoch in 1 2 3; do echo "{\\"epoch\\": $epoch, \\"error\\": 12.5}"; done
"""


def worked(
    storage: Storage, spec: StudySpec, points: tuple[Candidate, ...], folder: Path
) -> list[Trial]:
    """The trials of these candidates, trained by a worker in this process."""
    queued(storage, spec.name, [asked_for(point, index) for index, point in enumerate(points)])
    context = WorkerContext("cpu", CheckpointFolder(folder), threading.Event())
    for _ in points:
        claim = queue.claim(storage, spec.name, "me")
        assert claim is not None
        train_trial(storage, spec, claim, context)
    trials = sorted(records.read_trials(storage, spec.name), key=lambda trial: trial.number)
    assert [trial.message for trial in trials] == [None] * len(points)
    assert [trial.epochs for trial in trials] == [spec.task.length.reports] * len(points)
    return trials


def rates_of(spec: StudySpec, point: Candidate) -> list[float]:
    """The learning rate of every update, and of the state after the last."""
    schedule = spec.candidate_schedule(point, (), STEPS)
    return [schedule(step, EPOCHS * STEPS) for step in range(EPOCHS * STEPS + 1)]


def test_the_simulated_task_trains_the_candidate_s_own_schedule(
    storage: Storage, tmp_path: Path
) -> None:
    """The best is without error; another has what its schedule's distance from it says."""
    surface = {"best_ks": [0.4], "best_power": 1.5, "best_lr_max": 0.2, "best_error": 8.0}
    spec = study("whole-simulated", surface, schedule={"lr_min": 0.002}, search=JOINT)
    errors = [trial.error for trial in worked(storage, spec, POINTS, tmp_path)]
    assert errors[POINTS.index(POLYNOMIAL)] == pytest.approx(8.0, abs=1e-9)
    assert all(error is not None and error > 8.1 for error in errors[1:])
    assert len(set(errors)) == len(errors)
    in_memory = MemoryQueue(spec).outcome
    for point, error in zip(POINTS, errors, strict=True):
        waiting = Trial(0, asked_for(point), State.WAITING, point.k)
        assert in_memory(waiting).error == error


@pytest.mark.usefixtures("own_folder")
def test_a_python_function_gets_the_candidate_s_learning_rates(
    storage: Storage, tmp_path: Path
) -> None:
    Path("mine.py").write_text(FUNCTION)
    task = {"kind": "python", "entry": "mine:train", "epochs": EPOCHS, "steps_per_epoch": STEPS}
    spec = study("whole-python", task=task, search=JOINT)
    points = (COOLDOWN, LATE)
    worked(storage, spec, points, tmp_path)
    for point in points:
        expected = rates_of(spec, point)
        assert json.loads(Path(f"{expected[0]}.json").read_text()) == expected


@pytest.mark.usefixtures("own_folder")
def test_a_program_gets_the_candidate_s_learning_rates(storage: Storage, tmp_path: Path) -> None:
    """A cooldown has no terms: they are empty, as for every schedule without any."""
    Path("mine.sh").write_text(PROGRAM)
    names = ("lr_max", "lr_min", "warmup_steps", "k", "ks")
    values = [f"{name}={{{name}}}" for name in names]
    command = ["sh", "mine.sh", "{schedule_csv}", "{lr_max}", *values]
    task = {"kind": "command", "command": command, "epochs": EPOCHS, "steps_per_epoch": STEPS}
    spec = study("whole-command", task=task, search=JOINT)
    points = (COOLDOWN, LATE, COSINE)
    worked(storage, spec, points, tmp_path)
    expected = {
        0.12: "lr_max=0.12 lr_min=0.0024 warmup_steps=0 k= ks=",
        0.05: "lr_max=0.05 lr_min=0.005 warmup_steps=5 k=2.5 ks=2.5",
        0.1: "lr_max=0.1 lr_min=0.0 warmup_steps=0 k=3.0 ks=3.0",
    }
    for point in points:
        assert Path(f"{point.lr_max}.txt").read_text().strip() == expected[point.lr_max or 0]
        with Path(f"{point.lr_max}.csv").open() as file:
            _, *rows = csv.reader(file)
        assert [float(row[-1]) for row in rows] == rates_of(spec, point)[: len(rows)]


def test_the_log_names_the_whole_candidate(storage: Storage) -> None:
    queued(storage, "whole-log", [asked_for(COOLDOWN)])
    claim = queue.claim(storage, "whole-log", "me")
    assert claim is not None
    assert _describe(claim) == "stage 1, cooldown over 30 % at lr_max 0.12, lr_min 2 %, seed 0"


def test_a_joint_search_finds_a_best_k_below_1() -> None:
    surface = {"best_ks": [0.4], "curvature": 60.0}
    space = {"power": 1.0, "lr_max": 0.1, "lr_min": 0.01, "family": ["polynomial"]}
    search = JOINT | {"space": space, "budget": 14, "max_terms": 1, "baselines": []}
    plan = MemoryQueue(study(surface=surface, search=search)).play()
    assert plan.progress == Progress.DONE
    assert plan.incumbent.point is not None
    assert plan.incumbent.point.k == pytest.approx(0.4, rel=0.15)
