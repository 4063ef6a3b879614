"""The schedule of a ``TaskRun``: as a function, on an optimizer, and as a torch scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import AREA_MATCHED, COMPARATORS, schedule_of
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun
from tests.support.whole_candidates import COOLDOWN, LATE
from tests.user_code.task_runs import EPOCHS, STEPS, with_steps

CONFIRM = {"seeds": 2, "baselines": ["sgdr", "htd"]}


def sgd(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


def follow(task_run: TaskRun, optimizer: Any, by: str, used: list[list[float]]) -> Any:
    """Return a function that makes one update, and appends the LRs that it used to ``used``."""
    scheduler = task_run.scheduler(optimizer) if by == "scheduler" else None
    if scheduler is None:
        task_run.drive(optimizer)

    def step() -> None:
        optimizer.step()
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        if scheduler is not None:
            scheduler.step()

    return step


@pytest.mark.parametrize("comparator", [None, *COMPARATORS[:3], "sgdr", "htd"])
def test_the_schedule_is_the_study_s(comparator: str | None) -> None:
    tables = {"schedule": {"warmup_epochs": 0.5}, "confirm": CONFIRM}
    run = RecordedRun(comparator=comparator, **tables)
    task_run = with_steps(run)
    expected = schedule_of(run.spec, comparator, run.ks, STEPS)
    total = EPOCHS * STEPS
    assert task_run.total_steps == total
    got = [task_run.schedule(step) for step in range(total + 1)]
    assert got == [expected(step, total) for step in range(total + 1)]
    assert task_run.schedule(total + 7) == expected(total, total)
    assert task_run.purpose == ("confirmation" if comparator else "search")


def test_an_unknown_number_of_updates_is_asked_for() -> None:
    with pytest.raises(TaskError, match=r"not known yet: set run\.steps_per_epoch = len\(loader\)"):
        TaskRun(RecordedRun()).schedule(0)


@pytest.mark.parametrize("steps", [0, 2.0, True, "5"])
def test_the_number_of_updates_is_whole(steps: Any) -> None:
    with pytest.raises(TaskError, match="must be a whole number, 1 or more"):
        TaskRun(RecordedRun()).steps_per_epoch = steps


def test_the_study_file_sets_updates_and_args() -> None:
    table = {"kind": "python", "epochs": 4, "entry": "mine:train"}
    run = TaskRun(RecordedRun(task=table | {"steps_per_epoch": 50, "args": {"width": [8, 16]}}))
    assert (run.total_steps, run.args["width"], run.seed, run.device) == (200, [8, 16], 0, "cpu")
    with pytest.raises(TaskError, match=r"the study file has task\.steps_per_epoch = 50"):
        run.steps_per_epoch = 40


def test_the_number_of_updates_is_set_once() -> None:
    task_run = with_steps(RecordedRun())
    task_run.steps_per_epoch = STEPS + 1
    task_run.schedule(0)
    task_run.steps_per_epoch = STEPS + 1
    with pytest.raises(TaskError, match="was 6 when the schedule was first used"):
        task_run.steps_per_epoch = STEPS


@pytest.mark.parametrize("by", ["drive", "scheduler"])
@pytest.mark.parametrize("comparator", [None, AREA_MATCHED, "sgdr"])
def test_every_update_has_its_rate(by: str, comparator: str | None) -> None:
    run = RecordedRun(comparator=comparator, confirm=CONFIRM)
    task_run = with_steps(run)
    optimizer = sgd(0.5, 0.25)
    used: list[list[float]] = []
    step = follow(task_run, optimizer, by, used)
    for _ in range(EPOCHS * STEPS):
        step()
    expected = [task_run.schedule(t) for t in range(EPOCHS * STEPS)]
    assert [rates[0] for rates in used] == expected
    assert [rates[1] for rates in used] == [0.5 * rate for rate in expected]
    task_run.report(1, 40.0)
    assert run.epochs[0].learning_rate == expected[-1]
    assert run.polls == EPOCHS * STEPS


@pytest.mark.parametrize("by", ["drive", "scheduler"])
@pytest.mark.parametrize("point", [COOLDOWN, LATE])
def test_every_update_has_the_whole_candidate_s_rate(by: str, point: Candidate) -> None:
    run = RecordedRun(ks=() if point.k is None else (point.k,))
    run.point = point
    task_run = with_steps(run)
    used: list[list[float]] = []
    step = follow(task_run, sgd(0.5), by, used)
    for _ in range(EPOCHS * STEPS):
        step()
    schedule = run.spec.candidate_schedule(point, (), STEPS)
    assert [rate for (rate,) in used] == [schedule(t, len(used)) for t in range(len(used))]


def test_a_scheduler_resumes_from_its_state() -> None:
    task_run = with_steps(RecordedRun())
    first, second = sgd(0.5, 0.25), sgd(0.5, 0.25)
    scheduler, resumed = task_run.scheduler(first), task_run.scheduler(second)
    for _ in range(4):
        first.step()
        scheduler.step()
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == [task_run.schedule(4), 0.5 * task_run.schedule(4)]
    assert [group["lr"] for group in second.param_groups] == resumed.get_last_lr()
    second.step()
    resumed.step()
    assert resumed.get_last_lr()[0] == task_run.schedule(5)


def test_a_scheduler_s_state_loads_safely(tmp_path: Path) -> None:
    scheduler = with_steps(RecordedRun()).scheduler(sgd(0.5))
    torch.save(scheduler.state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True) == scheduler.state_dict()
