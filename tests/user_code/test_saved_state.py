"""How a run resumes after an interruption: ``TaskRun.keep``, ``save`` and ``resume``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Lost, Released
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun
from tests.user_code.task_runs import EPOCHS, STEPS


def training(task_run: TaskRun, seen: list[float]) -> None:
    """Train a small model, reproducibly; ``seen`` takes the loss of every update."""
    task_run.seed_everything()
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    task_run.steps_per_epoch = STEPS
    task_run.drive(optimizer)
    average = task_run.average(model, optimizer)
    task_run.keep(model, optimizer, average)
    for number in task_run.remaining_epochs():
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        with average:
            averaged = model(torch.ones(8, 4)).square().mean().item()
        task_run.report(number, loss.item(), averaged)


@pytest.mark.parametrize("end", [Released, Lost])
def test_keep_resumes_to_the_same_bits(tmp_path: Path, end: type[Released]) -> None:
    whole, parts = RecordedRun(), [RecordedRun(tmp_path, {2: end}), RecordedRun(tmp_path)]
    expected: list[float] = []
    run_function(lambda run: training(run, expected), whole)
    seen: list[float] = []
    with pytest.raises(end):
        run_function(lambda run: training(run, seen), parts[0])
    done = 2 if end is Released else 1  # a lost trial belongs to another worker
    del seen[done * STEPS :]
    run_function(lambda run: training(run, seen), parts[1])
    assert seen == expected
    assert parts[1].restored == whole.epochs[:done]
    assert parts[1].restored + parts[1].epochs == whole.epochs


def test_save_resumes_with_the_state(tmp_path: Path) -> None:
    def train(task_run: TaskRun) -> None:
        state = task_run.resume() or {"sum": 0}
        for number in task_run.remaining_epochs():
            state["sum"] += number
            task_run.report(number, float(state["sum"]))
            task_run.save(state)

    first, second = RecordedRun(tmp_path, {2: Released}), RecordedRun(tmp_path)
    with pytest.raises(Released):
        run_function(train, first)
    run_function(train, second)
    assert second.restored == first.epochs
    assert [epoch.validation_error for epoch in second.epochs] == [6.0]


def test_an_unreadable_state_is_set_aside(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path)
    assert run.checkpoint is not None
    run.checkpoint.write(b"Pnonsense")
    assert TaskRun(run).resume() is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".set-aside"]


def test_a_state_that_does_not_fit_fails_one_attempt(
    tmp_path: Path,
) -> None:
    first = TaskRun(RecordedRun(tmp_path))
    first.keep(torch.nn.Linear(1, 1))
    first.report(1, 40.0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        TaskRun(RecordedRun(tmp_path)).keep(torch.nn.Linear(2, 1))
    again = RecordedRun(tmp_path)
    TaskRun(again).keep(torch.nn.Linear(2, 1))
    assert again.restored == []


def test_keep_excludes_save_and_a_late_resume(tmp_path: Path) -> None:
    task_run = TaskRun(RecordedRun(tmp_path))
    task_run.keep(torch.nn.Linear(1, 1))
    with pytest.raises(TaskError, match=r"run\.keep already saves after every report"):
        task_run.save({})
    task_run.report(1, 40.0)
    with pytest.raises(TaskError, match=r"run\.keep and run\.resume before the first report"):
        task_run.resume()


def test_each_run_has_a_folder(tmp_path: Path) -> None:
    run, other = RecordedRun(tmp_path), RecordedRun(tmp_path, ks=(3.0,))
    folder = TaskRun(run).checkpoint_dir
    assert folder.is_dir()
    assert folder != TaskRun(other).checkpoint_dir
    (folder / "weights").write_text("mine")
    assert run.checkpoint is not None
    run.checkpoint.remove()
    assert not folder.exists()
    assert TaskRun(RecordedRun()).checkpoint_dir.is_dir()


def test_code_without_torch_resumes(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.support.recorded_run import RecordedRun
from kdecay_search.user_code.function import run_function
def train(run):
    state = run.resume() or [0]
    run.seed_everything()
    for number in run.remaining_epochs():
        run.report(number, 40.0)
        run.save([number])
run_function(train, RecordedRun(Path({str(tmp_path)!r})))
run = RecordedRun(Path({str(tmp_path)!r}))
run_function(train, run)
assert len(run.restored) == {EPOCHS}, run.restored
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
