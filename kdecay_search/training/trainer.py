"""The training loop of the built-in image classification task, ``kind = "images"``.

:func:`train` is the task's entry point. A worker calls it with one run: one training from the first
optimizer update to the last.
"""

from __future__ import annotations

from dataclasses import astuple

import torch
from torch import Tensor
from torch.nn import functional

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.comparators import schedule_of
from kdecay_search.tasks.protocol import Epoch, Released, Run
from kdecay_search.training import checkpoints, models
from kdecay_search.training.averaging import AveragedModel
from kdecay_search.training.data.held_out import Purpose
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import AnySplit
from kdecay_search.training.data_loaders import DataLoaders, make_data_loaders
from kdecay_search.training.device import make_deterministic, release_memory, resolve_device
from kdecay_search.training.evaluation import Evaluator
from kdecay_search.training.precision import autocast, default_dtype, dtype_of
from kdecay_search.training.process_group import ALONE, ProcessGroup, process_group
from kdecay_search.training.seeding import forked_rng


def train(run: Run) -> None:
    """Train ``run`` to its last update and report every epoch.

    Training resumes from the run's checkpoint if there is one. A run's numbers are the same to the
    last bit on one device with the same settings and library versions, wherever the run was
    interrupted and whatever this process trained before.

    Each of several processes that train a run together (:mod:`.process_group`) calls it with its
    own rank and device.

    Args:
        run: The run to train; its study must have a task of kind ``images``.

    Raises:
        TypeError: The study's task is of another kind.
        KDecayError: The device or the data cannot be used.
        Interruption: The run was pruned, released or lost; raised by ``run``.
    """
    task, split, device = prepared(run)
    with forked_rng("model", run.seed, device), process_group(run, device) as group:
        Trainer(run, task, split, device, group).fit()


def prepared(run: Run) -> tuple[ImagesTask, AnySplit, torch.device]:
    """Make this process ready to train a run: its task, its images, and the device.

    Raises:
        TypeError: The study's task is of another kind.
        KDecayError: The device or the data cannot be used.
    """
    task = run.spec.task
    if not isinstance(task, ImagesTask):
        raise TypeError(f"a task of kind 'images' was expected, not {task.kind!r}")
    device = resolve_device(run.device)
    make_deterministic(task.threads)
    release_memory(device)
    purpose = Purpose.CONFIRMATION if run.comparator else Purpose.SEARCH
    return task, load(task.data, device, purpose), device


class Trainer:
    """Trains one run: its model, averaged model, optimizer, schedule and data loaders.

    Args:
        run: The run.
        task: The task of its study.
        split: Its images, on ``device`` if they are held there.
        device: Where to train.
        group: The ranks that train the run. All hold the same weights, and the state that a
            checkpoint holds is rank 0's, so that any number of ranks can go on from it.
        loaders: The run's data loaders, if another run of its seed has them already.
    """

    def __init__(
        self,
        run: Run,
        task: ImagesTask,
        split: AnySplit,
        device: torch.device,
        group: ProcessGroup = ALONE,
        loaders: DataLoaders | None = None,
    ) -> None:
        self._run, self._task, self._device, self._group = run, task, device, group
        if loaders is None:
            decoders = run.spec.workers.decoders
            loaders = make_data_loaders(task, split, run.seed, device, decoders, group)
        self._train_loader = loaders.train
        self._evaluator = Evaluator(loaders.validation, device, group)
        # Built on the CPU, so that the first weights are the same on every device.
        with default_dtype(dtype_of(task)):
            model = models.build(task.model, split.classes, split.channels)
        self._model = model.to(device).to(memory_format=torch.channels_last)
        self._network = group.wrapped(self._model, task.sync_batch_norm)
        steps_per_epoch = self._train_loader.steps_per_epoch
        half_life = task.averaging_share * task.epochs * steps_per_epoch
        self._averaged = AveragedModel(self._model, half_life)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            lr=0.0,  # set before every update
            momentum=task.optimizer.momentum,
            nesterov=task.optimizer.nesterov,
            weight_decay=task.optimizer.weight_decay,
            fused=True,
        )
        self._schedule = schedule_of(
            run.spec, run.comparator, run.ks, steps_per_epoch, run.lr_max, run.point
        )
        self._total_steps = task.epochs * steps_per_epoch
        self._curve: list[Epoch] = []
        self._step = 0
        """Number of optimizer updates made so far."""
        self._loss_sum = torch.zeros((), device=device)
        """Sum of the losses (nats) of the current epoch's updates."""
        self._learning_rate = 0.0

    def fit(self) -> None:
        """Train all remaining epochs and report each of them.

        The state is saved after every epoch, whenever a checkpoint is due within an epoch, and when
        the worker is asked to stop (:class:`Released`). Training ends early if the loss diverges.
        """
        self._resume()
        try:
            while not self.is_over:
                self._record(self._train_epoch(len(self._curve) + 1))
        except Released:
            self._save()
            raise

    @property
    def is_over(self) -> bool:
        """Whether all epochs are trained, or the loss has diverged."""
        return len(self._curve) == self._task.epochs or (
            bool(self._curve) and self._curve[-1].diverged
        )

    def _train_epoch(self, number: int) -> Epoch:
        """Train epoch ``number`` (from 1), then measure it.

        Reading the three results at the end is the only place that waits for the device.
        """
        done = self._step % self._train_loader.steps_per_epoch
        for images, labels in self._train_loader.epoch(number, done):
            self._before_update()
            self._loss_sum += self._train_step(images, labels)
        with self._autocast():
            raw, averaged = self._evaluator.errors(self._model, self._averaged.model)
        return self._measured(number, raw, averaged)

    def _before_update(self) -> None:
        """End the training if it must end, and save the state if that is due."""
        self._run.poll()
        if self._run.checkpoint is not None and self._run.checkpoint.is_due:
            self._save()

    def _measured(self, number: int, raw: Tensor, averaged: Tensor) -> Epoch:
        """What is known after epoch ``number``: the errors are scalars on the device."""
        mean_loss = self._loss_sum.double() / self._train_loader.steps_per_epoch
        self._loss_sum.zero_()
        loss, error, averaged_error = torch.stack([mean_loss, raw, averaged]).tolist()
        measured = Epoch(number, loss, error, averaged_error, self._learning_rate)
        return measured.as_diverged(self._task.metric) if measured.diverged else measured

    def _record(self, epoch: Epoch) -> None:
        """Report an epoch and save the state after it."""
        self._curve.append(epoch)
        self._run.report(epoch)
        self._save()

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make one optimizer update at the schedule's learning rate.

        Args:
            images: Normalised images (N, C, H, W), channels last in memory: this rank's part of the
                batch.
            labels: int64 class numbers (N,).

        Returns:
            The whole batch's mean cross-entropy before the update: a scalar on the device.
        """
        self._group.seed_update(self._run.seed, self._step)
        with self._autocast():
            loss = functional.cross_entropy(self._network(images), labels)
        loss = self._group.scaled(loss, len(labels), self._train_loader.size)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update()
        return self._group.mean(loss.detach())

    def _update(self) -> None:
        """Make one optimizer update at the schedule's learning rate, by the gradients that the
        parameters have."""
        self._learning_rate = self._schedule(self._step, self._total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate
        self._optimizer.step()
        self._averaged.update()
        self._step += 1

    def _autocast(self) -> torch.autocast:
        return autocast(self._task, self._device)

    def _save(self) -> None:
        if self._run.checkpoint is None or self._group.rank or getattr(self._run, "is_lost", False):
            return  # rank 0 saves, unless another worker may hold the run by now
        state: checkpoints.State = {
            "step": self._step,
            "learning_rate": self._learning_rate,
            "loss_sum": self._loss_sum,
            "curve": [astuple(epoch) for epoch in self._curve],
            # Copies, since torch saves all of a tensor's memory, which fused networks share.
            "model": {name: each.clone() for name, each in self._model.state_dict().items()},
            "averaged": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": checkpoints.random_state(self._device),
        }
        checkpoints.save(self._run.checkpoint, state)

    def _resume(self) -> None:
        """Load the state that an interrupted attempt at this run saved, if there is one."""
        state = checkpoints.load(self._run.checkpoint) if self._run.checkpoint else None
        if state is None:
            return
        self._step = state["step"]
        self._learning_rate = state["learning_rate"]
        self._loss_sum.copy_(state["loss_sum"])
        self._model.load_state_dict(state["model"])
        self._averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        checkpoints.set_random_state(state["random"], self._device)
        self._curve = [Epoch(*values) for values in state["curve"]]
        self._run.restore(self._curve)
