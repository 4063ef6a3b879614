"""Plain data and tensors as bytes that can be read without running any code.

Plain are numbers, texts, bytes, and lists, tuples, dicts and sets of these, NumPy's arrays and
numbers, and torch's tensors: what the states of models, optimizers and random generators consist
of. Their structure is pickled, and read by an unpickler that refuses to import anything, so that
no object can be made, and nothing called, whatever the bytes are; tensors are kept by
:func:`torch.save`, and read with ``weights_only``.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from typing import Any

_CLASSES = {("collections", "OrderedDict"): OrderedDict, ("builtins", "complex"): complex}
"""The only classes that are imported: of values that have no notation of their own."""
_ARRAY_KINDS = "?biufcSUmM"
"""Kinds of NumPy's types whose values are bytes and nothing else: neither objects nor records."""
_LENGTH_BYTES = 8


class NotPlain(Exception):
    """The data holds an object that only pickle can keep."""


def to_bytes(data: Any) -> bytes:
    """Serialise ``data``.

    Raises:
        NotPlain: Something in it is not plain.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(data)
    tree = buffer.getvalue()
    return len(tree).to_bytes(_LENGTH_BYTES) + tree + _saved_tensors(pickler.tensors)


def from_bytes(content: bytes) -> Any:
    """Return what :func:`to_bytes` was given, with all tensors on the CPU.

    Raises:
        Exception: Whatever reading raises for anything else.
    """
    start = _LENGTH_BYTES
    end = start + int.from_bytes(content[:start])
    return _Unpickler(io.BytesIO(content[start:end]), content[end:]).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.tensors: list[Any] = []

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        """The stand-in of an array or a tensor; None for anything else."""
        if _is_array(obj):
            kind = "number" if isinstance(obj, sys.modules["numpy"].generic) else "array"
            return kind, obj.dtype.str, obj.shape, obj.tobytes()
        if _is_tensor(obj):
            self.tensors.append(obj)
            return "tensor", len(self.tensors) - 1
        return None

    def reducer_override(self, obj: Any) -> Any:
        """Called for everything that has no notation of its own."""
        if obj in _CLASSES.values() if isinstance(obj, type) else type(obj) in _CLASSES.values():
            return NotImplemented
        raise NotPlain(f"{type(obj).__module__}.{type(obj).__qualname__}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: bytes) -> None:
        super().__init__(file)
        self._bytes = tensors
        self._tensors: list[Any] | None = None

    def find_class(self, module: str, name: str) -> type:
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not plain data") from None

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid
        if kind == "tensor":
            if self._tensors is None:
                self._tensors = _loaded_tensors(self._bytes)
            return self._tensors[rest[0]]
        import numpy as np  # noqa: PLC0415 - only where there are arrays

        dtype, shape, content = rest
        if np.dtype(dtype).kind not in _ARRAY_KINDS:
            raise pickle.UnpicklingError(f"arrays of {dtype} are not plain data")
        array = np.frombuffer(content, dtype).reshape(shape).copy()
        return array if kind == "array" else array[()]


def _is_array(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    is_known = type(obj) is numpy.ndarray or isinstance(obj, numpy.generic)
    return is_known and obj.dtype.kind in _ARRAY_KINDS


def _is_tensor(obj: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is None or type(obj) not in (torch.Tensor, torch.nn.Parameter):
        return False
    return obj.layout is torch.strided and not obj.is_quantized and not vars(obj)


def _saved_tensors(tensors: list[Any]) -> bytes:
    if not tensors:
        return b""
    from kdecay_search.training import checkpoints  # noqa: PLC0415 - torch

    return checkpoints.to_bytes(tensors)


def _loaded_tensors(content: bytes) -> list[Any]:
    from kdecay_search.training import checkpoints  # noqa: PLC0415 - torch

    return list(checkpoints.from_bytes(content))
