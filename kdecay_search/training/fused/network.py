"""Several networks of one architecture as one: grouped convolutions and batched linear layers.

Within the fused network the channels of all networks lie side by side: an activation is
(B, N · C, H, W) for B images and N networks. A convolution has one group for each network, batch
norm takes its statistics channel by channel anyway, and what else depends on the channels of one
network has a layer of its own here. Nothing flows from one network to another, so a network whose
weights are not finite disturbs no other.

The networks share their memory with the fused one. An ordinary optimizer on a network's parameters
trains its part, and its ``state_dict`` is always up to date.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.training.models.blocks import PaddedShortcut
from kdecay_search.training.models.densenet import Concatenation


class FusedNetwork(nn.Module):
    """Networks of one built-in architecture, evaluated on the same images in one pass.

    The parameters and buffers of ``networks`` become parts of larger tensors, and the gradients of
    their parameters are kept and have to be set to zero by :meth:`zero_grad` only. Networks may be
    fused again, in any selection.

    Args:
        networks: N networks, from :func:`kdecay_search.training.models.build` with the same
            arguments, on one device; not in a distributed training.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self._network = copy.deepcopy(networks[0])
        for name, module in list(self._network.named_modules()):
            parts = [network.get_submodule(name) for network in networks]
            for attribute, _ in parts[0].named_parameters(recurse=False):
                joined = _join([getattr(part, attribute) for part in parts])
                setattr(module, attribute, _with_gradients(joined, parts, attribute))
            for attribute, _ in parts[0].named_buffers(recurse=False):
                joined = _join([getattr(part, attribute) for part in parts])
                setattr(module, attribute, joined)
            make = next((FUSED[kind] for kind in FUSED if isinstance(module, kind)), None)
            if make is not None:
                self._network.set_submodule(name, make(module, len(networks)))
        # All networks see the same images, so the first convolution needs no groups.
        stem = next(layer for layer in self._network.modules() if isinstance(layer, nn.Conv2d))
        stem.groups = 1
        self._gradients = [p.grad for p in self.parameters() if p.grad is not None]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, B, classes) of images (B, C, H, W), channels last in memory."""
        logits: Tensor = self._network(images)
        return logits

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set the gradients of all networks to zero. They stay where they are."""
        torch._foreach_zero_(self._gradients)


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors (A, …) to (N · A, …), and scalars to (N,); each becomes a view of its part."""
    joined = torch.cat([part.detach().view(part.shape or (1,)) for part in parts])
    for part, view in zip(parts, joined.chunk(len(parts)), strict=True):
        part.data = view.view(part.shape)
    return joined


def _with_gradients(joined: Tensor, parts: Sequence[nn.Module], attribute: str) -> nn.Parameter:
    """The joined parameter with a gradient, of which each part's gradient is a view."""
    parameter = nn.Parameter(joined)
    parameter.grad = torch.zeros_like(joined)
    for part, view in zip(parts, parameter.grad.chunk(len(parts)), strict=True):
        getattr(part, attribute).grad = view
    return parameter


class FusedLinear(nn.Module):
    """N linear layers: (B, N · inputs) to (N, B, outputs)."""

    def __init__(self, joined: nn.Linear, count: int) -> None:
        super().__init__()
        self._count = count
        self.weight, self.bias = joined.weight, joined.bias

    def forward(self, features: Tensor) -> Tensor:
        count, (outputs, inputs) = self._count, self.weight.shape
        each = features.reshape(-1, count, inputs).transpose(0, 1)
        weight = self.weight.view(count, outputs // count, inputs).transpose(1, 2)
        return torch.baddbmm(self.bias.view(count, 1, -1), each, weight)


class FusedDropout(nn.Module):
    """Dropout with one mask for all N networks: that which each would draw if trained alone."""

    def __init__(self, dropout: nn.Dropout, count: int) -> None:
        super().__init__()
        self._share, self._count = dropout.p, count

    def forward(self, images: Tensor) -> Tensor:
        alone = images[:, : images.shape[1] // self._count]
        kept = torch.ones_like(alone, memory_format=torch.channels_last)
        kept = functional.dropout(kept, self._share, self.training)
        return images * kept.repeat(1, self._count, 1, 1)


class FusedPaddedShortcut(nn.Module):
    """N shortcuts that add channels of zeros to those of each network."""

    def __init__(self, shortcut: PaddedShortcut, count: int) -> None:
        super().__init__()
        self._shortcut, self._count = shortcut, count

    def forward(self, images: Tensor) -> Tensor:
        stride, padding = self._shortcut.stride, (self._shortcut.before, self._shortcut.after)
        pixels = _channels_last(images[:, :, ::stride, ::stride], self._count)
        return functional.pad(pixels, padding).flatten(3).permute(0, 3, 1, 2)


class FusedConcatenation(nn.Module):
    """Concatenation of the channels of each of N networks."""

    def __init__(self, _: Concatenation, count: int) -> None:
        super().__init__()
        self._count = count

    def forward(self, *images: Tensor) -> Tensor:
        parts = [_channels_last(each, self._count) for each in images]
        return torch.cat(parts, 4).flatten(3).permute(0, 3, 1, 2)


def _channels_last(images: Tensor, count: int) -> Tensor:
    """View (B, N · C, H, W), channels last in memory, as (B, H, W, N, C)."""
    batch, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).reshape(batch, height, width, count, channels // count)


def _grouped(convolution: nn.Conv2d, count: int) -> nn.Module:
    convolution.groups = count
    return convolution


FUSED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv2d: _grouped,
    nn.Linear: FusedLinear,
    nn.Dropout: FusedDropout,
    PaddedShortcut: FusedPaddedShortcut,
    Concatenation: FusedConcatenation,
}
"""How a layer is fused whose parameters are joined already, by its class. Others, such as batch
norm, are as they are."""
