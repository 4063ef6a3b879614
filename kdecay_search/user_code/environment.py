"""What own code finds in its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from kdecay_search.errors import KDecayError

DEVICE = "KDECAY_DEVICE"
VISIBLE = "CUDA_VISIBLE_DEVICES"
SECRETS = ("KDECAY_STORAGE",)
"""The database is the worker's: own code has no business there."""


def of_program(device: str, around: Mapping[str, str] = os.environ) -> tuple[str, dict[str, str]]:
    """The device as a program of a worker on ``device`` calls it, and the program's environment.

    It sees no GPU but the worker's, so that it cannot take another's by its framework's defaults.
    """
    name = device.partition(":")[0]
    own = {
        DEVICE: name,
        VISIBLE: _visible(device, around.get(VISIBLE)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), around.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",  # else its reports come when a buffer is full
        "PYTHONFAULTHANDLER": "1",  # it writes down where it hangs, or crashes
    }
    return name, {key: value for key, value in around.items() if key not in SECRETS} | own


def _visible(device: str, visible: str | None) -> str:
    """The one GPU, by its name in the worker's own environment; none for the CPU."""
    name, _, index = device.partition(":")
    if name == "cpu":
        return ""
    if visible is None:
        return index or "0"
    there = [part.strip() for part in visible.split(",") if part.strip()]
    if int(index or 0) >= len(there):
        raise KDecayError(f"device {device}: {VISIBLE} = {visible} has no such GPU")
    return there[int(index or 0)]
