"""Study files of the documented shape, and those that are missing, empty, binary or broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdecay_search.study.file import load
from tests.study.files import one_line, written
from tests.support.memory_studies import images_table, study_table

SHAPE = """
name = "digits"

[task]
kind = "images"
epochs = 30
batch_size = 64
precision = "float32"

[task.model]
name = "resnet"
depth = 8
block = "basic"

[task.data]
name = "image-folder"
root = "{root}"
validation = 0.2
subset = 5000

[task.optimizer]
momentum = 0.9
nesterov = true
weight_decay = 1e-4

[schedule]
family = "polynomial"
power = 1
lr_max = 0.1
lr_min = 0.001
warmup_epochs = 0

[search]
sampler = "grid"
k_min = 1
k_max = 5
k_step = 0.5
k_cap = 10
trials = 10
max_terms = 2
seeds = 3
min_gain = 0.1

[pruning]
enabled = true
first_share = 0.5
"""


def test_file_of_the_documented_shape_loads(tmp_path: Path) -> None:
    path = tmp_path / "digits.toml"
    path.write_text(SHAPE.format(root=tmp_path))
    spec = load(path)
    assert spec.name == "digits"
    assert spec.task.kind == "images"
    assert spec.task.model.depth == 8
    assert (spec.task.data.root, spec.task.data.subset) == (str(tmp_path), 5000)
    assert spec.schedule.lr_max == 0.1
    assert (spec.search.k_min, spec.search.cap) == (1.0, 10.0)
    assert spec.pruning.enabled


@pytest.mark.parametrize("table", [study_table(), images_table()], ids=["simulated", "images"])
def test_everything_but_name_and_task_may_be_left_out(
    tmp_path: Path, table: dict[str, Any]
) -> None:
    assert load(written(tmp_path, table)).name == "small"


def test_shipped_study_files_load() -> None:
    files = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
    assert files
    names = [load(file).name for file in files]
    assert len(set(names)) == len(names)


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in one_line(tmp_path / "nowhere.toml")


def test_folder_is_not_a_study_file(tmp_path: Path) -> None:
    assert "cannot be read" in one_line(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n\t\n"])
def test_empty_file_is_called_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.toml"
    path.write_bytes(content)
    assert "is empty" in one_line(path)


def test_file_of_comments_alone_misses_name_and_task(tmp_path: Path) -> None:
    path = tmp_path / "comments.toml"
    path.write_text("# to be filled in\n")
    assert "name: is missing (and 1 more)" in one_line(path)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\x00\x00", b"\xff\xfe\x00\x01", bytes(range(256))]
)
def test_binary_file_is_not_a_text_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.toml"
    path.write_bytes(content)
    assert "not a text file" in one_line(path)


@pytest.mark.parametrize(
    "content", ["name = ", "name", "[task", "name = 'a'\nname = 'b'", "\0\0\0", "a = 'x\ny'"]
)
def test_broken_toml_is_refused_with_its_place(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(content)
    message = one_line(path)
    assert "is not valid TOML" in message
    assert "line" in message or "end of document" in message


def test_byte_order_mark_of_a_windows_editor_does_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, study_table())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path).name == "small"


@pytest.mark.parametrize("depth", [100, 300, 5000])
@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: "x = " + "[" * depth + "]" * depth,
        lambda depth: ".".join("x" * depth) + " = 1",
        lambda depth: "x = " + "{y = " * depth + "1" + "}" * depth,
    ],
    ids=["lists", "dotted keys", "tables"],
)
def test_deep_nesting_is_refused(tmp_path: Path, depth: int, nested: Any) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"{nested(depth)}\n{written(tmp_path, study_table()).read_text()}")
    assert len(one_line(path)) < 400
