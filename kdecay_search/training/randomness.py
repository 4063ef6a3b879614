"""Random numbers that follow from a run's seed and from nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(purpose: str, seed: int, number: int = 0) -> int:
    """A seed for one purpose: streams with different arguments have nothing in common.

    Hashed, because neighbouring seeds of one generator can give similar first numbers, and
    because ``seed + epoch`` would let seed 1's second epoch repeat seed 2's first.
    """
    digest = hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(purpose: str, seed: int, number: int = 0) -> torch.Generator:
    """A generator of its own for one purpose, on the CPU: every device gets the same numbers."""
    return torch.Generator().manual_seed(derived_seed(purpose, seed, number))


@contextmanager
def isolated(purpose: str, seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a while, and put them back as they were.

    Layers initialise themselves (and drop out) with the global generators; this keeps earlier runs
    of the process, and its caller, out of a run and the other way round.
    """
    gpus = [device] if device.type == "cuda" else []
    value = derived_seed(purpose, seed)
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(value)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(value)
        yield
