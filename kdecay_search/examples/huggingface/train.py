"""A training with Hugging Face's Trainer, brought into a search. Put your own model and data here.

The lines with `run` are all that a search needs.
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
    """Train one run: the first argument is all that a worker gives."""
    torch.set_num_threads(1)  # this network is too small for more
    run.seed_everything()  # first weights: the same for every schedule
    training, held_out = data(run.purpose)
    settings = TrainingArguments(
        run.checkpoint_dir,
        num_train_epochs=run.epochs,
        per_device_train_batch_size=run.args["batch_size"],
        per_device_eval_batch_size=520,
        weight_decay=0.01,
        seed=run.seed,  # order of the data: the same for every schedule
        eval_strategy="epoch",
        save_strategy="epoch",  # an interrupted run goes on where it stood
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
    # The learning rate, averaged weights, and a report after every epoch.
    trainer.train(resume_from_checkpoint=attach(run, trainer, error="error"))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def error_percent(prediction: EvalPrediction) -> dict[str, float]:
    """Images that the model gets wrong, in percent."""
    wrong = prediction.predictions.argmax(-1) != prediction.label_ids
    return {"error": 100 * float(wrong.mean())}


class Digits(Dataset):
    """Images of handwritten digits, by their numbers."""

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

    A search may not see the test set: it splits the training set. Its confirmation
    (`kdecay confirm`) trains on the whole training set and opens the test set.
    """
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).tolist()
    test, held_out, rest = order[:360], order[360:1400], order[1400:]
    if purpose == "confirmation":
        rest, held_out = order[360:], test
    return Digits(rest), Digits(held_out)
