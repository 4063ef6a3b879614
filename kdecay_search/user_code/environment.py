"""The device and the environment variables that user code sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from kdecay_search import credentials
from kdecay_search.errors import KDecayError
from kdecay_search.tasks.device_names import devices_of

DEVICE = "KDECAY_DEVICE"
VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
SAFE_PATH, OURS = "PYTHONSAFEPATH", "kdecay"
"""An environment variable of Python, and the value by which a worker knows that it has set it."""


def device_and_environment(
    device: str, inherited: Mapping[str, str] = os.environ
) -> tuple[str, dict[str, str]]:
    """Return the device and the environment variables for a program.

    The program sees no GPU but the worker's, so that no framework default picks another one, and
    none of the database's credentials (:mod:`kdecay_search.credentials`). A program of several
    processes gets a share of the cores for each, unless the user has set their number.

    Args:
        device: The worker's own device, or devices: ``cpu``, ``cuda``, ``cuda:N`` or what
            :func:`.device_names.devices_of` takes apart.
        inherited: The worker's environment variables.

    Returns:
        The kind of device as the program addresses it (``cpu`` or ``cuda``), and its environment.

    Raises:
        KDecayError: ``CUDA_VISIBLE_DEVICES`` excludes the worker's device.
    """
    devices = devices_of(device)
    name = devices[0].partition(":")[0]
    own = {
        DEVICE: name,
        VISIBLE: ",".join(_visible_gpu(each, inherited.get(VISIBLE)) for each in devices).strip(
            ","
        ),
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]
        ),
        "PYTHONUNBUFFERED": "1",  # otherwise reports arrive only when a buffer is full
        "PYTHONIOENCODING": "utf-8",  # the worker decodes what is printed, whatever its own locale
        "PYTHONFAULTHANDLER": "1",  # a crash or SIGABRT dumps where each thread is
    }
    if len(devices) > 1 and THREADS not in inherited:
        own[THREADS] = str(max(1, len(os.sched_getaffinity(0)) // len(devices)))
    withheld = credentials.withheld(inherited) | {"PGTZ"}  # which our connections set
    if inherited.get(SAFE_PATH) == OURS:
        withheld.add(SAFE_PATH)
    return name, {key: value for key, value in inherited.items() if key not in withheld} | own


def own_devices(device: str) -> list[str]:
    """Return the devices of a run as its processes address them, one for each.

    A program sees the worker's GPUs only, so they are counted from 0; one alone is ``cuda``.
    """
    devices = devices_of(device)
    kind = devices[0].partition(":")[0]
    if kind == "cpu" or len(devices) == 1:
        return [kind] * len(devices)
    return [f"{kind}:{index}" for index in range(len(devices))]


def keep_working_folder_off_path() -> None:
    """Let no process that this one starts import anything from the working folder.

    multiprocessing starts its helper processes by ``python -c``, which otherwise does. Programs of
    the user do not get this setting.
    """
    os.environ.setdefault(SAFE_PATH, OURS)


def withhold_from_this_process() -> None:
    """Remove the database's credentials from the environment of this process.

    ``kdecay try`` needs no database, and runs user code in its own process.
    """
    for variable in credentials.withheld(os.environ):
        del os.environ[variable]


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
