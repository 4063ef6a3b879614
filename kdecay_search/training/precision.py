"""The numbers that a task's networks compute with, as ``task.precision`` names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdecay_search.study.builtin_tasks import ImagesTask


def dtype_of(task: ImagesTask) -> torch.dtype:
    """The type of the weights and of normalised images; bfloat16 keeps both as float32."""
    return torch.float64 if task.precision == "float64" else torch.float32


def autocast(task: ImagesTask, device: torch.device) -> torch.autocast:
    """The context of a forward pass, which computes in bfloat16 if the task says so."""
    reduced = task.precision == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new floating-point tensors of this type.

    A network is built in it, and not converted afterwards: a processor's own instructions draw the
    last bits of normally distributed float32 numbers.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
