"""Checkpoint files: whole or not at all, whatever happens to the disk."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint, CheckpointFolder
from tests.support.memory_studies import study

KEY = RunKey(2, 3, 1)
MINE, OTHER = b"m" * 32, b"o" * 32
PAYLOAD = bytes(range(256)) * 40

WRITER = """
import sys
from pathlib import Path
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.study.trials import RunKey
checkpoint = Checkpoint(Path(sys.argv[1]), RunKey(2, 3, 1), b"m" * 32, 300)
payloads = [bytes([value]) * 3_000_000 for value in (1, 2)]
print("ready", flush=True)
while True:
    for payload in payloads:
        checkpoint.write(payload)
"""


def checkpoint(folder: Path, fingerprint: bytes = MINE, **more: float) -> Checkpoint:
    return Checkpoint(folder, KEY, fingerprint, more.pop("every_seconds", 300.0))


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    checkpoint(tmp_path).write(b"old")
    checkpoint(tmp_path).write(PAYLOAD)
    assert checkpoint(tmp_path).read() == PAYLOAD
    assert [path.name for path in tmp_path.iterdir()] == ["stage2-candidate3-seed1.ckpt"]


def test_a_run_without_a_checkpoint_starts_over_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoint(tmp_path).read() is None
    assert not caplog.records


def test_a_removed_checkpoint_is_gone_and_removing_it_twice_is_no_error(tmp_path: Path) -> None:
    checkpoint(tmp_path).write(PAYLOAD)
    checkpoint(tmp_path).remove()
    checkpoint(tmp_path).remove()
    assert checkpoint(tmp_path).read() is None


def test_another_run_s_state_is_set_aside_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(tmp_path, OTHER).write(PAYLOAD)
    assert checkpoint(tmp_path).read() is None
    assert "belongs to another run" in caplog.text
    assert [path.suffix for path in tmp_path.iterdir()] == [".set-aside"]
    assert checkpoint(tmp_path).read() is None
    assert len(caplog.records) == 1


def _flipped(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]


def _zeroed(content: bytes, chance: random.Random) -> bytes:
    """What a file system may leave after a crash: the length right, a block never written."""
    at = 100 + chance.randrange(len(content) - 200)
    block = content[at : at + chance.randint(50, 4096)]
    return content[:at] + bytes(len(block)) + content[at + len(block) :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a flipped bit": _flipped,
    "a lost end": lambda content, chance: content[: chance.randrange(len(content))],
    "bytes too many": lambda content, chance: content + chance.randbytes(chance.randint(1, 99)),
    "zeros inside": _zeroed,
    "bytes of anything": lambda content, chance: chance.randbytes(chance.randrange(len(content))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_four_hundred_damaged_files_are_never_taken_for_whole(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(damage)
    whole = checkpoint(tmp_path)
    whole.write(PAYLOAD)
    content = whole.path.read_bytes()
    for _ in range(400):
        damaged = DAMAGES[damage](content, chance)
        whole.path.write_bytes(damaged)
        caplog.clear()
        assert checkpoint(tmp_path).read() is None
        assert len(caplog.records) == 1


@given(content=st.binary(max_size=300))
@settings(max_examples=200)
def test_no_bytes_make_reading_fail(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    checkpoint(folder).path.write_bytes(content)
    assert checkpoint(folder).read() is None


def test_on_a_full_disk_the_old_checkpoint_survives_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = checkpoint(tmp_path)
    file.write(PAYLOAD)
    with files_limited_to(1000):
        file.write(b"new" * 9999)
        file.write(b"new" * 9999)
    assert len(caplog.records) == 1
    assert "training continues without" in caplog.text
    assert checkpoint(tmp_path).read() == PAYLOAD
    assert len(list(tmp_path.iterdir())) == 1
    file.write(b"there is room again")
    assert checkpoint(tmp_path).read() == b"there is room again"


def test_a_folder_that_cannot_be_made_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    file = checkpoint(tmp_path / "file")
    file.write(PAYLOAD)
    file.write(PAYLOAD)
    assert len(caplog.records) == 1


def test_a_writer_killed_at_any_moment_leaves_one_whole_state(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.05 + chance.random() / 10)
        writer.kill()
        writer.communicate()
        payload = checkpoint(tmp_path).read()
        assert payload is None or (len(payload), len(set(payload))) == (3_000_000, 1)
    assert payload is not None


def test_what_a_killed_writer_left_goes_when_its_run_is_taken_up_or_ends(tmp_path: Path) -> None:
    file, neighbour = checkpoint(tmp_path), tmp_path / ".stage2-candidate3-seed11.ckpt.node-12"
    left = tmp_path / ".stage2-candidate3-seed1.ckpt.node-12"
    neighbour.touch()
    for end in (file.read, file.remove):
        file.write(PAYLOAD)
        left.write_bytes(PAYLOAD[:10])
        end()
        assert not left.exists()
        assert neighbour.exists()


def test_a_checkpoint_is_due_when_the_last_is_old_enough(tmp_path: Path) -> None:
    now = [0.0]
    file = Checkpoint(tmp_path, KEY, MINE, every_seconds=60, clock=lambda: now[0])
    now[0] = 59.0
    assert not file.is_due
    now[0] = 60.0
    assert file.is_due
    file.write(PAYLOAD)
    assert not file.is_due


def test_studies_that_train_differently_have_two_folders_though_one_name(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    one, other = study(epochs=3), study(epochs=4)
    more_workers = study(epochs=3, workers={"max_attempts": 9}, search={"seeds": 7})
    assert folder.of_study(one, None) != folder.of_study(other, None)
    assert folder.of_study(one, None) == folder.of_study(more_workers, None)
    assert folder.of_study(one, "a") != folder.of_study(one, "b")
    assert folder.of_study(one, "a") == folder.of_study(more_workers, "a")
    assert folder.of_study(one, "../..").parent == tmp_path
    assert one.fingerprint((1.0,), 0) != one.fingerprint((1.0,), 1)
    assert one.fingerprint((1.0,), 0) != one.fingerprint((1.0, 2.0), 0)


def test_an_ended_study_s_folder_is_removed_with_what_is_left_in_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    mine, others = study(), study("others")
    for spec in (mine, others):
        Checkpoint(folder.of_study(spec, None), KEY, spec.fingerprint(), 300).write(PAYLOAD)
    folder.remove_study(mine, None)
    folder.remove_study(mine, None)
    assert list(tmp_path.iterdir()) == [folder.of_study(others, None)]
