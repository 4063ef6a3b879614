"""CIFAR-10 and CIFAR-100, through torchvision."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from torchvision import datasets

from kdecay_search.errors import DataError
from kdecay_search.spec import DataSpec
from kdecay_search.training.data.cache import locked
from kdecay_search.training.data.source import Source, in_memory


def cifar(data: DataSpec) -> Source:
    """The training part of ``data.name``, downloaded into ``data.root`` if it is not there."""
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data.name]
    # One process fetches; torchvision itself would let several write the same files.
    with locked(f"{data.name}-{hashlib.sha256(str(data.root).encode()).hexdigest()[:32]}"):
        training = _fetched(kind, data)
    images = np.ascontiguousarray(training.data.transpose(0, 3, 1, 2))
    labels = np.asarray(training.targets, dtype=np.int64)
    return in_memory(data.name, images, labels, len(training.classes), data.image_size)


def _fetched(kind: Any, data: DataSpec) -> Any:
    """torchvision's data set; it downloads only what is missing or damaged."""
    try:
        return kind(data.root, train=True, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"data set {data.name}: is not in task.data.root = {data.root!r} and cannot be "
            f"downloaded ({reason}); put {kind.base_folder} there"
        ) from None
