"""The device and the environment variables that user code sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from kdecay_search.errors import KDecayError

DEVICE = "KDECAY_DEVICE"
VISIBLE = "CUDA_VISIBLE_DEVICES"
SECRETS = ("KDECAY_STORAGE",)
"""Environment variables withheld from user code, which has no business with the database."""


def device_and_environment(
    device: str, inherited: Mapping[str, str] = os.environ
) -> tuple[str, dict[str, str]]:
    """Return the device and the environment variables for a program.

    The program sees no GPU but the worker's, so that no framework default picks another one.

    Args:
        device: The worker's own device: ``cpu``, ``cuda`` or ``cuda:N``.
        inherited: The worker's environment variables.

    Returns:
        The device as the program addresses it (``cpu`` or ``cuda``), and its environment.

    Raises:
        KDecayError: ``CUDA_VISIBLE_DEVICES`` excludes the worker's device.
    """
    name = device.partition(":")[0]
    own = {
        DEVICE: name,
        VISIBLE: _visible_gpu(device, inherited.get(VISIBLE)),
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]
        ),
        "PYTHONUNBUFFERED": "1",  # otherwise reports arrive only when a buffer is full
        "PYTHONFAULTHANDLER": "1",  # a crash or SIGABRT dumps where each thread is
    }
    return name, {key: value for key, value in inherited.items() if key not in SECRETS} | own


def _visible_gpu(device: str, visible: str | None) -> str:
    """Return the worker's GPU as ``CUDA_VISIBLE_DEVICES`` identifies it; empty for the CPU."""
    name, _, index = device.partition(":")
    if name == "cpu":
        return ""
    if visible is None:
        return index or "0"
    gpus = [part.strip() for part in visible.split(",") if part.strip()]
    if int(index or 0) >= len(gpus):
        raise KDecayError(f"device {device}: {VISIBLE} = {visible} has no such GPU")
    return gpus[int(index or 0)]
