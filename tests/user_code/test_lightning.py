"""Lightning's ``Trainer`` by steps, under both names of the library."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Released
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun
from tests.user_code.test_integrations import BATCH, Net, Watcher, samples

STEPS, EVERY, ACCUMULATED, BATCHES = 12, 4, 2, 6
NAMES = ["lightning.pytorch", "pytorch_lightning"]

pytestmark = pytest.mark.filterwarnings("ignore")


def recorded(
    folder: Path, direction: str = "min", every: int = EVERY, **options: Any
) -> RecordedRun:
    task = {"kind": "python", "entry": "mine:train", "steps": STEPS, "report_every": every}
    return RecordedRun(folder, task=task | {"metric": {"direction": direction}}, **options)


def training(run: TaskRun, name: str = NAMES[0], **options: Any) -> None:
    lightning = import_module(name)

    from kdecay_search.lightning import KDecayCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, number: int) -> Tensor:
            return self.net(*batch)["loss"]

        def validation_step(self, batch: Any, number: int) -> None:
            self.log("val_loss", self.net(*batch)["loss"])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=7.0, momentum=0.9)

    callback = KDecayCallback(run, "val_loss", mode=options.pop("mode", None))
    batches = options.pop("batches", BATCHES)
    run.seed_everything()
    trainer = lightning.Trainer(**{
        "max_steps": STEPS, "max_epochs": -1, "accumulate_grad_batches": ACCUMULATED,
        "val_check_interval": EVERY * ACCUMULATED, "check_val_every_n_epoch": None,
        "callbacks": [callback, *options.pop("callbacks", [])], "accelerator": "cpu",
        "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "default_root_dir": run.checkpoint_dir, "num_sanity_val_steps": 1,
    } | {"enable_checkpointing": False} | options)  # fmt: skip
    trainer.fit(
        Module(),
        DataLoader(TensorDataset(*samples(batches * BATCH, 1)), batch_size=BATCH, shuffle=True),
        DataLoader(TensorDataset(*samples(50, 2)), batch_size=16),
        ckpt_path=callback.ckpt_path,
    )


def expected_rates(run: RecordedRun) -> list[float]:
    schedule = run.spec.schedule_for(run.ks)
    return [schedule(step, STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_of_steps(tmp_path: Path, name: str) -> None:
    """Three updates make an epoch, and four a report."""
    pytest.importorskip(name)
    run = recorded(tmp_path, ks=(1.5, 4.0))
    with Watcher() as watcher:
        run_function(lambda task_run: training(task_run, name), run)
    assert watcher.rates == pytest.approx(expected_rates(run), rel=1e-12)
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3]
    assert all(epoch.validation_error != epoch.averaged_error for epoch in run.epochs)


def test_a_resumed_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    """Every second epoch, of two updates, ends with a report: checkpoints are saved then."""
    whole = recorded(tmp_path / "whole")
    run_function(lambda run: training(run, batches=4), whole)
    first, second = (recorded(tmp_path / "run", ends=ends) for ends in ({2: Released}, {}))
    with pytest.raises(Released):
        run_function(lambda run: training(run, batches=4), first)
    with Watcher() as watcher:
        run_function(lambda run: training(run, batches=4), second)
    assert watcher.rates == pytest.approx(expected_rates(second)[8:], rel=1e-12)
    assert second.restored == first.epochs == whole.epochs[:2]
    assert [*second.restored, *second.epochs] == whole.epochs


def test_a_run_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    """Its epochs of three updates end without a report."""
    whole = recorded(tmp_path / "whole")
    run_function(training, whole)
    first, second = (recorded(tmp_path / "run", ends=ends) for ends in ({2: Released}, {}))
    with pytest.raises(Released):
        run_function(training, first)
    run_function(training, second)
    assert (second.restored, second.epochs) == ([], whole.epochs)


def test_the_end_of_a_training_is_validated(tmp_path: Path) -> None:
    run = recorded(tmp_path, every=5)
    with pytest.raises(
        TaskError, match=r"task\.steps = 12 must be a multiple of task\.report_every"
    ):
        run_function(training, run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 50}, r"max_steps=50, max_epochs=-1\) makes 50 updates, but this study has "),
        ({"max_epochs": 2}, "makes 6 updates, but this study has task.steps = 12"),
        ({"val_check_interval": 6 * ACCUMULATED}, r"no report from step 1 to 4"),
        ({"mode": "max"}, r"KDecayCallback\(mode='max'\) means that higher is better, but task"),
    ],
)
def test_arguments_that_do_not_suit_the_study(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        run_function(lambda run: training(run, **options), recorded(tmp_path))


def test_steps_in_a_study_of_epochs(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"max_steps=5\): this study has task.epochs = 3; leave"):
        run_function(lambda run: training(run, max_steps=5), RecordedRun(tmp_path))


def test_other_callbacks_agree_on_the_direction(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    stopping = EarlyStopping(monitor="val_loss", mode="min")
    with pytest.raises(TaskError, match=r"EarlyStopping\(monitor='val_loss', mode='min'\) means"):
        run_function(lambda run: training(run, callbacks=[stopping]), recorded(tmp_path, "max"))
