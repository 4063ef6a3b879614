"""Averaged weights that a model takes on while it is evaluated."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdecay_search.errors import TaskError
from kdecay_search.training.averaging import floats, newest_share


class SwappedAverage:
    """The average of a model's weights after every update, without a second model.

    Weighted as :class:`~kdecay_search.training.averaging.AveragedWeights`, with batch norm's
    running statistics. ``half_life``: in updates. ``optimizer``: updates it by itself.
    ``with average: ...`` puts the average into the model, in eval mode, and back afterwards: no
    update may happen in between.
    """

    def __init__(
        self, model: nn.Module, half_life: float, optimizer: Optimizer | None = None
    ) -> None:
        self.updates = 0
        self._model = model
        self._decay = 0.5 ** (1.0 / half_life)
        self._average = [_precise(tensor).clone() for tensor in floats(model)]
        self._places = [tensor.data_ptr() for tensor in floats(model)]
        self._modes: list[tuple[nn.Module, bool]] | None = None
        if optimizer is not None:
            optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights after one more optimizer update."""
        if self._modes is not None:
            raise TaskError("average.update() within `with average:`: train outside of it")
        self.updates += 1
        current = [_precise(tensor) for tensor in self._current()]
        torch._foreach_lerp_(self._average, current, newest_share(self._decay, self.updates))

    def __enter__(self) -> nn.Module:
        """The model, with the averaged weights and in eval mode."""
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
        return {"updates": self.updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
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
                "the model's weights are elsewhere than when run.average(model) was called; "
                "call it after model.to(device)"
            )
        return current


def _precise(tensor: Tensor) -> Tensor:
    """At least float32: half precision would lose what one update adds to an average."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
