"""A training's state as bytes and back, and the state of torch's global random generators."""

from __future__ import annotations

import io
from typing import Any

import torch

from kdecay_search.tasks.checkpoint import Checkpoint

State = dict[str, Any]
"""Tensors, numbers, strings, and lists and dicts of these: what can be loaded without running
code."""


def save(checkpoint: Checkpoint, state: State) -> None:
    """Write ``state`` to the run's checkpoint.

    It is serialised in memory first, so that a full disk is noticed before the old file is gone.
    """
    checkpoint.write(to_bytes(state))


def load(checkpoint: Checkpoint) -> State | None:
    """Load what :func:`save` wrote, with tensors on the CPU.

    Returns:
        The state, or None if there is none. A file that cannot be loaded is set aside with a
        warning.
    """
    payload = checkpoint.read()
    if payload is None:
        return None
    try:
        state: State = from_bytes(payload)
    except Exception:  # torch's reader raises many kinds, e.g. for a file of another version
        checkpoint.set_aside("cannot be loaded")
        return None
    return state


def to_bytes(state: Any) -> bytes:
    """Serialise ``state`` with :func:`torch.save`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(payload: bytes, weights_only: bool = True) -> Any:
    """Load what :func:`to_bytes` made, with tensors on the CPU.

    Args:
        payload: The serialised state.
        weights_only: Accept only the kinds in :data:`State`. False unpickles everything, which can
            run any code.
    """
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=weights_only)


def random_state(device: torch.device) -> State:
    """State of torch's global generators: of the CPU's, and of the GPU's if ``device`` is one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: State, device: torch.device) -> None:
    """Restore what :func:`random_state` returned, possibly for another kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
