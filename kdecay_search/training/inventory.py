"""What torch finds on this machine, tried out; ``python -m`` prints it as JSON.

``kdecay doctor`` runs it in a process of its own, since a device's driver may hang or crash.
"""

from __future__ import annotations

import json
import platform
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "sklearn")
SIDE = 64
"""Of the matrices that are multiplied to try bfloat16."""
CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""In /proc/cpuinfo, of x86 and ARM: without them bfloat16 works, but slowly."""


def inventory() -> dict[str, Any]:
    """``versions`` of packages, ``reasons`` why others cannot be imported, and, with torch,
    what it is ``built_for`` and its ``devices``."""
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
        found |= {"built_for": _built_for(), "devices": [*_gpus(), cpu()]}
    return found


def _built_for() -> str:
    import torch  # noqa: PLC0415 - inventory() has tried it

    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"


def _gpus() -> list[dict[str, Any]]:
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        return []
    return [_gpu(index) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    from kdecay_search.errors import KDecayError  # noqa: PLC0415
    from kdecay_search.training.device import resolve  # noqa: PLC0415

    found: dict[str, Any] = {
        "device": f"cuda:{index}", "name": f"GPU {index}", "memory_bytes": None,
        "free_bytes": None, "bf16": False, "failure": None,
    }  # fmt: skip
    try:
        properties = torch.cuda.get_device_properties(index)
        found["name"] = f"{properties.name} (compute {properties.major}.{properties.minor})"
        device = resolve(f"cuda:{index}")
        found["free_bytes"], found["memory_bytes"] = torch.cuda.mem_get_info(device)
        ones = torch.ones(SIDE, SIDE, device=device, dtype=torch.bfloat16)
        works = bool((ones @ ones == SIDE).all().item())
        found["bf16"] = works and properties.major >= 8  # noqa: PLR2004 - Ampere: in hardware
    except (KDecayError, RuntimeError, AssertionError) as error:
        found["failure"] = str(error).partition("\n")[0]
    return found


def cpu() -> dict[str, Any]:
    """The processor, found without torch."""
    words = _cpu_words()
    return {
        "device": "cpu", "name": words.get("model name") or platform.machine(),
        "memory_bytes": None, "free_bytes": None, "failure": None,
        "bf16": not set(CPU_BF16_FLAGS).isdisjoint(
            (words.get("flags") or words.get("Features") or "").split()
        ),
    }  # fmt: skip


def _cpu_words() -> dict[str, str]:
    """/proc/cpuinfo's words on the first core; empty where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


if __name__ == "__main__":
    print(json.dumps(inventory()))
