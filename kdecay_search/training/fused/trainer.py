"""Runs of one study, stage and seed, trained together by one process as one fused network.

All of them see the same batches; each has its own learning rate, optimizer state, average, reports
and checkpoint, and ends on its own. A checkpoint is that of a run that is trained alone: a run may
go on fused or alone from it, to the same numbers but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.tasks.protocol import Released, Run
from kdecay_search.training import checkpoints
from kdecay_search.training.data_loaders import DataLoaders, make_data_loaders
from kdecay_search.training.evaluation import Evaluator
from kdecay_search.training.fused.network import FusedNetwork
from kdecay_search.training.precision import autocast
from kdecay_search.training.seeding import forked_rng
from kdecay_search.training.trainer import Trainer, prepared

OnEnd = Callable[[Run, Exception | None], None]
"""Is told that a run has ended: trained to its end, or by this exception."""


def train_together(runs: Sequence[Run], on_end: OnEnd) -> None:
    """Train several runs to their ends, as one network as far as possible.

    Runs may resume from different updates: those that are ahead wait for the others to catch up. A
    run that ends, by an interruption, an error of its own or because it diverges, leaves the others
    as they are.

    Args:
        runs: Runs of one study, stage and seed, on one device. All belong to a search, or all to a
            confirmation. The study's task is of kind ``images``.
        on_end: Called once for every run, as soon as it has ended.

    Raises:
        TypeError: The study's task is of another kind.
        KDecayError: The device or the data cannot be used.
        Exception: The update of the fused network failed. ``on_end`` has not been called for the
            runs that were under way.
    """
    first = runs[0]
    task, split, device = prepared(first)
    loaders = make_data_loaders(task, split, first.seed, device, first.spec.workers.decoders)
    members = []
    for run in runs:
        try:
            with forked_rng("model", run.seed, device):
                member = Member(run, task, split, device, loaders=loaders)
                member.resume()
        except Exception as error:
            on_end(run, error)
        else:
            members.append(member)
    with forked_rng("model", first.seed, device):
        FusedTraining(members, loaders, task, device, on_end).fit()


class Member(Trainer):
    """A run that is trained together with others; :class:`FusedTraining` calls its methods."""

    def resume(self) -> None:
        """Load the checkpoint, if there is one, and note the state of the random generators."""
        self._resume()
        self.random_state = checkpoints.random_state(self._device)
        """State of torch's global generators before the next update: equal for all members."""

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self._model

    @property
    def models(self) -> tuple[nn.Module, nn.Module]:
        """The network and its average, which are evaluated after every epoch."""
        return self._model, self._averaged.model

    @property
    def step(self) -> int:
        """Number of optimizer updates made so far."""
        return self._step

    def begin_update(self) -> None:
        """Poll, and save the state if that is due."""
        self._before_update()

    def update(self, loss: Tensor) -> None:
        """Make an update by the gradients of ``loss``, a scalar, which are computed already."""
        self._update()
        self._loss_sum += loss

    def update_alone(self, images: Tensor, labels: Tensor) -> None:
        """Make the next update without others, as :class:`Trainer` does."""
        self._loss_sum += self._train_step(images, labels)

    def end_epoch(self, raw: Tensor, averaged: Tensor) -> None:
        """Report the epoch that is trained, with the errors of both models, and save the state."""
        self._record(self._measured(len(self._curve) + 1, raw, averaged))

    def save(self) -> None:
        """Save the state."""
        self._save()


class FusedTraining:
    """Trains runs until each has ended. Those that are at the same update are one network.

    Args:
        members: The runs.
        loaders: The data loaders of their seed.
        task: The task of their study.
        device: Where to train.
        on_end: Called once for every run, as soon as it has ended.
    """

    def __init__(
        self,
        members: Sequence[Member],
        loaders: DataLoaders,
        task: ImagesTask,
        device: torch.device,
        on_end: OnEnd,
    ) -> None:
        self._members: list[Member] = []
        """The runs that are trained now: all are at the same update."""
        self._waiting = sorted(members, key=attrgetter("step"))
        """The runs that are ahead of those, the next one first."""
        self._device = device
        self._loader = loaders.train
        self._evaluator = Evaluator(loaders.validation, device)
        self._autocast = partial(autocast, task, device)
        self._on_end = on_end
        self._network: FusedNetwork | None = None
        """All members' networks; None if members have come or left since it was made."""
        self._admit()

    def fit(self) -> None:
        """Train until every run has ended."""
        while True:
            for member in [each for each in (*self._members, *self._waiting) if each.is_over]:
                self._end(member, None)
            self._admit()
            if not self._members:
                return
            self._train_epoch()

    def _admit(self) -> None:
        """Take in the runs that have waited for the update that is next.

        If no run is under way, that is the first one's, and the random generators are set to its
        state. Else they are in the state of those that are taken in already.
        """
        if self._waiting and not self._members:
            checkpoints.set_random_state(self._waiting[0].random_state, self._device)
        while self._waiting and self._waiting[0].step == (self._members or self._waiting)[0].step:
            self._members.append(self._waiting.pop(0))
            self._network = None

    def _train_epoch(self) -> None:
        """Train what is left of an epoch, then measure it."""
        epoch, done = divmod(self._members[0].step, self._loader.steps_per_epoch)
        for images, labels in self._loader.epoch(epoch + 1, done):
            self._admit()
            for member in list(self._members):
                self._guarded(member, member.begin_update)
            for member in list(self._waiting):
                self._guarded(member, member.run.poll)
            if not self._members:
                return
            self._train_step(images, labels)
        with self._autocast():
            models = [model for member in self._members for model in member.models]
            errors = self._evaluator.errors(*models)
        for member, raw, averaged in zip(
            list(self._members), errors[::2], errors[1::2], strict=True
        ):
            self._guarded(member, partial(member.end_epoch, raw, averaged))

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        """Make one update of every member."""
        if len(self._members) == 1:
            self._members[0].update_alone(images, labels)
            return
        if self._network is None:
            self._network = FusedNetwork([member.model for member in self._members])
        with self._autocast():
            logits = self._network(images)
            every = functional.cross_entropy(
                logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none"
            )
        losses = every.view(len(logits), -1).mean(1)
        self._network.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        for member, loss in zip(self._members, losses.detach(), strict=True):
            member.update(loss)

    def _guarded(self, member: Member, act: Callable[[], None]) -> None:
        """Do what may end one of the runs."""
        try:
            act()
        except Exception as error:
            self._end(member, error)

    def _end(self, member: Member, error: Exception | None) -> None:
        """Take a run out. One that is released keeps its state, as when it is trained alone."""
        if member in self._waiting:  # its checkpoint is as it was
            self._waiting.remove(member)
        else:
            if isinstance(error, Released):
                try:
                    member.save()
                except Exception as failure:
                    error = failure
            self._members.remove(member)
            self._network = None
        self._on_end(member.run, error)
