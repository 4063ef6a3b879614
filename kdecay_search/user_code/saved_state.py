"""Saves the state of a run, and restores it in a later attempt; with torch or without it.

Plain data and tensors are kept in a form that cannot run code (:mod:`.plain_data`). Other objects
are pickled, and unpickled from a folder that only this user can write to
(:mod:`kdecay_search.tasks.private_folder`).
"""

from __future__ import annotations

import pickle
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol

from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch
from kdecay_search.user_code import plain_data
from kdecay_search.user_code.random_state import get_random_state, set_random_state

PLAIN, PICKLED, TORCH = b"D", b"P", b"T"
"""First byte of a saved state: it is plain data, or was pickled by Python, or by torch."""


class Stateful(Protocol):
    """A model, an optimizer, a scheduler or anything else that has a ``state_dict()``."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True)
class SavedState:
    """The state of a run after one of its reports."""

    curve: Sequence[Epoch]
    """The planned reports that the run has made, in order."""
    updates: Sequence[int]
    """Number of updates done, for each optimizer that :meth:`TaskRun.drive` drives."""
    state: Any
    """What the user's code saved; anything that can be pickled."""
    progress: Mapping[str, Any] | None = None
    """Where those reports were made (:meth:`.progress.Progress.to_plain`); None in what earlier
    versions saved."""

    def to_bytes(self) -> bytes:
        """Return the state as bytes; pickled if it is more than plain data."""
        curve = [astuple(epoch) for epoch in self.curve]
        whole = {
            "curve": curve,
            "updates": list(self.updates),
            "state": self.state,
            "progress": self.progress,
        }
        try:
            return PLAIN + plain_data.to_bytes(whole)
        except plain_data.NotPlain:
            if "torch" not in sys.modules:
                return PICKLED + pickle.dumps(whole)
        from kdecay_search.training import checkpoints  # noqa: PLC0415 - torch

        return TORCH + checkpoints.to_bytes(whole)

    @staticmethod
    def from_bytes(payload: bytes) -> SavedState:
        """Return the state that :meth:`to_bytes` gave; torch's tensors are on the CPU.

        Raises:
            Exception: Whatever reading raises, such as when the code has changed since.
        """
        if payload[:1] == PLAIN:
            found = plain_data.from_bytes(payload[1:])
        elif payload[:1] == PICKLED:
            found = pickle.loads(payload[1:])
        else:
            from kdecay_search.training import checkpoints  # noqa: PLC0415 - torch

            found = checkpoints.from_bytes(payload[1:], weights_only=False)
        curve = [Epoch(*values) for values in found["curve"]]
        return SavedState(curve, found["updates"], found["state"], found.get("progress"))


class StateStore:
    """Where the state of one run outlives its process, if it has a checkpoint."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._scratch: Path | None = None

    @property
    def folder(self) -> Path:
        """The run's own folder; a temporary one if the run has no checkpoint."""
        if self._checkpoint is not None:
            return self._checkpoint.make_folder()
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="kdecay-run-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch

    def write(self, saved: SavedState) -> None:
        """Replace what was saved before; without a checkpoint, do nothing."""
        if self._checkpoint is not None:
            self._checkpoint.write(saved.to_bytes())

    def read(self) -> SavedState | None:
        """Return what was saved last; None if there is nothing, or nothing that can be loaded."""
        payload = None if self._checkpoint is None else self._checkpoint.read()
        if payload is None:
            return None
        try:
            return SavedState.from_bytes(payload)
        except Exception:  # whatever reading raises
            self._set_aside("cannot be loaded")
            return None

    def restore(self, objects: Sequence[Stateful], state: Any) -> None:
        """Restore the objects and the random generators to what :func:`state_of` returned.

        Raises:
            Exception: Whatever loading raises for a state that does not fit. Such a state is set
                aside, so that it fails this attempt and not the next.
        """
        try:
            for each, own in zip(objects, state["objects"], strict=True):
                each.load_state_dict(own)
            set_random_state(state["random"])
        except Exception:
            self._set_aside("does not fit this code")
            raise

    def _set_aside(self, reason: str) -> None:
        if self._checkpoint is not None:
            self._checkpoint.set_aside(reason)


def state_of(objects: Sequence[Stateful]) -> dict[str, Any]:
    """Return the states of these objects and of the random generators."""
    return {"objects": [each.state_dict() for each in objects], "random": get_random_state()}
