"""The devices of this machine, found without importing torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kdecay_search.errors import KDecayError

_NAMES = re.compile(r"auto|cpu|all|cuda(:\d+)?")


def count_gpus() -> int:
    """Count the NVIDIA devices that this process may use.

    Reads ``CUDA_VISIBLE_DEVICES`` if it is set, else counts the device files.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() and part.strip() != "-1"])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])


def expand(device: str) -> list[str]:
    """Return the devices that a ``--device`` option names; ``all`` names every GPU.

    Raises:
        KDecayError: No device can have this name.
    """
    if not _NAMES.fullmatch(device):
        raise KDecayError(f"--device {device}: must be auto, cpu, cuda, cuda:N or all")
    gpus = count_gpus()
    if device == "all":
        return [f"cuda:{index}" for index in range(gpus)] or ["cpu"]
    if device == "auto":
        return ["cuda" if gpus else "cpu"]
    return [device]


def usable_cores() -> int:
    """Count the CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))
