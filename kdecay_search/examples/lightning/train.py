"""A search for the schedule of a training in Lightning. Put your own module and data here.

The lines that use `run` are all that a search needs.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from kdecay_search import TaskRun
from kdecay_search.lightning import KDecayCallback


def train(run: TaskRun) -> None:
    """Train one run; a worker calls this function once for every run."""
    torch.set_num_threads(1)  # this network is too small for more
    run.seed_everything()  # initial weights and data order: the same for every schedule
    training, held_out = data(run.purpose)
    callback = KDecayCallback(run, monitor="val_error")  # sets the learning rate, reports
    trainer = lightning.Trainer(
        max_epochs=run.epochs,
        accelerator=run.device,
        devices=1,
        callbacks=[callback],
        default_root_dir=run.checkpoint_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Classifier(),
        DataLoader(training, batch_size=run.args["batch_size"], shuffle=True),
        DataLoader(held_out, batch_size=520),
        ckpt_path=callback.ckpt_path,  # an interrupted run resumes where it stopped
    )


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 10),
        )

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        images, labels = batch
        wrong = self.network(images).argmax(1) != labels
        self.log("val_error", 100 * wrong.float().mean())  # in percent

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def data(purpose: str) -> tuple[TensorDataset, TensorDataset]:
    """Images to train on, and images to measure the error on.

    A search splits the training set and does not touch the test set. A confirmation
    (`kdecay confirm`) trains on the whole training set and measures the error on the test set.
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, held_out, rest = order[:360], order[360:1400], order[1400:]
    if purpose == "confirmation":
        rest, held_out = order[360:], test
    return TensorDataset(images[rest], labels[rest]), TensorDataset(
        images[held_out], labels[held_out]
    )
