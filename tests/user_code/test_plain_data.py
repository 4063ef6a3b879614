"""States of runs without code in them: what is kept so, and what cannot be smuggled in."""

from __future__ import annotations

import datetime
import io
import math
import os
import pickle
import random
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.tasks.protocol import Epoch
from kdecay_search.user_code import plain_data
from kdecay_search.user_code.run import TaskRun
from kdecay_search.user_code.saved_state import PICKLED, PLAIN, TORCH, SavedState, state_of
from tests.support.recorded_run import RecordedRun

KEYS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)
PLAIN_VALUES = st.recursive(
    KEYS | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(OrderedDict)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
)


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Mine:
    """An object of the user's own."""

    def __init__(self, value: int) -> None:
        self.value = value


@given(PLAIN_VALUES)
def test_plain_values_come_back_with_their_types(value: object) -> None:
    back = plain_data.from_bytes(plain_data.to_bytes(value))
    assert typed(back) == typed(value)


def typed(value: Any) -> Any:
    """The value with the type of everything in it, in a form that does not depend on an order of
    sets."""
    if isinstance(value, dict):
        return type(value), [(typed(key), typed(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [typed(each) for each in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(typed(each)) for each in value)
    return type(value), repr(value)


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.arange(6)[::2], np.zeros((0, 3)), np.array(5),
     np.array(["a"]), np.array([b"x", b"yz"]), np.array([True]), np.array([1j]),
     np.arange(3, dtype=">u2"), np.asfortranarray(np.arange(6).reshape(2, 3)),
     np.array(["2020-01-01"], "datetime64[D]")],
    ids=str,
)  # fmt: skip
def test_arrays_come_back(array: np.ndarray[Any, Any]) -> None:
    back = plain_data.from_bytes(plain_data.to_bytes({"array": array}))["array"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert np.array_equal(back, array)
    assert back.flags.writeable


@pytest.mark.parametrize(
    "number", [np.float64(0.1), np.float32(math.pi), np.int8(-3), np.bool_(True), np.str_("text")]
)
def test_numbers_of_numpy_come_back(number: Any) -> None:
    back = plain_data.from_bytes(plain_data.to_bytes([number]))[0]
    assert (type(back), back) == (type(number), number)


def test_tensors_come_back_on_the_cpu_and_share_what_they_shared() -> None:
    weights = torch.arange(6.0).reshape(2, 3)
    given = {
        "weights": weights, "row": weights[0], "again": weights, "bf16": weights.bfloat16(),
        "parameter": torch.nn.Parameter(weights.clone()), "scalar": torch.tensor(3),
    }  # fmt: skip
    back = plain_data.from_bytes(plain_data.to_bytes(given))
    assert all(torch.equal(back[name], tensor) for name, tensor in given.items())
    assert [back[name].dtype for name in given] == [each.dtype for each in given.values()]
    assert isinstance(back["parameter"], torch.nn.Parameter)
    assert back["again"] is back["weights"]
    back["weights"][0, 0] = 9
    assert back["row"][0] == 9


def kept_objects() -> list[Any]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizers = [kind(model.parameters(), lr=0.1) for kind in (torch.optim.SGD, torch.optim.AdamW)]
    for optimizer in optimizers:
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizers[0], 0.1, total_steps=9)
    return [model, *optimizers, scheduler, torch.amp.GradScaler("cpu")]


def test_what_keep_saves_is_plain(tmp_path: Path) -> None:
    np.random.seed(1)
    random.seed(1)
    saved = SavedState([Epoch(1, 0.5, 40.0)], [3], state_of(kept_objects()))
    content = saved.to_bytes()
    assert content[:1] == PLAIN
    back = SavedState.from_bytes(content)
    assert (back.curve, back.updates) == (saved.curve, saved.updates)
    assert repr(back.state) == repr(saved.state)
    fresh = kept_objects()
    for each, state in zip(fresh, back.state["objects"], strict=True):
        each.load_state_dict(state)
    assert repr(state_of(fresh)["objects"]) == repr(saved.state["objects"])


@pytest.mark.parametrize(
    "state",
    [Mine(3), {"a": [Mine(3)]}, datetime.date(2020, 1, 1), Path("x"), Counter("abc"), torch.float16,
     np.array([None]), np.zeros(2, [("a", int)]), torch.ones(2, 2).to_sparse()],
    ids=["own", "own-nested", "date", "path", "counter", "dtype", "objects", "records", "sparse"],
)  # fmt: skip
def test_other_objects_are_pickled_as_before(state: Any) -> None:
    with pytest.raises(plain_data.NotPlain):
        plain_data.to_bytes(state)
    content = SavedState([], [], state).to_bytes()
    assert content[:1] == TORCH
    assert type(SavedState.from_bytes(content).state) is type(state)


def test_a_tensor_with_something_attached_is_pickled() -> None:
    tensor = torch.ones(2)
    tensor.note = Mine(3)  # type: ignore[attr-defined]
    content = SavedState([], [], [tensor]).to_bytes()
    assert content[:1] == TORCH
    assert SavedState.from_bytes(content).state[0].note.value == 3


@pytest.mark.parametrize("kind", [PICKLED, TORCH])
def test_what_the_version_before_wrote_is_read(tmp_path: Path, kind: bytes) -> None:
    whole = {"curve": [(1, None, 40.0, None, None)], "updates": [5], "state": {"sum": 1}}
    buffer = io.BytesIO()
    if kind == PICKLED:
        pickle.dump(whole, buffer)
    else:
        torch.save(whole, buffer)
    run = RecordedRun(tmp_path)
    assert run.checkpoint is not None
    run.checkpoint.write(kind + buffer.getvalue())
    assert TaskRun(run).resume() == {"sum": 1}
    assert run.restored == [Epoch(1, None, 40.0)]


def framed(tree: bytes, tensors: bytes = b"") -> bytes:
    return len(tree).to_bytes(8) + tree + tensors


class _WithTensor(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("tensor", 0) if obj == "the tensor" else None


def forgeries(mark: Path) -> dict[str, bytes]:
    """Contents that make a folder when they are unpickled without care."""
    touch = Touch(mark)
    tensors, with_tensor, objects = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save([touch], tensors)
    _WithTensor(with_tensor).dump(["the tensor"])
    np.save(objects, np.array([touch], dtype=object), allow_pickle=True)

    class WithArray(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("array", "|O", (1,), objects.getvalue()) if obj == "the array" else None

    with_array = io.BytesIO()
    WithArray(with_array).dump(["the array"])
    found = {f"protocol {n}": framed(pickle.dumps([touch], protocol=n)) for n in range(6)}
    name = str(mark).encode()
    return found | {
        "in a tensor": framed(with_tensor.getvalue(), tensors.getvalue()),
        "in an array": framed(with_array.getvalue()),
        "a global": framed(b"cposix\nmkdir\n(S'" + name + b"'\ntR."),
        "an instance": framed(b"(S'" + name + b"'\niposix\nmkdir\n."),
        "a class's attribute": framed(
            b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93."
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", forgeries(Path("unused")))
def test_plain_data_runs_no_code_whatever_it_holds(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "mark"
    run = RecordedRun(tmp_path / "kept")
    assert run.checkpoint is not None
    run.checkpoint.write(PLAIN + forgeries(mark)[name])
    assert TaskRun(run).resume() is None
    assert not mark.exists()
    assert "the checkpoint cannot be loaded; the run starts over" in caplog.text


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_more_than_plain_data(content: bytes) -> None:
    try:
        back = plain_data.from_bytes(framed(content))
    except Exception:
        return
    assert type(back).__module__ in ("builtins", "collections", "numpy")
