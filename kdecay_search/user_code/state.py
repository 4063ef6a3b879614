"""A run's state as bytes and back, and the global random generators, with torch or without.

The state is unpickled: whoever can write to the checkpoint folder can run code in its workers.
"""

from __future__ import annotations

import hashlib
import pickle
import random
import sys
from typing import Any

PLAIN, TORCH = b"P", b"T"


def pack(state: Any) -> bytes:
    """By torch, where it is in use: tensors come back on the CPU."""
    if "torch" not in sys.modules:
        return PLAIN + pickle.dumps(state)
    from kdecay_search.training import checkpoints  # noqa: PLC0415 - torch

    return TORCH + checkpoints.to_bytes(state)


def unpack(payload: bytes) -> Any:
    if payload[:1] == PLAIN:
        return pickle.loads(payload[1:])
    from kdecay_search.training import checkpoints  # noqa: PLC0415 - torch

    return checkpoints.from_bytes(payload[1:], weights_only=False)


def random_state() -> dict[str, Any]:
    """Of Python's generator, and of numpy's and torch's where those are in use."""
    states: dict[str, Any] = {"python": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        states["torch"] = torch.get_rng_state()
        states["cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return states


def set_random_state(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
    if "torch" in states:
        torch = sys.modules["torch"]
        torch.set_rng_state(states["torch"])
        for gpu, state in enumerate(states["cuda"]):
            torch.cuda.set_rng_state(state, gpu)


def seed_random(seed: int) -> None:
    """Seed them all. Neighbouring seeds give streams that have nothing in common."""
    digest = hashlib.sha256(f"own/{seed}".encode()).digest()
    random.seed(digest)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(int.from_bytes(digest[:4]))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(int.from_bytes(digest[:8]) >> 1)
