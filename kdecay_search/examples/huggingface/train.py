"""A search for the schedule of a Hugging Face Trainer. Put your own model and data here.

The lines that use `run` are all that a search needs.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

from kdecay_search import TaskRun
from kdecay_search.huggingface import attach


def train(run: TaskRun) -> None:
    """Train one run; a worker calls this function once for every run."""
    torch.set_num_threads(1)  # this network is too small for more
    run.seed_everything()  # initial weights: the same for every schedule
    training, held_out = data(run.purpose)
    settings = TrainingArguments(
        run.checkpoint_dir,
        num_train_epochs=run.epochs,
        per_device_train_batch_size=run.args["batch_size"],
        per_device_eval_batch_size=520,
        weight_decay=0.01,
        seed=run.seed,  # data order: the same for every schedule
        eval_strategy="epoch",
        save_strategy="epoch",  # an interrupted run resumes where it stopped
        save_total_limit=2,
        use_cpu=run.device == "cpu",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        Classifier(),
        settings,
        train_dataset=training,
        eval_dataset=held_out,
        compute_metrics=error_percent,
    )
    # Sets the learning rate, and reports the error and that of averaged weights after every epoch.
    trainer.train(resume_from_checkpoint=attach(run, trainer, error="error"))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def error_percent(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the images that are classified wrongly, in percent."""
    wrong = prediction.predictions.argmax(-1) != prediction.label_ids
    return {"error": 100 * float(wrong.mean())}


class Digits(Dataset):
    """The images of handwritten digits that have these numbers."""

    def __init__(self, numbers: list[int]) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.data[numbers] / 16, dtype=torch.float32)
        self.labels = torch.tensor(digits.target[numbers])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}


def data(purpose: str) -> tuple[Digits, Digits]:
    """Images to train on, and images to measure the error on.

    A search splits the training set and does not touch the test set. A confirmation
    (`kdecay confirm`) trains on the whole training set and measures the error on the test set.
    """
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).tolist()
    test, held_out, rest = order[:360], order[360:1400], order[1400:]
    if purpose == "confirmation":
        rest, held_out = order[360:], test
    return Digits(rest), Digits(held_out)
