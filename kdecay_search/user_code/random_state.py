"""The global random generators of Python, NumPy and torch, as far as a program uses them.

A framework that is not imported is left alone: this module imports neither NumPy nor torch.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def get_random_state() -> dict[str, Any]:
    """Return the state of Python's generator, and of NumPy's and torch's where they are in use."""
    states: dict[str, Any] = {"python": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        states["torch"] = torch.get_rng_state()
        states["cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return states


def set_random_state(states: dict[str, Any]) -> None:
    """Restore the generators to what :func:`get_random_state` returned."""
    random.setstate(states["python"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
    if "torch" in states:
        torch = sys.modules["torch"]
        torch.set_rng_state(states["torch"])
        for gpu, state in enumerate(states["cuda"]):
            torch.cuda.set_rng_state(state, gpu)


def seed_all(seed: int) -> None:
    """Seed all generators; neighbouring seeds give unrelated streams of random numbers."""
    digest = hashlib.sha256(f"own/{seed}".encode()).digest()
    random.seed(digest)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(int.from_bytes(digest[:4]))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(int.from_bytes(digest[:8]) >> 1)


@contextmanager
def random_state_preserved() -> Iterator[None]:
    """Undo what a second validation draws, so that it does not change the training."""
    before = get_random_state()
    try:
        yield
    finally:
        set_random_state(before)
