"""A training's state as bytes and back."""

from __future__ import annotations

import io
from typing import Any

import torch

from kdecay_search.tasks.checkpoint import Checkpoint

State = dict[str, Any]
"""Tensors, numbers, strings, lists and dicts of these: what can be loaded without running code."""


def save(checkpoint: Checkpoint, state: State) -> None:
    """Write ``state``; in one piece, so that a full disk is noticed before the old file is gone."""
    checkpoint.write(to_bytes(state))


def load(checkpoint: Checkpoint) -> State | None:
    """The state that was saved, on the CPU, or None. What cannot be loaded is set aside."""
    payload = checkpoint.read()
    if payload is None:
        return None
    try:
        state: State = from_bytes(payload)
    except Exception:  # whatever torch's reader raises: it is written by another version, say
        checkpoint.set_aside("cannot be loaded")
        return None
    return state


def to_bytes(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(payload: bytes, weights_only: bool = True) -> Any:
    """Tensors on the CPU. Without ``weights_only`` it is unpickled, which can run any code."""
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=weights_only)


def random_state(device: torch.device) -> State:
    """The global generators' states."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: State, device: torch.device) -> None:
    """Put the global generators back to ``states``."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
