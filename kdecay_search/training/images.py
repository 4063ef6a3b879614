"""The built-in image classification task, ``kind = "images"``."""

from __future__ import annotations

import math
from dataclasses import astuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.comparators import schedule_of
from kdecay_search.tasks.protocol import DIVERGED_ERROR, Epoch, Released, Run
from kdecay_search.training import checkpoints, models
from kdecay_search.training.averaging import AveragedWeights
from kdecay_search.training.data import AnySplit, Purpose, load
from kdecay_search.training.device import make_deterministic, release_memory, resolve
from kdecay_search.training.evaluation import Validation
from kdecay_search.training.feed import feed
from kdecay_search.training.randomness import isolated


def train(run: Run) -> None:
    """Train ``run`` to its last update, reporting every epoch.

    It goes on from the run's checkpoint, if it has one, else it begins with the first update. The
    same run gives the same numbers to the bit on the same device with the same settings and
    library versions, wherever it was interrupted and whatever this process did before.
    """
    task = run.spec.task
    if not isinstance(task, ImagesTask):
        raise TypeError(f"a task of kind 'images' was expected, not {task.kind!r}")
    device = resolve(run.device)
    make_deterministic(task.threads)
    release_memory(device)
    split = load(task.data, device, Purpose.CONFIRMATION if run.comparator else Purpose.SEARCH)
    with isolated("model", run.seed, device):
        Training(run, task, split, device).all_epochs()


class Training:
    """One run's model, averages, optimizer and data."""

    def __init__(self, run: Run, task: ImagesTask, split: AnySplit, device: torch.device) -> None:
        self._run, self._task, self._device = run, task, device
        data = feed(task, split, run.seed, device, run.spec.workers.decoders)
        self._batches = data.training
        self._validation = Validation(data.validation, device)
        self._model = _model(task, split, device)
        steps_per_epoch = self._batches.steps_per_epoch
        half_life = task.averaging_share * task.epochs * steps_per_epoch
        self._averaged = AveragedWeights(self._model, half_life)
        self._optimizer = _optimizer(task, self._model)
        self._schedule = schedule_of(run.spec, run.comparator, run.ks, steps_per_epoch, run.lr_max)
        self._total_steps = task.epochs * steps_per_epoch
        self._curve: list[Epoch] = []
        self._step = 0
        """Updates done."""
        self._loss_sum = torch.zeros((), device=device)
        """Of the updates of the epoch that is under way."""
        self._learning_rate = 0.0

    def all_epochs(self) -> None:
        """Train what is left. On :class:`Released`, the state is kept for whoever goes on."""
        self._resume()
        try:
            while len(self._curve) < self._task.epochs and not self._has_diverged:
                self._curve.append(self._epoch(len(self._curve) + 1))
                self._run.report(self._curve[-1])
                self._save()
        except Released:
            self._save()
            raise

    @property
    def _has_diverged(self) -> bool:
        return bool(self._curve) and self._curve[-1].diverged

    def _epoch(self, number: int) -> Epoch:
        """Train for an epoch and look at the result: the only place that waits for the device."""
        done = self._step % self._batches.steps_per_epoch
        for images, labels in self._batches.epoch(number, done):
            self._run.poll()
            if self._run.checkpoint is not None and self._run.checkpoint.is_due:
                self._save()
            self._loss_sum += self._update(images, labels)
        with self._precision():
            raw, averaged = self._validation.errors(self._model, self._averaged.model)
        mean_loss = self._loss_sum.double() / self._batches.steps_per_epoch
        self._loss_sum.zero_()
        loss, error, averaged_error = torch.stack([mean_loss, raw, averaged]).tolist()
        if not math.isfinite(loss):
            error = averaged_error = DIVERGED_ERROR
        return Epoch(number, loss, error, averaged_error, self._learning_rate)

    def _update(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimizer update at the schedule's rate; returns the loss before it."""
        self._learning_rate = self._schedule(self._step, self._total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate
        with self._precision():
            loss = functional.cross_entropy(self._model(images), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._averaged.update()
        self._step += 1
        return loss.detach()

    def _save(self) -> None:
        if self._run.checkpoint is not None:
            checkpoints.save(self._run.checkpoint, self._state())

    def _state(self) -> checkpoints.State:
        return {
            "step": self._step,
            "learning_rate": self._learning_rate,
            "loss_sum": self._loss_sum,
            "curve": [astuple(epoch) for epoch in self._curve],
            "model": self._model.state_dict(),
            "averaged": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": checkpoints.random_state(self._device),
        }

    def _resume(self) -> None:
        """Take up the state that an interrupted attempt at this run left, if there is one."""
        state = checkpoints.load(self._run.checkpoint) if self._run.checkpoint else None
        if state is not None:
            self._restore(state)
            self._run.restore(self._curve)

    def _restore(self, state: checkpoints.State) -> None:
        self._step = state["step"]
        self._learning_rate = state["learning_rate"]
        self._loss_sum.copy_(state["loss_sum"])
        self._model.load_state_dict(state["model"])
        self._averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        checkpoints.set_random_state(state["random"], self._device)
        self._curve = [Epoch(*values) for values in state["curve"]]

    def _precision(self) -> torch.autocast:
        reduced = self._task.precision == "bfloat16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=reduced)


def _model(task: ImagesTask, split: AnySplit, device: torch.device) -> nn.Module:
    """Built on the CPU, so that it starts the same on every device."""
    model = models.build(task.model, split.classes, split.channels)
    return model.to(device).to(memory_format=torch.channels_last)


def _optimizer(task: ImagesTask, model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(),
        lr=0.0,  # set before every update
        momentum=task.optimizer.momentum,
        nesterov=task.optimizer.nesterov,
        weight_decay=task.optimizer.weight_decay,
        fused=True,
    )
