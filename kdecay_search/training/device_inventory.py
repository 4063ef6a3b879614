"""The devices and packages that torch finds on this machine; ``python -m`` prints them as JSON.

``kdecay doctor`` runs this in another process, because a device's driver may hang or crash.
"""

from __future__ import annotations

import json
import platform
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "sklearn")
"""Packages that built-in tasks need."""
MATRIX_SIDE = 64
"""Side of the matrices that are multiplied to try bfloat16 on a GPU."""
AMPERE = 8
"""First major CUDA compute capability that computes in bfloat16 in hardware."""
CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Flags in /proc/cpuinfo (x86 and ARM) of processors with bfloat16 in hardware. Without them it
works, but slowly."""


def inventory() -> dict[str, Any]:
    """Look for packages and devices.

    Returns:
        ``versions``: a package's version by its name. ``reasons``: why a package cannot be
        imported, by its name. If torch can be imported, also ``built_for`` (CUDA, ROCm or CPU) and
        ``devices``, each as :func:`cpu_info` describes one.
    """
    versions, reasons = {}, {}
    for name in PACKAGES:
        try:
            versions[name] = str(import_module(name).__version__)
        except ModuleNotFoundError as error:
            missing = error.name == name
            reasons[name] = "is not installed" if missing else f"misses {error.name}"
        except (ImportError, RuntimeError, OSError) as error:  # built for another torch or libc
            reasons[name] = f"cannot be imported ({str(error).partition(chr(10))[0]})"
    found: dict[str, Any] = {"versions": versions, "reasons": reasons}
    if "torch" in versions:
        found |= {"built_for": _built_for(), "devices": [*_gpus(), cpu_info()]}
    return found


def cpu_info() -> dict[str, Any]:
    """Describe the processor, without torch.

    Returns:
        ``device`` (torch's name), ``name`` (the model), ``memory_bytes`` and ``free_bytes`` (of a
        GPU; None here), ``bf16`` (whether it computes in bfloat16 in hardware) and ``failure`` (why
        it cannot be used, or None).
    """
    fields = _cpuinfo_fields()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "device": "cpu", "name": fields.get("model name") or platform.machine(),
        "memory_bytes": None, "free_bytes": None, "failure": None,
        "bf16": not set(CPU_BF16_FLAGS).isdisjoint(flags),
    }  # fmt: skip


def _cpuinfo_fields() -> dict[str, str]:
    """The first core's fields in /proc/cpuinfo; empty if there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _built_for() -> str:
    import torch  # noqa: PLC0415 - inventory() has tried it

    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"


def _gpus() -> list[dict[str, Any]]:
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        return []
    return [_gpu_info(index) for index in range(torch.cuda.device_count())]


def _gpu_info(index: int) -> dict[str, Any]:
    """Describe a GPU as :func:`cpu_info` does, after multiplying two matrices on it."""
    import torch  # noqa: PLC0415

    from kdecay_search.errors import KDecayError  # noqa: PLC0415
    from kdecay_search.training.device import resolve_device  # noqa: PLC0415

    found: dict[str, Any] = {
        "device": f"cuda:{index}", "name": f"GPU {index}", "memory_bytes": None,
        "free_bytes": None, "bf16": False, "failure": None,
    }  # fmt: skip
    try:
        properties = torch.cuda.get_device_properties(index)
        found["name"] = f"{properties.name} (compute {properties.major}.{properties.minor})"
        device = resolve_device(f"cuda:{index}")
        found["free_bytes"], found["memory_bytes"] = torch.cuda.mem_get_info(device)
        ones = torch.ones(MATRIX_SIDE, MATRIX_SIDE, device=device, dtype=torch.bfloat16)
        works = bool((ones @ ones == MATRIX_SIDE).all().item())
        found["bf16"] = works and properties.major >= AMPERE
    except (KDecayError, RuntimeError, AssertionError) as error:
        found["failure"] = str(error).partition("\n")[0]
    return found


if __name__ == "__main__":
    print(json.dumps(inventory()))
