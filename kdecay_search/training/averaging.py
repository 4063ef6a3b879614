"""Exponentially averaged weights, batch-norm statistics included."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class AveragedWeights:
    """A second model that holds the average of the first one's weights after every update.

    ``half_life`` is in updates: a weight that old counts half as much as the newest. The average
    is over the updates seen so far and nothing else: after t of them, update i counts
    d^(t−i) / (1 + d + … + d^(t−1)) with d = 2^(−1/half_life). So the initial weights never enter,
    the first average is the first weights, and no warm-up rule has to be chosen. That is the same
    as the usual average divided by 1 − d^t, but needs no second copy.

    Running means and variances of batch norm are averaged like weights: they belong to the
    weights they were measured with, and averaged weights with the newest statistics would not fit.
    """

    def __init__(self, model: nn.Module, half_life: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        """The averaged model, ready to be evaluated."""
        self.updates = 0
        self._decay = 0.5 ** (1.0 / half_life)
        self._current = floats(model)
        self._average = floats(self.model)

    def update(self) -> None:
        """Take in the model's weights after one more optimizer update."""
        self.updates += 1
        # torch.optim.swa_utils does it with this, too: one call for all tensors.
        share = newest_share(self._decay, self.updates)
        torch._foreach_lerp_(self._average, self._current, share)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])


def newest_share(decay: float, updates: int) -> float:
    """What the newest of so many updates counts in the average."""
    return (1.0 - decay) / (1.0 - decay**updates)


def floats(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, without counters such as batch norm's num_batches_tracked."""
    state = [*model.parameters(), *model.buffers()]
    return [tensor.detach() for tensor in state if tensor.is_floating_point()]
