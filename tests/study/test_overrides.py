"""``--set``: overrides of a study file's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdecay_search.study.file import load
from tests.study.files import merged, one_line, written
from tests.support.memory_studies import images_table, study_table


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("task.epochs=7", "task.epochs", 7),
        ("task.epochs = 7", "task.epochs", 7),
        ("schedule.lr_max=1", "schedule.lr_max", 1.0),
        ("schedule.lr_max=2e-1", "schedule.lr_max", 0.2),
        ("pruning.enabled=false", "pruning.enabled", False),
        ("name=other", "name", "other"),
        ("name='other'", "name", "other"),
        ('name="other"', "name", "other"),
        ("search.sampler=tpe", "search.sampler", "tpe"),
        ("description=two words = one", "description", "two words = one"),
        ("description=", "description", ""),
        ("task.surface.best_ks=[1, 2.5]", "task.surface.best_ks", (1.0, 2.5)),
        ("task.surface={crossing = 3}", "task.surface.crossing", 3.0),
        ("workers.max_attempts=9", "workers.max_attempts", 9),
    ],
)
def test_override_sets_a_value(tmp_path: Path, override: str, key: str, value: Any) -> None:
    spec: Any = load(written(tmp_path, study_table()), [override])
    for part in key.split("."):
        spec = getattr(spec, part)
    assert spec == value
    assert type(spec) is type(value)


def test_override_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    table = study_table(search={"seeds": 7, "k_max": 3.0})
    spec = load(written(tmp_path, table), ["search.k_max=2"])
    assert (spec.search.seeds, spec.search.k_max) == (7, 2.0)


def test_last_override_of_a_key_counts(tmp_path: Path) -> None:
    spec = load(written(tmp_path, study_table()), ["search.seeds=4", "search.seeds=5"])
    assert spec.search.seeds == 5


def test_overrides_turn_one_data_set_into_another(tmp_path: Path) -> None:
    """A study of digits becomes one of an image folder by --set alone."""
    overrides = [
        "name=folder",
        "task.data.name=image-folder",
        f"task.data.root={tmp_path}",
        "task.data.subset=5000",
    ]
    spec = load(written(tmp_path, images_table()), overrides)
    assert spec.task.kind == "images"
    assert spec.task.data.root == str(tmp_path)


@pytest.mark.parametrize("override", ["task.epochs", "=3", "task..epochs=3", ".name=x", "", " =1"])
def test_override_without_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    message = one_line(written(tmp_path, study_table()), override)
    assert message == f"--set {override}: must have the form dotted.key=value"


@pytest.mark.parametrize("override", ["name.x=1", "task.epochs.x.y=1", "task.surface.best_ks.0=1"])
def test_override_through_something_that_is_no_table_is_refused(
    tmp_path: Path, override: str
) -> None:
    table = merged(study_table(), "task.surface.best_ks", [2.0])
    message = one_line(written(tmp_path, table), override)
    assert message.startswith(f"--set {override}: ")
    assert message.endswith(" is not a table")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.epochs=0", "--set: task.epochs = 0: must be greater than or equal to 1"),
        ("task.epochs=many", '--set: task.epochs = "many": must be a valid integer'),
        ("search.kmax=3", "--set: search.kmax: unknown key; did you mean search.k_max?"),
        ("task.kind=other", "--set: task.kind"),
        ("name=a/b", '--set: name = "a/b": must start with'),
    ],
)
def test_error_of_an_override_names_set(tmp_path: Path, override: str, expected: str) -> None:
    assert one_line(written(tmp_path, study_table()), override).startswith(expected)


@pytest.mark.parametrize(
    "override",
    ["task.surface={crossing = -1}", "task.surface.best_ks=[1, -1]", "task . epochs=0"],
)
def test_error_inside_an_override_names_set(tmp_path: Path, override: str) -> None:
    assert one_line(written(tmp_path, study_table()), override).startswith("--set")


def test_error_of_the_file_does_not_name_set_because_of_another_override(tmp_path: Path) -> None:
    path = written(tmp_path, merged(study_table(), "search.seeds", 0))
    assert one_line(path, "search.k_max=3").startswith(f"{path}: search.seeds = 0")


@pytest.mark.parametrize("override", ["a\nb=1", "x\ny", "name=a\nb", "name.a\nb=1", "a\x1b[31m"])
def test_override_with_a_line_break_is_refused_in_one_line(tmp_path: Path, override: str) -> None:
    assert one_line(written(tmp_path, study_table()), override).isprintable()


def test_deep_override_is_refused(tmp_path: Path) -> None:
    one_line(written(tmp_path, study_table()), ".".join("x" * 3000) + "=1")
