"""Folders for checkpoints in places where other users can write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kdecay_search.errors import KDecayError
from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint, CheckpointFolder
from kdecay_search.tasks.private_folder import NotPrivate, private_folder, write_file
from tests.support.embedded_homes import is_root
from tests.support.memory_studies import study

NOBODY = 65534
PRIVATE = "a private file"
needs_root = pytest.mark.skipif(not is_root, reason="only root can give a file to another user")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A root that all users can write to, as /tmp."""
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o1777)
    return root


@pytest.fixture
def private(tmp_path: Path) -> Path:
    file = tmp_path / "private"
    file.write_text(PRIVATE)
    return file


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder, RunKey(1, 0, 0), b"m" * 32, 300.0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022])
def test_what_is_made_is_closed_to_others_whatever_the_umask(shared: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        run = checkpoint(shared / "mine")
        run.write(b"state")
        folder = run.make_folder()
    finally:
        os.umask(before)
    assert [mode(path) for path in (shared / "mine", folder, run.path)] == [0o700, 0o700, 0o600]
    assert checkpoint(shared / "mine").read() == b"state"
    assert mode(shared) == 0o1777


def test_a_folder_that_the_version_before_made_is_read(shared: Path) -> None:
    run = checkpoint(shared / "mine")
    run.write(b"state")
    (shared / "mine").chmod(0o755)
    run.path.chmod(0o644)
    assert checkpoint(shared / "mine").read() == b"state"
    assert mode(shared / "mine") == 0o755, "the permissions of what existed are not changed"


@pytest.mark.parametrize("bits", [0o777, 0o770, 0o702, 0o1777, 0o2775])
def test_a_folder_that_others_could_write_to_is_set_aside_with_one_warning(
    shared: Path, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = checkpoint(shared / "mine")
    run.write(b"forged")
    (shared / "mine").chmod(bits)
    assert checkpoint(shared / "mine").read() is None
    assert len(caplog.records) == 1
    assert "other users could write" in caplog.text
    again = checkpoint(shared / "mine")
    again.write(b"state")
    assert again.read() == b"state"
    assert mode(shared / "mine") == 0o700
    [aside] = [path for path in shared.iterdir() if path.name != "mine"]
    assert (aside / run.path.name).exists(), "it is kept for people to look at"
    assert len(caplog.records) == 1


@needs_root
@pytest.mark.parametrize("bits", [0o600, 0o644, 0o666])
def test_another_user_s_file_is_not_read(
    shared: Path, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = checkpoint(shared / "mine")
    run.write(b"forged")
    run.path.chmod(bits)
    os.chown(run.path, NOBODY, NOBODY)
    assert run.read() is None
    assert "the checkpoint belongs to user nobody; the run starts over" in caplog.text
    assert run.read() is None
    assert len(caplog.records) == 1


def test_a_file_that_others_could_write_is_not_read(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = checkpoint(shared / "mine")
    run.write(b"forged")
    run.path.chmod(0o620)
    assert run.read() is None
    assert "the checkpoint can be written by other users; the run starts over" in caplog.text


@needs_root
def test_another_user_s_folder_is_refused_and_left_as_it_is(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, folders = study(), CheckpointFolder(shared)
    theirs = folders.of_study(spec, None)
    run = checkpoint(theirs)
    run.write(b"forged")
    run.make_folder()
    for path in (theirs, run.path):
        os.chown(path, NOBODY, NOBODY)
    before = sorted(path.name for path in theirs.iterdir())
    with pytest.raises(KDecayError, match=r"belongs to user nobody; .*--checkpoints") as caught:
        folders.require_private(spec, None)
    assert "\n" not in str(caught.value)
    assert run.read() is None
    run.write(b"state")
    with pytest.raises(NotPrivate):
        run.make_folder()
    run.remove()
    folders.remove_study(spec, None)
    assert sorted(path.name for path in theirs.iterdir()) == before
    assert folders.studies() == set()
    assert len(caplog.records) == 1


def test_a_link_in_the_place_of_the_folder_is_refused(shared: Path, tmp_path: Path) -> None:
    spec, folders, other = study(), CheckpointFolder(shared), tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "precious").write_text(PRIVATE)
    folders.of_study(spec, None).symlink_to(other)
    with pytest.raises(KDecayError, match="is a symbolic link"):
        folders.require_private(spec, None)
    run = checkpoint(folders.of_study(spec, None))
    run.write(b"state")
    assert run.read() is None
    folders.remove_study(spec, None)
    assert [path.name for path in other.iterdir()] == ["precious"]


def test_no_link_is_followed_in_the_folder(shared: Path, private: Path) -> None:
    run = checkpoint(shared / "mine")
    run.write(b"state")
    run.path.unlink()
    run.path.symlink_to(private)
    run.folder.symlink_to(private.parent)
    assert run.read() is None
    with pytest.raises(NotPrivate, match="is no folder"):
        run.make_folder()
    run.write(b"state")
    assert run.read() == b"state"
    run.remove()
    assert private.read_text() == PRIVATE


def test_a_temporary_file_that_waits_for_its_writer_is_not_written_to(
    shared: Path, private: Path
) -> None:
    """The name of the temporary file cannot be known, and no file that exists is opened."""
    with private_folder(shared / "mine", make=True) as folder:
        names = set()
        for _ in range(50):
            write_file("state", folder, b"x")
            names |= set(os.listdir(folder))
    assert names == {"state"}
    assert private.read_text() == PRIVATE


def test_a_pipe_in_the_place_of_a_checkpoint_blocks_nobody(shared: Path) -> None:
    run = checkpoint(shared / "mine")
    run.make_folder()
    os.mkfifo(run.path)
    assert run.read() is None


def test_the_folder_may_be_exchanged_while_it_is_used(shared: Path, private: Path) -> None:
    """What happens in a folder happens in the one that was checked."""
    with private_folder(shared / "mine", make=True) as folder:
        (shared / "mine").rename(shared / "gone")
        (shared / "mine").symlink_to(private.parent)
        write_file("private", folder, b"state")
    assert private.read_text() == PRIVATE
    assert (shared / "gone" / "private").read_bytes() == b"state"


def test_studies_are_known_by_the_folders_of_this_user(shared: Path) -> None:
    folders = CheckpointFolder(shared)
    specs = [study("one"), study("two-with-dashes")]
    for spec in specs:
        folders.require_private(spec, None)
    (shared / "a-file").touch()
    (shared / "a-link").symlink_to(shared)
    assert folders.studies() == {"one", "two-with-dashes"}
    folders.of_study(specs[0], None).chmod(0o777)
    folders.require_private(specs[0], None)
    assert folders.studies() == {"one", "two-with-dashes"}
    assert len(list(shared.iterdir())) == 5
    folders.remove_study(specs[0], None)
    assert folders.studies() == {"two-with-dashes"}, "with what was set aside"
