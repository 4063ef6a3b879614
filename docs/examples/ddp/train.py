"""A small network trained by DistributedDataParallel, in a search for its schedule."""

import torch
import torch.distributed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def data(purpose):
    """Points on two spirals. Returns what to train on, and what to measure the error on."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(1500, generator=generator) * 6
    label = torch.arange(1500) % 2
    radius = (angle + 0.3 * torch.randn(1500, generator=generator)) / 6
    turned = angle + torch.pi * label
    points = torch.stack([radius * turned.cos(), radius * turned.sin()], dim=1)
    train, held_out, test = TensorDataset(points, label), slice(700, 1000), slice(1000, 1500)
    last = 700 if purpose == "search" else 1000
    measured = held_out if purpose == "search" else test
    return TensorDataset(*train[:last]), train[measured]


def train(run):
    torch.distributed.init_process_group("nccl" if "cuda" in run.device else "gloo")
    if "cuda" in run.device:
        torch.cuda.set_device(run.device)
    run.seed_everything()
    training, (points, labels) = data(run.purpose)
    sampler = DistributedSampler(training, seed=run.seed, drop_last=True)
    loader = DataLoader(training, run.args["global_batch"] // run.world_size, sampler=sampler)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))
    model = DistributedDataParallel(model.to(run.device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    run.steps_per_epoch = len(loader)
    run.drive(optimizer)
    average = run.average(model, optimizer)
    run.keep(model, optimizer, average)

    def error_percent():
        model.eval()
        with torch.no_grad():
            wrong = model(points.to(run.device)).argmax(1) != labels.to(run.device)
        return 100 * wrong.float().mean()

    for epoch in run.remaining_epochs():
        sampler.set_epoch(epoch)
        model.train()
        for inputs, targets in loader:
            loss = cross_entropy(model(inputs.to(run.device)), targets.to(run.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        error = error_percent()
        with average:
            averaged_error = error_percent()
        run.report(epoch, error, averaged_error)
    torch.distributed.destroy_process_group()
