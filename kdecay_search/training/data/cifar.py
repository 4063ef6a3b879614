"""CIFAR-10 and CIFAR-100, read and unpacked by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.dataset import ImageDataset, Images, Labels
from kdecay_search.training.data.download import fetch
from kdecay_search.training.data.in_memory import in_memory_dataset
from kdecay_search.training.data.locking import exclusive_lock


def cifar(data: DataSpec) -> ImageDataset:
    """Read ``cifar10`` or ``cifar100``; download it into ``data.root`` if it is missing there.

    Raises:
        DataError: It is not there and cannot be downloaded.
    """
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data.name]
    root = Path(data.root or "")
    try:
        training = _intact(kind, root) or _downloaded(kind, root)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = str(getattr(error, "reason", error)).partition("\n")[0]
        raise DataError(
            f"data set {data.name}: is not in task.data.root = {data.root!r} and cannot be "
            f"downloaded ({reason}); put {kind.base_folder} there, or the file {kind.url}"
        ) from None

    def test() -> tuple[Images, Labels]:
        return _arrays(kind(root, train=False))

    return in_memory_dataset(data.name, _arrays(training), test, training.classes, data.image_size)


def _arrays(part: Any) -> tuple[Images, Labels]:
    """Images (N, C, H, W) and labels of one of torchvision's data sets."""
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return images, np.asarray(part.targets, dtype=np.int64)


def _intact(kind: Any, root: Path) -> Any:
    """torchvision's training set if all its files have the right MD5 sums, else None."""
    try:
        return kind(root, train=True)
    except RuntimeError:
        return None


def _downloaded(kind: Any, root: Path) -> Any:
    """torchvision's training set, downloaded by one process while others wait for it."""
    root.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(root / f".{kind.filename}.lock"):
        found = _intact(kind, root)
        if found is None:
            archive = root / kind.filename
            if not check_integrity(archive, kind.tgz_md5):
                fetch(kind.url, archive, kind.tgz_md5)
            found = kind(root, train=True, download=True)  # unpacks the archive
    return found
