"""A search for the schedule of a training in PyTorch. Put your own model, data and loop here.

The lines that use `run` are all that a search needs.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from kdecay_search import TaskRun


def train(run: TaskRun) -> None:
    """Train one run; a worker calls this function once for every run."""
    torch.set_num_threads(1)  # several workers with one core each are faster
    run.seed_everything()  # initial weights and data order: the same for every schedule
    training, held_out = data(run.purpose)
    loader = DataLoader(training, batch_size=run.args["batch_size"], shuffle=True)
    model = network().to(run.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    run.steps_per_epoch = len(loader)  # number of optimizer updates
    run.drive(optimizer)  # sets the learning rate before every update
    average = run.average(model, optimizer)  # averaged weights: hopeless runs can end early
    run.keep(model, optimizer, average)  # an interrupted run resumes where it stopped

    for epoch in run.remaining_epochs():
        model.train()
        for images, labels in loader:
            loss = cross_entropy(model(images.to(run.device)), labels.to(run.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        error = error_percent(model, held_out, run.device)
        with average:
            averaged_error = error_percent(model, held_out, run.device)
        run.report(epoch, error, averaged_error)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 10),
    )


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


@torch.no_grad()
def error_percent(model: nn.Module, held_out: TensorDataset, device: str) -> float:
    """Share of the images that are classified wrongly, in percent."""
    model.eval()
    images, labels = (tensor.to(device) for tensor in held_out.tensors)
    return 100 * (model(images).argmax(1) != labels).float().mean().item()
