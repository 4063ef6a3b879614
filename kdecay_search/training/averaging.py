"""Exponential moving averages of a model's weights, batch-norm statistics included.

:class:`AveragedModel` keeps a second model that is always ready to be evaluated; the built-in task
uses it. :class:`SwappedAverage` swaps the average into the model itself for an evaluation; it works
with any model and is what ``run.average`` gives to user code. Both compute the same average.

After t updates, update i has the weight d^(t−i) / (1 + d + … + d^(t−1)) with
d = 2^(−1/half_life): a weight that is ``half_life`` updates old counts half as much as the newest.
The initial weights never enter, the first average is the first updated weights, and there is no
warm-up to choose. This is the usual average divided by 1 − d^t (the bias correction of Adam,
arXiv:1412.6980, section 3), without a second copy.

Running means and variances of batch norm are averaged like weights: they belong to the weights they
were measured with, and would not fit averaged weights if they were the newest.

Infinite entries, such as those of a mask for attention, have no average: the newest are taken.
"""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdecay_search.errors import TaskError


class AveragedModel:
    """A second model that holds the exponential average of the first one's weights.

    Args:
        model: The model that is trained, on its device.
        half_life: Age in updates at which a weight counts half as much as the newest.
    """

    def __init__(self, model: nn.Module, half_life: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        """The averaged model, in eval mode and without gradients."""
        self.updates = 0
        """Number of updates that are averaged."""
        self._decay = 0.5 ** (1.0 / half_life)
        self._current = _floating(model)
        self._average = floats(self.model)
        self._masks = _infinite(self._current)

    @torch.no_grad()
    def update(self) -> None:
        """Include the model's present weights. Call this after every optimizer update."""
        self.updates += 1
        # As in torch.optim.swa_utils: one call for all tensors.
        share = newest_share(self._decay, self.updates)
        torch._foreach_lerp_(self._average, self._current, share)
        _take_newest(self._average, self._current, self._masks)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates."""
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])


class SwappedAverage:
    """The exponential average of a model's weights, swapped into the model to evaluate it.

    ``with average: ...`` puts the averaged weights into the model and the model into eval mode, and
    puts both back afterwards. No optimizer update may happen inside the ``with`` block.

    Args:
        model: The model that is trained, on its device.
        half_life: Age in updates at which a weight counts half as much as the newest.
        optimizer: Calls :meth:`update` after each of its updates; None if the caller does.
    """

    def __init__(
        self, model: nn.Module, half_life: float, optimizer: Optimizer | None = None
    ) -> None:
        self.updates = 0
        """Number of updates that are averaged."""
        self._model = model
        self._decay = 0.5 ** (1.0 / half_life)
        self._average = [_at_least_float32(tensor).clone() for tensor in floats(model)]
        self._masks = _infinite(self._average)
        self._places = [tensor.data_ptr() for tensor in floats(model)]
        self._modes: list[tuple[nn.Module, bool]] | None = None
        """Every module's training mode before the swap; None while nothing is swapped."""
        if optimizer is not None:
            optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Include the model's present weights. Call this after every optimizer update.

        Raises:
            TaskError: The averaged weights are in the model, or the model's weights have moved to
                other memory since this average was made.
        """
        if self._modes is not None:
            raise TaskError("average.update() within `with average:`: train outside of it")
        self.updates += 1
        current = [_at_least_float32(tensor) for tensor in self._current()]
        torch._foreach_lerp_(self._average, current, newest_share(self._decay, self.updates))
        _take_newest(self._average, current, self._masks)

    def __enter__(self) -> nn.Module:
        """Swap the averaged weights in; returns the model, in eval mode."""
        self._modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        self._swap()
        return self._model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._swap()
        for module, training in self._modes or []:
            module.training = training
        self._modes = None

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates."""
        return {"updates": self.updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.updates = state["updates"]
        for own, kept in zip(self._average, state["average"], strict=True):
            own.copy_(kept)

    @torch.no_grad()
    def _swap(self) -> None:
        for current, average in zip(self._current(), self._average, strict=True):
            held = current.clone()
            current.copy_(average)
            average.copy_(held)

    def _current(self) -> list[Tensor]:
        current = floats(self._model)
        if [tensor.data_ptr() for tensor in current] != self._places:
            raise TaskError(
                "the model's weights have moved since run.average(model) was called; call it after "
                "model.to(device)"
            )
        return current


def newest_share(decay: float, updates: int) -> float:
    """Weight of the newest of ``updates`` updates in the average: (1 − d) / (1 − d^updates)."""
    return (1.0 - decay) / (1.0 - decay**updates)


def floats(model: nn.Module) -> list[Tensor]:
    """The model's floating-point parameters and buffers, detached.

    Counters such as batch norm's ``num_batches_tracked`` are integers and left out.
    """
    return [tensor.detach() for tensor in _floating(model)]


def _floating(model: nn.Module) -> list[Tensor]:
    """The same tensors themselves, which stay those of the model if its weights are moved."""
    state = [*model.parameters(), *model.buffers()]
    return [tensor for tensor in state if tensor.is_floating_point()]


def _infinite(tensors: list[Tensor]) -> list[int]:
    """Indices of the tensors that hold an entry that is not finite, such as a mask's −∞."""
    return [index for index, tensor in enumerate(tensors) if not tensor.isfinite().all()]


def _take_newest(averages: list[Tensor], current: list[Tensor], masks: list[int]) -> None:
    """Take the newest entries of masks where the average is not finite: −∞ − −∞ is NaN."""
    for average, newest in ((averages[index], current[index]) for index in masks):
        average.copy_(torch.where(average.isfinite(), average, newest))


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32: it would lose what one update adds to an average."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
