"""Upper bounds of a device's speed: images a second by arithmetic and by memory traffic."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

MATRIX = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices that are multiplied, by type of device."""
COPIED_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
"""Size of the copy, by type of device."""
REPEATS = 5
"""Number of repetitions, of which the fastest counts."""


def limits(model: nn.Module, images: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Images a second if arithmetic or memory traffic were the only limit.

    Args:
        model: The network.
        images: One batch, on the device.
        dtype: The precision of the arithmetic.

    Returns:
        Both limits, and the numbers that they are calculated from.
    """
    device = images.device
    work, traffic = _cost(model, images)
    peak, bandwidth = _multiplied(device, dtype), _copied(device)
    count = len(images)
    return {
        "flops_per_image": work / count,
        "bytes_per_image": traffic / count,
        "peak_flops": peak,
        "bytes_per_second": bandwidth,
        "images_per_second_by_arithmetic": peak * count / work,
        "images_per_second_by_memory": bandwidth * count / traffic,
    }


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that a chain of unfused operations moves.

    Each operation reads its inputs from memory and writes its outputs to it; views move nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {t.data_ptr(): t for t in _tensors(args)}
        made = [t for t in _tensors((result,)) if t.data_ptr() not in given]
        is_view = not made and not function._schema.is_mutable
        if not is_view:
            self.bytes += sum(t.numel() * t.element_size() for t in [*given.values(), *made])
        return result


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _cost(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """Floating-point operations and bytes of one update's forward and backward pass."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def update() -> None:
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()

    with FlopCounterMode(display=False) as flops:
        update()
    with _Traffic() as traffic:
        update()
    return float(flops.get_total_flops()), float(traffic.bytes)


def _multiplied(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, which is what the device reaches."""
    size = MATRIX[device.type]
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _fastest(device, lambda: a @ a)


def _copied(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy that is larger than any cache."""
    source = torch.zeros(COPIED_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES[device.type] / _fastest(device, lambda: target.copy_(source))


def _fastest(device: torch.device, work: Callable[[], object]) -> float:
    """Time of the fastest repetition in seconds; the first one is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
