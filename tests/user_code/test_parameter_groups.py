"""Parameter groups: ratios to a stated base, frozen groups, groups that come later, and ``try``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.training.lr_driver import LRDriver, ScheduleLR
from kdecay_search.user_code.findings import Severity, findings
from kdecay_search.user_code.run import TaskRun
from kdecay_search.user_code.tryout import Tryout, try_function
from tests.support.memory_studies import study
from tests.support.recorded_run import RecordedRun
from tests.user_code.task_runs import STEPS, with_steps

BY = pytest.mark.parametrize("by", ["drive", "scheduler"])


def group(lr: float) -> dict[str, Any]:
    return {"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr}


def sgd(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([group(rate) for rate in rates], lr=7.0)


class Updates:
    """Makes updates whose LRs a run sets, and records what each group got."""

    def __init__(self, optimizer: torch.optim.Optimizer, by: str, **options: Any) -> None:
        self.run = with_steps(RecordedRun())
        self.optimizer = optimizer
        self.scheduler: ScheduleLR | None = None
        if by == "scheduler":
            self.scheduler = self.run.scheduler(optimizer, **options)
        else:
            self.run.drive(optimizer, **options)
        self.used: list[list[float]] = []

    def make(self, count: int) -> None:
        for _ in range(count):
            self.optimizer.step()
            self.used.append([float(each["lr"]) for each in self.optimizer.param_groups])
            if self.scheduler is not None:
                self.scheduler.step()

    def expected(self, *ratios: float) -> list[list[float]]:
        """The LRs of all updates made so far, for groups with these ratios."""
        rates = [self.run.schedule(step) for step in range(len(self.used))]
        return [[ratio * rate for ratio in ratios] for rate in rates]


@BY
@pytest.mark.parametrize("rates", [(0.0, 0.5, 0.25), (0.5, 0.0, 0.25)])
def test_a_frozen_group_stays_frozen(by: str, rates: tuple[float, ...]) -> None:
    """Before, a first group with lr 0 was trained at the schedule's full rate."""
    updates = Updates(sgd(*rates), by)
    updates.make(5)
    assert updates.used == updates.expected(*(rate / 0.5 for rate in rates))


@BY
def test_the_base_can_be_stated(by: str) -> None:
    updates = Updates(sgd(0.1, 0.4, 0.0), by, base_lr=0.2)
    updates.make(5)
    assert updates.used == updates.expected(0.5, 2.0, 0.0)


@BY
def test_the_optimizer_s_own_rate_is_the_base_if_a_group_has_it(by: str) -> None:
    """Layers of a pretrained network often come first, each with less than the optimizer's lr."""
    groups = [group(0.001), group(0.01), {"params": [torch.nn.Parameter(torch.ones(1))]}, group(0)]
    updates = Updates(torch.optim.SGD(groups, lr=0.1), by)
    updates.make(5)
    assert updates.used == updates.expected(0.001 / 0.1, 0.01 / 0.1, 1.0, 0.0)
    updates = Updates(torch.optim.SGD([group(0.2), group(0.4)], lr=0.1), by)
    updates.make(5)
    assert updates.used == updates.expected(1.0, 2.0)


@BY
def test_the_base_stays_when_groups_come_later_and_the_run_is_resumed(by: str) -> None:
    """A resumed run adds its groups at once, and one of them has the optimizer's own lr."""

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([group(0.05)], lr=0.5)

    first = Updates(optimizer(), by)
    first.make(2)
    first.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    first.make(2)
    assert first.used[3] == first.expected(1.0, 10.0)[3]
    again = optimizer()
    again.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    second = Updates(again, by)
    again.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    if second.scheduler is not None and first.scheduler is not None:
        second.scheduler.load_state_dict(copy.deepcopy(first.scheduler.state_dict()))
    else:
        second.run._drivers[0].updates = 4
    second.make(3)
    first.make(3)
    assert second.used == first.used[4:]


@BY
@pytest.mark.parametrize("base", [0, -0.1, float("nan"), float("inf"), "0.1", True])
def test_a_base_that_is_no_rate_is_one_line(by: str, base: Any) -> None:
    with pytest.raises(TaskError, match=r"base_lr=.*: must be a number above 0"):
        Updates(sgd(0.1), by, base_lr=base)


@BY
def test_an_optimizer_that_is_all_frozen_is_one_line(by: str) -> None:
    with pytest.raises(TaskError, match="every parameter group of the optimizer has lr 0"):
        Updates(sgd(0.0, 0.0), by)
    updates = Updates(sgd(0.0), by, base_lr=0.1)
    updates.optimizer.add_param_group(group(0.1))
    updates.make(3)
    assert updates.used == updates.expected(0.0, 1.0)


@BY
def test_groups_may_be_added_later(by: str) -> None:
    """Before, every run failed with ``ValueError: zip()``."""
    updates = Updates(sgd(0.5), by)
    updates.make(3)
    updates.optimizer.add_param_group(group(0.05))
    updates.optimizer.add_param_group(group(0.0))
    updates.make(3)
    assert updates.used[:3] == updates.expected(1.0)[:3]
    assert updates.used[3:] == updates.expected(1.0, 0.05 / 0.5, 0.0)[3:]


@BY
def test_a_rate_that_is_a_tensor_may_be_added_later(by: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    updates = Updates(torch.optim.AdamW([parameter], lr=torch.tensor(0.5)), by)
    updates.make(2)
    updates.optimizer.add_param_group(group(0.0) | {"lr": torch.tensor(0.25)})
    updates.make(2)
    for used, expected in zip(updates.used[2:], updates.expected(1.0, 0.5)[2:], strict=True):
        assert used == pytest.approx(expected)


@BY
def test_a_resumed_optimizer_has_the_same_ratios(by: str) -> None:
    """Also those of a group that was added later, whose lr is no longer what it was."""
    first = Updates(sgd(0.5, 0.0), by)
    first.make(2)
    first.optimizer.add_param_group(group(0.05))
    first.make(2)
    second = Updates(sgd(0.5, 0.0), by)
    second.optimizer.add_param_group(group(0.05))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    if second.scheduler is not None and first.scheduler is not None:
        second.scheduler.load_state_dict(copy.deepcopy(first.scheduler.state_dict()))
    else:
        second.run._drivers[0].updates = 4
    second.make(3)
    first.make(3)
    assert second.used == first.used[4:]


def test_states_of_earlier_versions_load() -> None:
    """Optimizers without ``initial_lr``, and schedulers with the ratios themselves."""

    def rate(step: int) -> float:
        return 0.1 / (1 + step)

    optimizer = sgd(0.5, 0.25)
    driver = LRDriver(optimizer, rate, lambda: None)
    state = optimizer.state_dict()
    for each, lr in zip(state["param_groups"], (0.01, 0.005), strict=True):
        each.pop("initial_lr", None)
        each["lr"] = lr
    optimizer.load_state_dict(state)
    driver.updates = 3
    optimizer.step()
    assert [each["lr"] for each in optimizer.param_groups] == [rate(3), 0.5 * rate(3)]
    scheduler = ScheduleLR(optimizer, rate, lambda: None)
    scheduler.load_state_dict({"updates": 7, "shares": [1.0, 0.25]})
    assert scheduler.get_last_lr() == [rate(7), 0.25 * rate(7)]


# ---- kdecay try --------------------------------------------------------------------------------


def tried(act: Callable[[TaskRun, torch.optim.SGD], Callable[[int], None]], *rates: float) -> str:
    """What a short run says about an optimizer with these groups; ``act`` returns what to do
    before each update."""

    def train(run: TaskRun) -> None:
        run.steps_per_epoch = STEPS
        optimizer = sgd(*rates)
        before_update = act(run, optimizer)
        for number in run.remaining_epochs():
            for step in range((number - 1) * STEPS, number * STEPS):
                before_update(step)
                optimizer.step()
            run.report(number, 40.0 / number)

    tryout = Tryout(study(task={"kind": "python", "epochs": 2, "entry": "mine:train"}))
    try_function(tryout, train, 2.0, "cpu", lambda text: None)
    (text,) = [f.text for f in findings(tryout) if "the LR" in f.text or "schedule's LR" in f.text]
    severities = {f.text: f.severity for f in findings(tryout)}
    return f"{severities[text]}: {text}"


def driven(run: TaskRun, optimizer: torch.optim.SGD) -> Callable[[int], None]:
    run.drive(optimizer)
    return lambda step: None


def test_try_accepts_frozen_groups_and_ratios() -> None:
    good = f"{Severity.GOOD}: all {2 * STEPS} optimizer updates used the schedule's LR"
    assert tried(driven, 0.0, 0.5, 0.05) == f"{good}, times 0 (frozen), 1, 0.1 by parameter group"
    assert tried(driven, 0.05) == tried(driven, 0.05, 0.05) == good


def test_try_accepts_a_stated_base_and_later_groups() -> None:
    def act(run: TaskRun, optimizer: torch.optim.SGD) -> Callable[[int], None]:
        run.drive(optimizer, base_lr=1.0)
        return lambda step: optimizer.add_param_group(group(0.01)) if step == 3 else None

    assert tried(act, 0.5, 0.05).startswith(f"{Severity.GOOD}: all")


def test_try_looks_at_all_groups() -> None:
    """Before, only the first one was looked at."""

    def act(run: TaskRun, optimizer: torch.optim.SGD) -> Callable[[int], None]:
        return lambda step: optimizer.param_groups[0].update(lr=run.schedule(step))

    assert tried(act, 0.1).startswith(f"{Severity.GOOD}: all")
    text = tried(act, 0.1, 0.01)
    assert text.startswith(f"{Severity.WRONG}: update 1 used the LR 0.01 in parameter group 1, but")
    assert "and the group's ratio gives 0.00" in text


def test_try_says_when_nothing_trains() -> None:
    def act(run: TaskRun, optimizer: torch.optim.SGD) -> Callable[[int], None]:
        run.schedule(0)
        return lambda step: None

    assert tried(act, 0.0).startswith(f"{Severity.WRONG}: update 0 used the LR 0, but")
    assert tried(act, 0.0, 5.0).startswith(
        f"{Severity.WRONG}: update 0 used the LR 5 in parameter group 1, but run.schedule(0) is 0.1"
    )


# ---- frameworks --------------------------------------------------------------------------------


def test_trainer_keeps_frozen_groups_and_a_stated_base(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from kdecay_search.huggingface import attach

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.head(self.body(x))
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    run = TaskRun(RecordedRun())
    model = Model()
    groups = [{"params": model.body.parameters(), "lr": 0.0},
              {"params": model.head.parameters(), "lr": 0.1}]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=1.0)
    settings = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=run.epochs, eval_strategy="epoch", save_strategy="no",
        per_device_train_batch_size=4, use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    data = [{"x": torch.randn(2), "labels": torch.tensor(i % 2)} for i in range(8)]
    trainer = transformers.Trainer(
        model, settings, train_dataset=data, eval_dataset=data, optimizers=(optimizer, None),
        compute_metrics=lambda result: {"error": 50.0},
    )  # fmt: skip
    attach(run, trainer, base_lr=0.2)
    body = copy.deepcopy(model.body.state_dict())
    used: list[list[float]] = []
    optimizer.register_step_pre_hook(
        lambda *_: used.append([each["lr"] for each in optimizer.param_groups])
    )
    trainer.train()
    assert used == [[0.0, 0.5 * run.schedule(step)] for step in range(run.total_steps)]
    assert all(torch.equal(body[key], value) for key, value in model.body.state_dict().items())


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning_takes_groups_that_are_added_later() -> None:
    lightning = pytest.importorskip("lightning")
    from kdecay_search.lightning import KDecayCallback

    used: list[list[float]] = []

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = torch.optim.SGD(self.head.parameters(), lr=0.1)
            optimizer.register_step_post_hook(
                lambda *_: used.append([each["lr"] for each in optimizer.param_groups])
            )
            return optimizer

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.trainer.optimizers[0].add_param_group(
                    {"params": self.body.parameters(), "lr": 0.01}
                )

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.head(self.body(batch[0])).square().mean()  # type: ignore[no-any-return]

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_error", 50.0)

    data = torch.utils.data.TensorDataset(torch.randn(8, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    run = TaskRun(RecordedRun())
    trainer = lightning.Trainer(
        max_epochs=run.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[KDecayCallback(run, averaged=False, base_lr=0.2)],
    )  # fmt: skip
    trainer.fit(Module(), loader, loader)
    steps = run.steps_per_epoch
    ratios = [(0.5,)] * steps + [(0.5, 0.01 / 0.2)] * (run.total_steps - steps)
    assert used == [
        [ratio * run.schedule(step) for ratio in ratios[step]] for step in range(run.total_steps)
    ]
