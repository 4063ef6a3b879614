"""Random numbers that follow from a run's seed and from nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(purpose: str, seed: int, number: int = 0) -> int:
    """Derive a 63-bit seed for one purpose; other arguments give an unrelated seed.

    The arguments are hashed, because neighbouring seeds of one generator can give similar first
    numbers, and because ``seed + epoch`` would let seed 1's second epoch repeat seed 2's first.

    Args:
        purpose: What the random numbers are for, such as ``"batches"``.
        seed: The run's seed.
        number: Tells several uses for one purpose apart, such as the epoch.
    """
    digest = hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(purpose: str, seed: int, number: int = 0) -> torch.Generator:
    """Make a generator on the CPU, seeded by :func:`derived_seed`.

    On the CPU, because generators of different devices give different numbers.
    """
    return torch.Generator().manual_seed(derived_seed(purpose, seed, number))


@contextmanager
def forked_rng(purpose: str, seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the ``with`` block, and restore them after it.

    Layers draw their first weights and their dropout from the global generators. This keeps earlier
    runs of the process, and its caller, from influencing a run, and the run from influencing them.

    Args:
        purpose: What the random numbers are for; see :func:`derived_seed`.
        seed: The run's seed.
        device: A GPU whose global generator is seeded as well, or the CPU.
    """
    gpus = [device] if device.type == "cuda" else []
    value = derived_seed(purpose, seed)
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(value)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(value)
        yield
