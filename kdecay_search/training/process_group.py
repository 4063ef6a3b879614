"""The processes (ranks) that train one run together, by torch's ``DistributedDataParallel``.

All of them go through the same global batches, and each trains on its own part of every one. So a
run means the same on any number of devices; only what is drawn or measured on one device alone
differs: the masks of dropout, and the statistics of a batch norm that is not synchronised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdecay_search.errors import KDecayError
from kdecay_search.tasks.protocol import Run
from kdecay_search.training.seeding import derived_seed


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks of one run, as one of them sees them; by default it is alone.

    Every method with a result is a collective operation: all ranks call it at the same update.
    """

    rank: int = 0
    """The number of this process, from 0."""
    size: int = 1
    """The number of processes."""

    def part(self, batch: Tensor) -> Tensor:
        """This rank's part of a batch (N, …): consecutive entries, N / size or one more."""
        return batch.tensor_split(self.size)[self.rank] if self.size > 1 else batch

    def scaled(self, loss: Tensor, part: int, whole: int) -> Tensor:
        """A loss whose mean over the ranks is the mean over the whole batch.

        ``DistributedDataParallel`` takes the mean of the ranks' gradients, whose parts of the batch
        may differ in size.

        Args:
            loss: The mean loss of this rank's part: a scalar.
            part: Number of images in this rank's part.
            whole: Number of images in the batch.
        """
        weight = part * self.size / whole
        return loss if weight == 1.0 else loss * weight

    def wrapped(self, model: nn.Module, is_synchronised: bool) -> nn.Module:
        """The network to train: one whose backward pass averages the gradients of all ranks.

        It shares its weights with ``model``, which is to be saved, averaged and evaluated.

        Args:
            model: The network, on this rank's device; all ranks take the weights of rank 0.
            is_synchronised: Whether batch norm takes its statistics of the whole batch. Otherwise,
                each rank normalises by those of its own part.

        Raises:
            KDecayError: Batch norm is to be synchronised on the CPU, which torch cannot do.
        """
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        if is_synchronised:
            if device.type != "cuda":
                raise KDecayError(
                    "task.sync_batch_norm = true: torch synchronises batch norm on GPUs only; set "
                    "it to false to train a run by several processes on the CPU"
                )
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        # Nothing reads the buffers while the network trains: see broadcast().
        indices = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, indices, broadcast_buffers=False)

    def summed(self, value: Tensor) -> Tensor:
        """The sum of what all ranks pass: the same tensor, overwritten."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean of what all ranks pass: the same tensor, overwritten."""
        return self.summed(value).div_(self.size) if self.size > 1 else value

    def broadcast(self, models: Sequence[nn.Module]) -> None:
        """Let all ranks have rank 0's buffers: the running statistics of batch norm.

        ``DistributedDataParallel`` would do so before every forward pass, to the same end.
        """
        if self.size > 1:
            for buffer in (buffer for model in models for buffer in model.buffers()):
                distributed.broadcast(buffer, src=0)

    def seed_update(self, seed: int, step: int) -> None:
        """Let this rank draw random numbers of its own in an update, such as dropout's masks.

        Rank 0 draws on from where it is, which a checkpoint holds. The numbers of the others follow
        from the update, so that nothing has to be kept of them.

        Args:
            seed: The run's seed.
            step: The number of the update, from 0.
        """
        if self.rank:
            torch.manual_seed(derived_seed(f"model/rank{self.rank}", seed, step))


ALONE = ProcessGroup()
"""The group of a run that one process trains."""


@contextmanager
def process_group(run: Run, device: torch.device) -> Iterator[ProcessGroup]:
    """Join the other ranks of ``run`` inside the ``with`` block.

    What torch needs to find them is in the environment variables of its ``env://``. After an
    exception the group is left as it is: the process ends, and may not wait for the others.

    Args:
        run: The run; a worker that trains it by several processes gives it a rank.
        device: This rank's own device.
    """
    size = int(getattr(run, "world_size", 1))
    if size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield ProcessGroup(int(getattr(run, "rank", 0)), size)
    distributed.destroy_process_group()
