"""Any input either is a study or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.errors import InvalidSpec
from kdecay_search.study.file import from_json, load
from tests.study.files import merged, toml, written
from tests.study.strategies import TEXTS, numbers
from tests.support.memory_studies import images_table, study_table

KEYS = st.sampled_from(
    [
        "name",
        "task",
        "task.kind",
        "task.epochs",
        "task.data",
        "task.data.root",
        "task.model",
        "task.model.name",
        "task.model.depth",
        "task.surface",
        "task.surface.best_ks",
        "task.optimizer.momentum",
        "schedule",
        "schedule.family",
        "schedule.power",
        "schedule.lr_min",
        "schedule.lr_max",
        "schedule.warmup_epochs",
        "search",
        "search.sampler",
        "search.k_min",
        "search.k_max",
        "search.k_step",
        "search.k_cap",
        "workers.heartbeat_seconds",
        "zzz",
    ]
)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.integers(-3, 20)
    | st.floats()
    | numbers(0, 20)
    | TEXTS
    | st.sampled_from(["images", "simulated", "digits", "cosine", "tpe", "grid", "~x/y", "/"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def check_answer(path: Path, *overrides: str) -> None:
    """Loading gives a usable StudySpec, or raises InvalidSpec with one line."""
    try:
        spec = load(path, overrides)
    except InvalidSpec as error:
        message = str(error)
        assert len(message.splitlines()) == 1
        assert message.startswith((f"{path}: ", "--set"))
    else:
        assert from_json(spec.to_json()) == spec
        spec.schedule_for((spec.search.k_min,))


@settings(deadline=None, max_examples=200)
@given(
    valid=st.sampled_from([study_table(), images_table()]),
    changes=st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4),
)
def test_any_change_of_a_valid_file_gives_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, valid: dict[str, Any], changes: list[tuple[str, Any]]
) -> None:
    for key, value in changes:
        try:
            valid = merged(valid, key, value)
        except (TypeError, AttributeError):  # a change before has put a scalar where a table was
            continue
    check_answer(written(tmp_path_factory.getbasetemp(), valid))


@settings(deadline=None, max_examples=100)
@given(table=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_any_table_gives_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]
) -> None:
    check_answer(written(tmp_path_factory.getbasetemp(), table))


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=200) | TEXTS.map(str.encode))
def test_any_bytes_give_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    check_answer(path)


@settings(deadline=None, max_examples=200)
@given(key=KEYS | TEXTS, value=TEXTS | VALUES.map(toml))
def test_any_override_gives_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: str
) -> None:
    check_answer(written(tmp_path_factory.getbasetemp(), study_table()), f"{key}={value}")
