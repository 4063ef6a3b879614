"""The devices of this machine, found without importing torch."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

from kdecay_search.errors import KDecayError
from kdecay_search.tasks.device_names import CPU, devices_of, joined
from kdecay_search.worker import cuda_count

_NAMES = re.compile(r"auto|cpu|all|cuda(:\d+(,\d+)*)?", re.ASCII)
_UNSUPPORTED = {
    "mps": "Apple's GPUs (MPS)",
    "rocm": "AMD's GPUs (ROCm)",
    "hip": "AMD's GPUs (ROCm)",
    "xpu": "Intel's GPUs (XPU)",
    "tpu": "TPUs",
}
"""Accelerators that people ask for, by the name that frameworks give them."""
CUDA_SECONDS = 60.0
"""The time limit for asking CUDA; a machine with many GPUs takes several seconds."""


def count_gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, by asking CUDA itself.

    What ``CUDA_VISIBLE_DEVICES`` means is CUDA's to say: it takes indices and the UUIDs of GPUs and
    of MIG instances, of which a process sees one only, ends at the first unknown entry, and shows
    nothing if one is repeated.

    Raises:
        KDecayError: CUDA has crashed or hung.
    """
    try:
        ctypes.CDLL(cuda_count.LIBRARY)  # does not start CUDA
    except OSError:
        return 0
    command = [sys.executable, "-I", "-S", cuda_count.__file__]
    fix = "run nvidia-smi, or use --device cpu"
    try:
        done = subprocess.run(command, capture_output=True, timeout=CUDA_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise KDecayError(f"CUDA did not answer within {CUDA_SECONDS:g} s; {fix}") from None
    if done.returncode:
        raise KDecayError(f"CUDA failed with exit code {done.returncode}; {fix}")
    return int(done.stdout)


def count_device_files() -> int:
    """Count the NVIDIA GPUs that the kernel shows, whether or not CUDA can use them."""
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])


def expand(device: str, per_run: int = 1) -> list[str]:
    """Return the devices of each worker that a ``--device`` option asks for.

    Without a GPU that CUDA shows, ``auto`` and ``all`` are the CPU.

    Args:
        device: ``auto`` (the first GPUs), ``all`` (every GPU, except those left over by a division
            into groups), ``cpu``, ``cuda``, ``cuda:N``, or several GPUs as ``cuda:N,M``.
        per_run: The number of devices on which a worker trains one run; on the CPU, of processes.

    Returns:
        For each worker, its devices by one name, which :func:`.device_names.devices_of` takes
        apart.

    Raises:
        KDecayError: No device can have this name, or there are not enough of this name.
    """
    kind, _, numbers = device.partition(":")
    if kind in _UNSUPPORTED:
        raise KDecayError(f"--device {device}: {_UNSUPPORTED[kind]} are not supported; use cpu")
    if not _NAMES.fullmatch(device):
        raise KDecayError(f"--device {device}: must be auto, cpu, cuda, cuda:N, cuda:N,M or all")
    gpus = 0 if device == CPU else count_gpus()
    if device == CPU or (device in ("auto", "all") and not gpus):
        return [joined([CPU] * per_run)]
    if device in ("auto", "cuda") and per_run == 1 and gpus:
        return ["cuda"]
    named = [int(number) for number in numbers.split(",")] if numbers else [*range(gpus)]
    if device in ("auto", "cuda"):
        named = named[:per_run]
    if max(named, default=0) >= gpus:
        raise KDecayError(f"--device {device}: {_shown(gpus)}; use cpu or auto")
    if len(set(named)) < len(named) or len(named) < per_run or (numbers and len(named) % per_run):
        raise KDecayError(
            f"--device {device} with --devices-per-run {per_run}: needs {per_run} different GPUs "
            f"for each run, and has {len(set(named))}"
        )
    groups = [named[start : start + per_run] for start in range(0, len(named), per_run)]
    return [
        joined([f"cuda:{index}" for index in group]) for group in groups if len(group) == per_run
    ]


def worker_options(device: str, fuse: int = 1) -> list[str]:
    """Return the ``kdecay worker`` options for one of the devices that :func:`expand` returns.

    Args:
        device: The device, or the devices of each run.
        fuse: How many runs the worker trains at once.
    """
    devices = devices_of(device)
    if len(devices) == 1:
        return ["--device", device, *(["--fuse", str(fuse)] if fuse > 1 else [])]
    named = CPU if devices[0] == CPU else device
    return ["--device", named, "--devices-per-run", str(len(devices))]


def _shown(gpus: int) -> str:
    """Say how many GPUs CUDA shows, and what may hide them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = {0: "no GPU", 1: "only cuda:0"}.get(gpus, f"cuda:0 to cuda:{gpus - 1}")
    setting = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}"
    amd = Path("/dev/kfd").exists() and not gpus
    return f"CUDA shows {known} here{setting}" + (
        "; AMD's GPUs (ROCm) are not supported" if amd else ""
    )


def usable_cores() -> int:
    """Count the CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))
