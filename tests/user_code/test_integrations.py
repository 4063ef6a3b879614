"""The callbacks for Lightning and for Hugging Face's ``Trainer``, run with these libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Released
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun

EPOCHS, BATCHES = 3, 5
BATCH = 8

pytestmark = pytest.mark.filterwarnings("ignore")


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return inputs, (inputs.sum(1) > 0).long()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(), torch.nn.ReLU(),
            torch.nn.Linear(6, 2),
        )  # fmt: skip

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def expected_rates(run: RecordedRun) -> list[float]:
    schedule = run.spec.schedule_for(run.ks, BATCHES)
    return [schedule(step, EPOCHS * BATCHES) for step in range(EPOCHS * BATCHES)]


class Watcher:
    """Records the LR of every update of any optimizer."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def __enter__(self) -> Watcher:
        from torch.optim.optimizer import register_optimizer_step_post_hook as hook

        self._handle = hook(lambda o, *_: self.rates.append(float(o.param_groups[0]["lr"])))
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


# ---- Lightning -------------------------------------------------------------------------------


def lightning_training(run: TaskRun, folder: Path, **options: Any) -> None:
    import lightning

    from kdecay_search.lightning import KDecayCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, number: int) -> Tensor:
            return self.net(*batch)["loss"]

        def validation_step(self, batch: Any, number: int) -> None:
            right = self.net(*batch)["logits"].argmax(1) == batch[1]
            self.log("val_accuracy", right.float().mean())

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=7.0, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    monitor = options.pop("monitor", "val_accuracy")
    callback = KDecayCallback(run, monitor, percent=lambda share: 100 - 100 * share)
    run.seed_everything()
    trainer = lightning.Trainer(
        **{"max_epochs": run.epochs} | options, accelerator="cpu", callbacks=[callback],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    training = TensorDataset(*samples(BATCHES * BATCH, 1))
    validation = TensorDataset(*samples(50, 2))
    trainer.fit(
        Module(),
        DataLoader(training, batch_size=BATCH, shuffle=True),
        DataLoader(validation, batch_size=16),
        ckpt_path=callback.ckpt_path,
    )


def huggingface_training(run: TaskRun, folder: Path, **options: Any) -> None:
    from transformers import Trainer, TrainingArguments

    from kdecay_search.huggingface import attach

    def errors(prediction: Any) -> dict[str, float]:
        wrong = prediction.predictions.argmax(-1) != prediction.label_ids
        return {"error": 100 * float(numpy.mean(wrong))}

    run.seed_everything()
    settings = {
        "num_train_epochs": run.epochs, "per_device_train_batch_size": BATCH, "seed": run.seed,
        "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip
    metric = options.pop("metric", "error")
    data = [
        [{"inputs": x, "labels": y} for x, y in zip(*samples(count, seed), strict=True)]
        for count, seed in ((BATCHES * BATCH, 1), (50, 2))
    ]
    trainer = Trainer(
        Net(), TrainingArguments(str(run.checkpoint_dir), **settings | options),
        train_dataset=data[0], eval_dataset=data[1], compute_metrics=errors,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=attach(run, trainer, metric))


TRAININGS = [lightning_training, huggingface_training]


@pytest.mark.parametrize("training", TRAININGS)
def test_a_trainer_follows_the_schedule_and_reports(tmp_path: Path, training: Any) -> None:
    run = RecordedRun(tmp_path / "run", ks=(1.5, 4.0))
    with Watcher() as watcher:
        run_function(lambda task_run: training(task_run, tmp_path), run)
    assert watcher.rates == pytest.approx(expected_rates(run), rel=1e-12)
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3]
    assert all(epoch.validation_error != epoch.averaged_error for epoch in run.epochs[:1])
    assert all(0 <= epoch.averaged_error <= 100 for epoch in run.epochs)
    assert run.epochs[-1].learning_rate == pytest.approx(watcher.rates[-1])
    assert run.polls >= EPOCHS * BATCHES


@pytest.mark.parametrize("training", TRAININGS)
def test_a_trainer_resumes_to_the_same_numbers(tmp_path: Path, training: Any) -> None:
    whole = RecordedRun(tmp_path / "whole")
    run_function(lambda task_run: training(task_run, tmp_path), whole)
    first, second = (RecordedRun(tmp_path / "run", ends) for ends in ({2: Released}, {}))
    with Watcher() as watcher:
        with pytest.raises(Released):
            run_function(lambda task_run: training(task_run, tmp_path), first)
        run_function(lambda task_run: training(task_run, tmp_path), second)
    assert watcher.rates == pytest.approx(expected_rates(whole), rel=1e-12)
    assert second.restored == first.epochs
    assert [*second.restored, *second.epochs] == whole.epochs


@pytest.mark.parametrize(
    ("training", "options", "message"),
    [
        (lightning_training, {"max_epochs": 7}, "write max_epochs=run.epochs"),
        (lightning_training, {"monitor": "val_loss"}, "no metric 'val_loss' after epoch 1"),
        (huggingface_training, {"num_train_epochs": 7}, "write num_train_epochs=run.epochs"),
        (huggingface_training, {"eval_strategy": "no"}, "write eval_strategy='epoch'"),
        (huggingface_training, {"metric": "f1"}, "the evaluation returned no 'eval_f1'"),
    ],
)
def test_unsuitable_settings_are_refused(
    tmp_path: Path, training: Any, options: dict[str, Any], message: str
) -> None:
    run = RecordedRun(tmp_path / "run")
    with pytest.raises(TaskError, match=message):
        run_function(lambda task_run: training(task_run, tmp_path, **options), run)
    assert run.epochs == []


def test_a_lightning_metric_is_averaged_over_samples() -> None:
    import torchmetrics

    from kdecay_search.lightning import _LoggedMetric

    metric = torchmetrics.MeanMetric()
    logged = _LoggedMetric("val_error")
    for value in (1.0, 2.0, 6.0):
        metric.update(value)
        logged("val_error", metric)
        logged("another", 50.0)
    assert logged.mean() == 3.0
    plain = _LoggedMetric("val_error")
    for size, value in ((16, 10.0), (2, 100.0)):
        plain.batch_size = size
        plain("val_error", torch.tensor(value))
    assert plain.mean() == pytest.approx(20.0)
