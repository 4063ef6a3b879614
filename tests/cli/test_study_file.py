"""Commands on bad study files, and on files whose data is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import IMAGES, STUDY, Run, refusal


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (STUDY + "epoch = 3", "task.epoch: unknown key; did you mean task.epochs?"),
        (STUDY + "epoch_seconds = '1'", 'task.epoch_seconds = "1": must be a valid number'),
        (STUDY + "[search]\nk_min = 4\nk_max = 2", "search.k_max = 2: must be at least"),
        (STUDY + "[schedule]\nlr_min = 1\nlr_max = 0.1", "schedule.lr_max = 0.1: must be at least"),
        (IMAGES + "[task.model]\nname = 'vgg'", "task.model.name = \"vgg\": must be 'resnet'"),
        (STUDY.replace('"small"', '"a/b"'), 'name = "a/b": must start with'),
        ("", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\xff\x00", "is not a text file"),
    ],
    ids=[
        "unknown key",
        "wrong type",
        "k_min above k_max",
        "lr_min above lr_max",
        "unknown model",
        "name with a slash",
        "empty file",
        "binary file",
    ],
)
def test_bad_file(run_kdecay: Run, tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    line = refusal(run_kdecay("check", "bad.toml"))
    assert line.startswith("kdecay: bad.toml: ")
    assert message in line


@pytest.mark.parametrize("file", ["nowhere.toml", "."])
def test_unreadable_file(run_kdecay: Run, file: str) -> None:
    assert f"kdecay: {file}: " in refusal(run_kdecay("check", file))


def test_launch_refuses_a_bad_file_before_it_starts_anything(
    run_kdecay: Run, study_file: Path, tmp_path: Path
) -> None:
    line = refusal(run_kdecay("launch", study_file.name, "--set", "search.k_max=0.5", "--json"))
    assert "--set: search.k_max = 0.5: must be at least search.k_min = 1" in line
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("k_max = 4", "k from 1 to 4 by 0.5, growing by 0.5 to 8 if the best k is the largest;"),
        ("k_max = 4\nk_cap = 4", "k from 1 to 4 by 0.5;"),
        ("ks = [1, 4]", "k of 1, 4, growing by 0.5 to 10 if the best k is the largest;"),
        ("ks = [4, 10]", "k of 4, 10;"),
        ("sampler = 'tpe'\nk_max = 4", "k from 1 to 4;"),
    ],
)
def test_check_tells_which_ks_are_tried(
    run_kdecay: Run, tmp_path: Path, keys: str, told: str
) -> None:
    (tmp_path / "grid.toml").write_text(f"{STUDY}[search]\n{keys}")
    result = run_kdecay("check", "grid.toml")
    assert told in result.stdout.replace("\n", " ")


def test_check_refuses_a_missing_data_folder(run_kdecay: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures.toml").write_text(IMAGES)
    line = refusal(run_kdecay("check", "pictures.toml"))
    assert f"task.data.root = {tmp_path}/nowhere: no such folder" in line


def test_launch_refuses_a_missing_data_folder(run_kdecay: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures.toml").write_text(IMAGES)
    line = refusal(run_kdecay("launch", "pictures.toml", "--workers", "1"))
    assert "no such folder" in line
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["launch", "worker"])
def test_unknown_device(run_kdecay: Run, study_file: Path, command: str) -> None:
    file = [study_file.name] if command == "launch" else []
    line = refusal(run_kdecay(command, *file, "--device", "tpu"))
    assert line == "kdecay: --device tpu: TPUs are not supported; use cpu"
