"""``kdecay doctor`` on folders, good and broken."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.doctor.check import Severity
from kdecay_search.doctor.folders import checkpoint_checks, data_checks, file_system, home_checks
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import CheckpointFolder
from tests.support.memory_studies import images_table


def images(**data: Any) -> StudySpec:
    return StudySpec.model_validate_json(json.dumps(images_table(**data)))


def test_folder_is_tried_and_left_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path))
    (check,) = checkpoint_checks(None)
    assert check.severity in (
        Severity.OK,
        Severity.WARNING,
    )  # a warning where tests run in a container
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_place_of_a_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("KDECAY_HOME", str(file))
    for checks in (home_checks(is_embedded=True), checkpoint_checks(file)):
        (check,) = checks
        assert check.severity == Severity.ERROR
        assert str(file) in check.value


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    (check,) = checkpoint_checks(tmp_path)
    assert (check.severity, "Permission denied" in check.value) == (Severity.ERROR, True)


def test_missing_checkpoint_folder_is_a_warning(tmp_path: Path) -> None:
    (check,) = checkpoint_checks(tmp_path / "shared")
    assert check.severity == Severity.WARNING
    assert "mounted" in (check.fix or "")
    assert not (tmp_path / "shared").exists()


def test_folder_for_checkpoints_that_others_can_write_to_is_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    for bits in (0o1777, 0o775):
        root.chmod(bits)
        (check,) = checkpoint_checks(root)
        assert check.severity == Severity.WARNING
        assert "others can write to it" in check.value
        assert "mkdir -m 700" in (check.fix or "")


def test_study_s_folder_that_a_worker_would_refuse_is_an_error(tmp_path: Path) -> None:
    spec = images()
    folder = CheckpointFolder(tmp_path).of_study(spec, None)
    folder.symlink_to(tmp_path)
    (check,) = checkpoint_checks(tmp_path, spec)
    assert (check.severity, "is a symbolic link" in check.value) == (Severity.ERROR, True)
    folder.unlink()
    folder.mkdir(mode=0o700)
    folder.chmod(0o770)
    (check,) = checkpoint_checks(tmp_path, spec)
    assert (check.severity, "will start over" in check.value) == (Severity.WARNING, True)
    assert list(tmp_path.iterdir()) == [folder], "it is only looked at"
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        (check,) = checkpoint_checks(tmp_path, spec)
        assert (check.severity, "belongs to user" in check.value) == (Severity.ERROR, True)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/mnt/a b/c", "nfs4"), ("/mnt/a", "xfs"), ("/mnt/over", "lustre")],
)
def test_file_system_is_that_of_the_innermost_latest_mount(
    tmp_path: Path, path: str, kind: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "rootfs / rootfs rw 0 0\n/dev/sda / ext4 rw 0 0\n/dev/sdb /mnt xfs rw 0 0\n"
        "host:/a /mnt/a\\040b nfs4 rw 0 0\nx /mnt/over xfs rw 0 0\ny /mnt/over lustre rw 0 0\n"
    )
    assert file_system(Path(path), mounts) == kind


def test_image_folder(tmp_path: Path) -> None:
    spec = images(name="image-folder", root=str(tmp_path / "pictures"))
    assert [c.severity for c in data_checks(spec)] == [Severity.ERROR]
    (tmp_path / "pictures" / "train" / "rose").mkdir(parents=True)
    (empty,) = data_checks(spec)
    assert (empty.severity, "has no file" in empty.value) == (Severity.ERROR, True)
    (tmp_path / "pictures" / "train" / "rose" / "1.png").touch()
    (good,) = data_checks(spec)
    assert (good.severity, "1 classes" in good.value) == (Severity.OK, True)


def test_imagenet_needs_a_folder_train(tmp_path: Path) -> None:
    spec = images(name="imagenet", root=str(tmp_path))
    (tmp_path / "rose").mkdir()
    (tmp_path / "rose" / "1.png").touch()
    (check,) = data_checks(spec)
    assert (check.severity, "has no folder train" in check.value) == (Severity.ERROR, True)
    (tmp_path / "rose").rename(tmp_path / "train")
    (tmp_path / "train" / "rose").mkdir()
    (tmp_path / "train" / "1.png").rename(tmp_path / "train" / "rose" / "1.png")
    assert [c.severity for c in data_checks(spec)] == [Severity.OK]


def test_cifar_may_be_downloaded_into_a_writable_folder(tmp_path: Path) -> None:
    (check,) = data_checks(images(name="cifar10", root=str(tmp_path)))
    assert check.severity == Severity.WARNING
    (tmp_path / "cifar-10-batches-py").mkdir()
    (check,) = data_checks(images(name="cifar10", root=str(tmp_path)))
    assert check.severity == Severity.OK
    (tmp_path / "file").touch()
    (check,) = data_checks(images(name="cifar10", root=str(tmp_path / "file")))
    assert check.severity == Severity.ERROR
