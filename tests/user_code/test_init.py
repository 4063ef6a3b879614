"""``kdecay init``: what it writes, and that it never overwrites a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdecay_search.cli.init import Kind
from kdecay_search.study.file import load
from tests.support.kdecay_command import Kdecay


@pytest.fixture
def kdecay(tmp_path: Path) -> Kdecay:
    """The command in a folder where no database is made."""
    return Kdecay(tmp_path / "home")


@pytest.mark.parametrize("kind", Kind)
def test_an_example_is_a_valid_study(kdecay: Kdecay, tmp_path: Path, kind: Kind) -> None:
    folder = tmp_path / "mine"
    out = kdecay.run("init", str(folder), "--for", kind).stdout
    assert sorted(path.name for path in folder.iterdir()) == ["study.toml", "train.py"]
    assert "kdecay try study.toml" in out
    assert "kdecay launch study.toml" in out
    assert load(folder / "study.toml").name == f"example-{kind}"
    compile((folder / "train.py").read_text(), "train.py", "exec")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("there", ["study.toml", "train.py"])
def test_an_existing_file_is_not_overwritten(kdecay: Kdecay, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    error = kdecay.run("init", str(tmp_path), code=2).stderr
    assert error == (
        f"kdecay: {tmp_path / there}: exists and is not overwritten; use another folder: "
        "kdecay init FOLDER\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_folder_that_cannot_be_made(kdecay: Kdecay, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = kdecay.run("init", str(tmp_path / "file" / "mine"), code=2).stderr
    assert error.count("\n") == 1
    assert "use a folder that this user can write to" in error
