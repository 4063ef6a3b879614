"""The device to train on, and the settings under which it gives the same bits every time."""

from __future__ import annotations

import gc
import os

import torch

from kdecay_search.errors import KDecayError

DEVICE_RULE = "must be auto, cpu, cuda or cuda:N"


def resolve_device(device: str) -> torch.device:
    """Find the torch device that ``device`` names, and try it.

    Args:
        device: ``cpu``, ``cuda:N``, ``cuda`` (for ``cuda:0``) or ``auto`` (a GPU if there is one).

    Raises:
        KDecayError: The name is unknown, or there is no such device, or it cannot be used.
    """
    if device == "auto":
        is_usable = torch.cuda.is_available() and not torch.version.hip
        device = "cuda" if is_usable else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    kind, colon, index = device.partition(":")
    if kind != "cuda" or (colon and not (index.isascii() and index.isdigit())):
        raise KDecayError(f"device {device!r} is unknown: {DEVICE_RULE}")
    return _usable_gpu(device, int(index or 0))


def _usable_gpu(device: str, index: int) -> torch.device:
    if torch.version.hip:
        raise KDecayError(
            f"device {device!r}: this torch is built for AMD's GPUs (ROCm), which are not "
            "supported; use cpu"
        )
    if not torch.cuda.is_available():
        raise KDecayError(f"device {device!r}: torch finds no usable GPU here; use cpu or auto")
    count = torch.cuda.device_count()
    if index >= count:
        known = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise KDecayError(f"device {device!r} does not exist: this machine has {known}")
    gpu = torch.device("cuda", index)
    try:
        torch.zeros(1, device=gpu).item()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise KDecayError(f"device {device!r} cannot be used: {reason}") from None
    return gpu


def make_deterministic(threads: int) -> None:
    """Make every operation give the same bits on the same device.

    These are settings of the whole process, so every run sets them again: it must not matter what
    the process trained before.

    Args:
        threads: Number of CPU threads of an operation, which decides the last bits of sums; 0
            leaves the number as it is.
    """
    # cuBLAS reads this when its handle is made; without it a deterministic matmul is an error.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # use_deterministic_algorithms would also set this for torch.compile, and import it: 1.2 s.
    torch.set_deterministic_debug_mode("error")
    # Filling every new tensor with NaN would find reads of unset memory at the cost of time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if threads:
        torch.set_num_threads(threads)


def release_memory(device: torch.device) -> None:
    """Return the GPU memory that earlier runs of this process left in torch's cache.

    Other processes may train on the same device.
    """
    if device.type == "cuda":
        gc.collect()
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
