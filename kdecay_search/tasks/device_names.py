"""The names of devices: of one, or of the several on which one run is trained."""

from __future__ import annotations

CPU = "cpu"


def devices_of(device: str) -> list[str]:
    """Return the devices of a run, one for each of its processes.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; for several processes, their devices, separated by
            commas, such as ``cuda:0,1`` or ``cpu,cpu``.
    """
    kind = device.partition(":")[0]
    return [f"{kind}:{name}" if name.isdigit() else name for name in device.split(",")]


def joined(devices: list[str]) -> str:
    """Return the name of several devices, which :func:`devices_of` takes apart."""
    first, *others = devices
    return ",".join([first, *(name.partition(":")[2] or name for name in others)])
