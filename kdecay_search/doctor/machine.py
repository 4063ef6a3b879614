"""Checks of this machine: software, cores, memory, devices."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdecay_search import __version__
from kdecay_search.doctor.check import Check, error, ok, warning
from kdecay_search.errors import KDecayError
from kdecay_search.study.spec import StudySpec
from kdecay_search.worker.devices import count_device_files, count_gpus, usable_cores

GIB = 2**30
LITTLE_MEMORY = GIB
"""Less free memory, in bytes, is a warning."""
PROBE_SECONDS = 120.0
"""The time limit for importing torch and querying the devices; a slow disk takes long."""
INSTALL = "pip install 'kdecay-search[worker]'"
PACKAGES = {"digits": "sklearn", "cifar10": "torchvision", "cifar100": "torchvision",
            "image-folder": "torchvision", "imagenet": "torchvision"}  # fmt: skip
"""The package that reads each data set, besides torch."""
_INVENTORY = "kdecay_search.training.device_inventory"


def gib(number: float) -> str:
    return f"{number / GIB:.1f} GiB"


def machine_checks(spec: StudySpec | None) -> Iterator[Check]:
    """Check software, cores and memory, then torch and the devices that it can use.

    Args:
        spec: The study that workers would serve, if one was named. What it does not need is no
            error if it is missing.
    """
    yield ok("software", f"kdecay-search {__version__}, Python {platform.python_version()}")
    yield cores()
    yield memory()
    is_restricted = "CUDA_VISIBLE_DEVICES" in os.environ
    yield from torch_checks(probe(), spec, count_gpus() if is_restricted else count_device_files())


def cores(cgroup: Path = Path("/sys/fs/cgroup")) -> Check:
    usable = usable_cores()
    quota = _cpu_quota(cgroup)
    value = f"{usable} usable"
    if quota is not None and quota < usable:
        fix = f"use launch --workers {max(1, int(quota))}, or give the container more CPU time"
        return warning("cores", f"{value}, but CPU time for only {quota:g}", fix)
    return ok("cores", value)


def _cpu_quota(cgroup: Path) -> float | None:
    """Return the CPU limit of this container (cgroup v2 or v1), in cores; None if there is none."""
    both = _words(cgroup / "cpu.max") or [
        *_words(cgroup / "cpu/cpu.cfs_quota_us"),
        *_words(cgroup / "cpu/cpu.cfs_period_us"),
    ]
    if len(both) == 2 and both[0].isdigit() and both[1].isdigit():  # noqa: PLR2004 - else "max"
        return int(both[0]) / int(both[1])
    return None


def memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> Check:
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    total, free = (1024 * int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    limits = [
        int(words[0])
        for name in ("memory.max", "memory/memory.limit_in_bytes")
        if (words := _words(cgroup / name)) and words[0].isdigit()
    ]
    limit = min([total, *limits])
    value = f"{gib(min(free, limit))} free of {gib(limit)}"
    if min(free, limit) < LITTLE_MEMORY:
        fix = "stop what uses it: when none is left, the kernel kills processes"
        return warning("memory", value, fix)
    return ok("memory", value)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def probe(seconds: float = PROBE_SECONDS) -> dict[str, Any]:
    """Return what :mod:`kdecay_search.training.device_inventory` finds in a process of its own.

    With Python's option ``-P``, that process imports nothing from the working folder.

    Raises:
        KDecayError: That process crashed or hung, as the driver of a device may make it do.
    """
    command = [sys.executable, "-P", "-W", "ignore", "-m", _INVENTORY]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise KDecayError(f"torch and the devices did not answer within {seconds:g} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise KDecayError(f"importing torch failed with exit code {done.returncode}: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def torch_checks(
    found: dict[str, Any], spec: StudySpec | None, device_files: int
) -> Iterator[Check]:
    """Judge what :func:`probe` found.

    Args:
        found: What :func:`probe` returned.
        spec: The study that workers would serve, if one was named.
        device_files: The number of NVIDIA devices that the kernel shows or, where
            ``CUDA_VISIBLE_DEVICES`` is set, that CUDA does.
    """
    trains = spec is None or spec.task.kind == "images"
    versions, reasons = found["versions"], found["reasons"]
    if "torch" in reasons:
        value = f"torch {reasons['torch']}: only launch, status and simulated tasks work here"
        yield (error if trains else warning)("torch", value, INSTALL)
        return
    yield ok("torch", f"torch {versions['torch']} for {found['built_for']}")
    for package in ("torchvision", "sklearn"):
        if package in versions:
            yield ok("packages", f"{package} {versions[package]}")
        else:
            yield _missing(package, reasons[package], spec)
    yield from _devices(found["devices"], spec, device_files, found["built_for"])


def _missing(package: str, reason: str, spec: StudySpec | None) -> Check:
    data_sets = [name for name, needed in PACKAGES.items() if needed == package]
    is_needed = spec is not None and spec.task.kind == "images" and spec.task.data.name in data_sets
    value = f"{package} {reason}: {', '.join(data_sets)} cannot be read"
    return (error if is_needed else warning)("packages", value, INSTALL)


def _devices(
    devices: list[dict[str, Any]], spec: StudySpec | None, device_files: int, built_for: str
) -> Iterator[Check]:
    wants_bf16 = (
        spec is not None and spec.task.kind == "images" and spec.task.precision == "bfloat16"
    )
    for device in devices:
        yield _device(device, wants_bf16)
    gpus = sum(device["device"] != "cpu" for device in devices)
    if gpus < device_files:
        value = f"this machine has {device_files} NVIDIA devices, but torch can use {gpus}"
        fix = f"run nvidia-smi: its driver must be new enough for {built_for}"
        if built_for == "CPU":
            fix = "install a torch that is built for CUDA"
        yield (warning if gpus else error)("devices", value, fix)


def _device(device: dict[str, Any], wants_bf16: bool) -> Check:
    subject = device["device"]
    if device["failure"] is not None:
        return error(subject, f"{device['name']}: {device['failure']}", "run nvidia-smi")
    memory = ""
    if device["memory_bytes"] is not None:
        memory = f", {gib(device['free_bytes'])} free of {gib(device['memory_bytes'])}"
    bf16 = "bf16" if device["bf16"] else "bf16 only in software"
    value = f"{device['name']}{memory}, {bf16}"
    if wants_bf16 and not device["bf16"]:
        return warning(subject, value, "task.precision = 'bfloat16' is slow here: use 'float32'")
    if device["free_bytes"] is not None and device["free_bytes"] < LITTLE_MEMORY:
        return warning(subject, value, "stop what uses its memory; nvidia-smi names it")
    return ok(subject, value)
