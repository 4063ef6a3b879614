"""What training code of one's own gets: the run object."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.study.comparators import AREA_MATCHED, COMPARATORS, schedule_of
from kdecay_search.tasks.protocol import Epoch, Lost, Pruned, Released
from kdecay_search.training.averaging import AveragedModel
from kdecay_search.user_code.run import TaskRun, run_function
from tests.support.recorded_run import RecordedRun

STEPS = 5
EPOCHS = 3
CONFIRM = {"seeds": 2, "baselines": ["sgdr", "htd"]}


def numbers(run: RecordedRun) -> list[int]:
    return [epoch.number for epoch in run.epochs]


def with_steps(run: RecordedRun) -> TaskRun:
    task_run = TaskRun(run)
    task_run.steps_per_epoch = STEPS
    return task_run


# ---- reports ---------------------------------------------------------------------------------


def test_a_report_arrives_with_what_was_given_and_nothing_made_up() -> None:
    run = RecordedRun()
    task_run = TaskRun(run)
    task_run.report(1, 40.0)
    task_run.report(2, torch.tensor(30.0), averaged_error=20, loss=1.5, lr=0.01)
    assert run.epochs == [
        Epoch(1, None, 40.0, None, None),
        Epoch(2, 1.5, 30.0, 20.0, 0.01),
    ]


@pytest.mark.parametrize("epoch", [0, 2, 1.5, "1"])
def test_epochs_are_reported_once_in_order_from_one(epoch: Any) -> None:
    with pytest.raises(TaskError, match="epoch 1 is next"):
        TaskRun(RecordedRun()).report(epoch, 40.0)


def test_no_epoch_is_reported_beyond_the_last() -> None:
    task_run = TaskRun(RecordedRun())
    for number in task_run.remaining_epochs():
        task_run.report(number, 40.0)
    with pytest.raises(TaskError, match=r"report\(epoch=4\): the last was 3"):
        task_run.report(4, 40.0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"validation_error": "low"}, "validation_error = 'low': must be a number"),
        ({"validation_error": None}, "validation_error = None: must be a number"),
        ({"validation_error": 101.0}, "validation_error = 101: must be an error in percent"),
        ({"validation_error": -1.0}, "validation_error = -1: must be"),
        ({"validation_error": 5.0, "averaged_error": 400.0}, "averaged_error = 400: must be"),
        ({"validation_error": 5.0, "f1": [1, 2]}, r"f1 = \[1, 2\]: must be a number"),
    ],
)
def test_what_is_no_error_in_percent_is_refused_in_one_line(
    values: dict[str, Any], told: str
) -> None:
    run = RecordedRun()
    with pytest.raises(TaskError, match=told):
        TaskRun(run).report(1, **values)
    assert run.epochs == []


@pytest.mark.parametrize(
    "values", [{"validation_error": math.nan}, {"validation_error": 5.0, "loss": math.inf}]
)
def test_a_run_whose_numbers_are_no_longer_numbers_ends_as_diverged(values: Any) -> None:
    run = RecordedRun()

    def train(task_run: TaskRun) -> None:
        task_run.report(1, 40.0)
        task_run.report(2, **values)
        raise AssertionError("it goes on")

    assert run_function(train, run) is None
    assert [epoch.diverged for epoch in run.epochs] == [False, True]
    assert run.epochs[1].validation_error == 100.0


# ---- the end of a run ------------------------------------------------------------------------


def test_the_returned_number_is_the_result_and_none_leaves_it_to_the_last_report() -> None:
    def train(task_run: TaskRun, result: float | None) -> float | None:
        task_run.report(1, 40.0)
        return result

    assert run_function(lambda run: train(run, None), RecordedRun()) is None
    assert run_function(lambda run: train(run, 30.0), RecordedRun()) == 30.0


def test_a_function_that_only_returns_a_number_has_reported_it() -> None:
    run = RecordedRun()
    assert run_function(lambda task_run: 12.5, run) == 12.5
    assert run.epochs == [Epoch(1, None, 12.5)]


def test_a_function_that_reports_and_returns_nothing_has_failed() -> None:
    with pytest.raises(TaskError, match=r"reported no epoch and returned no number: call run\.rep"):
        run_function(lambda task_run: None, RecordedRun())


@pytest.mark.parametrize("caught", [True, False])
def test_an_interruption_ends_the_run_though_the_code_catches_everything(caught: bool) -> None:
    run = RecordedRun(ends={1: Pruned})

    def train(task_run: TaskRun) -> float:
        for number in task_run.remaining_epochs():
            try:
                task_run.report(number, 40.0)
            except Exception:
                if not caught:
                    raise ValueError("as a framework would wrap it") from None
        return 40.0

    with pytest.raises(Pruned):
        run_function(train, run)
    assert numbers(run) == [1]


def test_what_the_function_raises_is_raised() -> None:
    def train(task_run: TaskRun) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run_function(train, RecordedRun())


def test_a_poll_tells_that_the_trial_is_lost_and_so_does_every_later_call() -> None:
    run = RecordedRun()
    task_run = TaskRun(run)
    task_run.poll()
    run.end = Lost()
    with pytest.raises(Lost):
        task_run.poll()
    with pytest.raises(Lost):
        task_run.report(1, 40.0)
    assert run.epochs == []


# ---- the schedule ----------------------------------------------------------------------------


@pytest.mark.parametrize("comparator", [None, *COMPARATORS[:3], "sgdr", "htd"])
def test_the_schedule_is_the_study_s_for_every_control(comparator: str | None) -> None:
    tables = {"schedule": {"warmup_epochs": 0.5}, "confirm": CONFIRM}
    run = RecordedRun(comparator=comparator, **tables)
    task_run = with_steps(run)
    wanted = schedule_of(run.spec, comparator, run.ks, STEPS)
    total = EPOCHS * STEPS
    assert task_run.total_steps == total
    got = [task_run.schedule(step) for step in range(total + 1)]
    assert got == [wanted(step, total) for step in range(total + 1)]
    assert task_run.schedule(total + 7) == wanted(total, total)
    assert task_run.purpose == ("confirmation" if comparator else "search")


def test_the_number_of_updates_is_asked_for_in_one_line_while_it_is_not_known() -> None:
    with pytest.raises(TaskError, match=r"not known yet: set run\.steps_per_epoch = len\(loader\)"):
        TaskRun(RecordedRun()).schedule(0)


@pytest.mark.parametrize("steps", [0, 2.0, True, "5"])
def test_the_number_of_updates_is_a_whole_number(steps: Any) -> None:
    with pytest.raises(TaskError, match="must be a whole number, 1 or more"):
        TaskRun(RecordedRun()).steps_per_epoch = steps


def test_the_study_file_gives_the_number_of_updates_and_the_arguments() -> None:
    table = {"kind": "python", "epochs": 4, "entry": "mine:train"}
    run = TaskRun(RecordedRun(task=table | {"steps_per_epoch": 50, "args": {"width": [8, 16]}}))
    assert (run.total_steps, run.args["width"], run.seed, run.device) == (200, [8, 16], 0, "cpu")
    with pytest.raises(TaskError, match="the study file says 50"):
        run.steps_per_epoch = 40


def test_the_number_of_updates_is_fixed_once_the_schedule_was_asked() -> None:
    task_run = with_steps(RecordedRun())
    task_run.steps_per_epoch = STEPS + 1
    task_run.schedule(0)
    task_run.steps_per_epoch = STEPS + 1
    with pytest.raises(TaskError, match="was 6 when the schedule was first asked"):
        task_run.steps_per_epoch = STEPS


@pytest.mark.parametrize("by", ["drive", "scheduler"])
@pytest.mark.parametrize("comparator", [None, AREA_MATCHED, "sgdr"])
def test_every_update_has_its_rate_and_groups_keep_their_ratio(
    by: str, comparator: str | None
) -> None:
    run = RecordedRun(comparator=comparator, confirm=CONFIRM)
    task_run = with_steps(run)
    optimizer = sgd(0.5, 0.25)
    used: list[list[float]] = []
    step = follow(task_run, optimizer, by, used)
    for _ in range(EPOCHS * STEPS):
        step()
    wanted = [task_run.schedule(t) for t in range(EPOCHS * STEPS)]
    assert [rates[0] for rates in used] == wanted
    assert [rates[1] for rates in used] == [0.5 * rate for rate in wanted]
    task_run.report(1, 40.0)
    assert run.epochs[0].learning_rate == wanted[-1]
    assert run.polls == EPOCHS * STEPS


def sgd(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


def follow(task_run: TaskRun, optimizer: Any, by: str, used: list[list[float]]) -> Any:
    """What does one update; the LRs that it used go to ``used``."""
    scheduler = task_run.scheduler(optimizer) if by == "scheduler" else None
    if scheduler is None:
        task_run.drive(optimizer)

    def step() -> None:
        optimizer.step()
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        if scheduler is not None:
            scheduler.step()

    return step


def test_a_scheduler_goes_on_from_its_state() -> None:
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


def test_a_scheduler_s_state_is_loaded_without_trust(tmp_path: Path) -> None:
    scheduler = with_steps(RecordedRun()).scheduler(sgd(0.5))
    torch.save(scheduler.state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True) == scheduler.state_dict()


# ---- averaged weights ------------------------------------------------------------------------


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout())


def updates(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def test_the_average_is_that_of_the_built_in_task_and_the_model_is_given_back() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    task_run = with_steps(RecordedRun())
    average = task_run.average(model, optimizer)
    reference = AveragedModel(model, 0.08 * task_run.total_steps)
    optimizer.register_step_post_hook(lambda *_: reference.update())
    updates(model, optimizer, 6)
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average as averaged:
        assert averaged is model
        assert not any(module.training for module in model.modules())
        for name, tensor in reference.model.state_dict().items():
            if tensor.is_floating_point():
                assert torch.equal(model.state_dict()[name], tensor), name
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_the_model_is_given_back_though_the_evaluation_raises() -> None:
    model = network()
    average = with_steps(RecordedRun()).average(model)
    updates(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    average.update()
    before = model[0].weight.clone()
    with pytest.raises(ZeroDivisionError), average:
        raise ZeroDivisionError
    assert torch.equal(model[0].weight, before)
    assert model.training


def test_an_average_of_half_precision_is_taken_in_full() -> None:
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = with_steps(RecordedRun()).average(model)
    for value in (1.0, 1.0078125):
        model.weight.data.fill_(value)
        average.update()
    assert 1.0 < float(average.state_dict()["average"][0]) < 1.0078125


def test_a_model_that_moved_after_it_was_averaged_is_refused() -> None:
    model = network()
    average = with_steps(RecordedRun()).average(model)
    model.double()
    with pytest.raises(TaskError, match=r"call it after model\.to\(device\)"):
        average.update()


def test_training_with_the_averaged_weights_is_refused() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = with_steps(RecordedRun()).average(model, optimizer)
    with pytest.raises(TaskError, match="train outside of it"), average:
        updates(model, optimizer, 1)


# ---- going on after an interruption ----------------------------------------------------------


def training(task_run: TaskRun, seen: list[float]) -> None:
    """A small training whose every number follows from the seed; ``seen``: losses by update."""
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
def test_a_run_that_keeps_its_objects_goes_on_to_the_same_bits(
    tmp_path: Path, end: type[Released]
) -> None:
    whole, parts = RecordedRun(), [RecordedRun(tmp_path, {2: end}), RecordedRun(tmp_path)]
    wanted: list[float] = []
    run_function(lambda run: training(run, wanted), whole)
    seen: list[float] = []
    with pytest.raises(end):
        run_function(lambda run: training(run, seen), parts[0])
    done = 2 if end is Released else 1  # what was lost belongs to somebody else
    del seen[done * STEPS :]
    run_function(lambda run: training(run, seen), parts[1])
    assert seen == wanted
    assert parts[1].restored == whole.epochs[:done]
    assert parts[1].restored + parts[1].epochs == whole.epochs


def test_a_run_that_saves_its_own_state_goes_on_with_it(tmp_path: Path) -> None:
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


def test_a_worker_that_stops_hears_at_once_from_code_that_saves_nothing() -> None:
    task_run = TaskRun(RecordedRun(ends={1: Released}))
    with pytest.raises(Released):
        task_run.report(1, 40.0)


def test_a_state_that_cannot_be_loaded_is_set_aside(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path)
    assert run.checkpoint is not None
    run.checkpoint.write(b"Pnonsense")
    assert TaskRun(run).resume() is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".set-aside"]


def test_a_state_that_does_not_fit_the_code_fails_one_attempt_and_not_the_next(
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


def test_state_is_saved_one_way_and_looked_for_before_the_first_report(tmp_path: Path) -> None:
    task_run = TaskRun(RecordedRun(tmp_path))
    task_run.keep(torch.nn.Linear(1, 1))
    with pytest.raises(TaskError, match=r"run\.keep saves by itself"):
        task_run.save({})
    task_run.report(1, 40.0)
    with pytest.raises(TaskError, match="come before the first report"):
        task_run.resume()


def test_a_run_s_folder_is_its_own_and_goes_with_its_checkpoint(tmp_path: Path) -> None:
    run, other = RecordedRun(tmp_path), RecordedRun(tmp_path, ks=(3.0,))
    folder = TaskRun(run).checkpoint_dir
    assert folder.is_dir()
    assert folder != TaskRun(other).checkpoint_dir
    (folder / "weights").write_text("mine")
    assert run.checkpoint is not None
    run.checkpoint.remove()
    assert not folder.exists()
    assert TaskRun(RecordedRun()).checkpoint_dir.is_dir()


def test_code_without_torch_saves_and_resumes_without_it(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.support.recorded_run import RecordedRun
from kdecay_search.user_code.run import run_function
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
