"""What of an image folder is a class, an image, a part of a split, or none of these."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.class_folders import IMAGE_SUFFIXES, list_training_set
from kdecay_search.training.data.description import describe_data
from kdecay_search.training.data.held_out import Purpose
from kdecay_search.training.data.loading import load

CPU = torch.device("cpu")
MakeFolder = Callable[..., Path]
MakeData = Callable[..., DataSpec]


def classes(data: DataSpec) -> dict[str, int]:
    """Number of images of each class."""
    found = list_training_set(data)
    counts = [int((found.labels == label).sum()) for label in range(len(found.class_names))]
    return dict(zip(found.class_names, counts, strict=True))


def expect_line(act: Callable[[], object], *words: str) -> None:
    with pytest.raises(DataError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def test_suffixes_and_order_are_those_of_torchvision(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    """Splits that were drawn with torchvision's listing stay the same."""
    image_folder({"b/z": 2, "b/a": 2, "a-1": 2, "a": 3, "B": 1}, suffix=".PNG")
    root = image_folder({"b": 2, "a/x": 1})
    found = list_training_set(folder_data(root))
    expected = ImageFolder(str(root))
    assert IMAGE_SUFFIXES == IMG_EXTENSIONS
    assert list(found.class_names) == expected.classes
    assert list(zip(found.paths, found.labels.tolist(), strict=True)) == expected.samples


# ---- hidden folders and other files ------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet", "image-folder"])
@pytest.mark.parametrize(
    "junk", [".ipynb_checkpoints", "cat/.ipynb_checkpoints", "__MACOSX/cat", "cat/@eaDir"]
)
def test_hidden_folders_hold_neither_classes_nor_images(
    image_folder: MakeFolder, name: Any, junk: str
) -> None:
    root = image_folder({"cat": 3, "dog": 4}, under="train")
    copy(root / "train/cat/000.png", root / "train" / junk / "000-checkpoint.png")
    copy(root / "train/cat/000.png", root / ".cache" / "x.png")
    data = DataSpec(name=name, root=str(root))
    assert classes(data) == {"cat": 3, "dog": 4}


def test_hidden_files_are_no_images(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"cat": 3, "dog": 4})
    (root / "cat" / "._000.png").write_bytes(b"of a Mac")
    assert classes(folder_data(root)) == {"cat": 3, "dog": 4}


def test_a_linked_folder_is_read_once(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"cat": 3, "dog": 4})
    (root / "cat" / "again").symlink_to(root / "cat")
    assert classes(folder_data(root)) == {"cat": 3, "dog": 4}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_one_line(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 3, "dog": 4, "dog/inner": 2})
    (root / "dog" / "inner").chmod(0)
    expect_line(lambda: classes(folder_data(root)), "dog/inner", "cannot be read")


# ---- parts of a split, and classes that are named as one ---------------------------------------


def test_a_class_named_train_is_a_class(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"train": 3, "bus": 4, "test": 2})
    assert classes(folder_data(root)) == {"bus": 4, "test": 2, "train": 3}
    image_folder({"train/steam": 2})  # of images of its own and a subfolder
    assert classes(folder_data(root)) == {"bus": 4, "test": 2, "train": 5}


def test_a_class_named_test_is_no_test_set(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"test": 3, "quiz": 4})
    expect_line(
        lambda: load(folder_data(root), CPU, Purpose.CONFIRMATION), "test/ is one of its classes"
    )


@pytest.mark.parametrize("part", ["test", "val", "Validation"])
def test_a_part_of_a_split_beside_the_classes_is_no_class(
    image_folder: MakeFolder, folder_data: MakeData, part: str
) -> None:
    """Before, it was a class, and its images were trained on."""
    image_folder({"cat": 2, "dog": 2}, under=part)
    root = image_folder({"cat": 3, "dog": 4})
    assert classes(folder_data(root)) == {"cat": 3, "dog": 4}
    if part == "test":
        split = load(folder_data(root), CPU, Purpose.CONFIRMATION)
        assert len(split.validation_labels) == 4


@pytest.mark.parametrize("names", [["train", "test"], ["train"], ["test", "val"]])
def test_parts_of_a_split_without_class_folders_are_one_line(
    image_folder: MakeFolder, folder_data: MakeData, names: list[str]
) -> None:
    """Before, they were two classes: a network learned to tell training from test images."""
    root = image_folder(dict.fromkeys(names, 4))
    words = ["parts of a split", ", ".join(sorted(names)), "train/ with class folders"]
    expect_line(lambda: classes(folder_data(root)), *words)


def test_parts_of_a_split_with_other_names_are_one_line(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 2, "dog": 2}, under="training")
    root = image_folder({"cat": 2, "dog": 2}, under="Testing")
    expect_line(lambda: classes(folder_data(root)), "parts of a split (Testing, training)")


# ---- too little --------------------------------------------------------------------------------


@pytest.mark.parametrize("under", ["", "train"])
def test_one_class_alone_is_one_line(
    image_folder: MakeFolder, folder_data: MakeData, under: str
) -> None:
    """Before, a study of it was done with 0.00 %."""
    root = image_folder({"cat": 6}, under=under)
    expect_line(lambda: load(folder_data(root), CPU), "one class only ('cat')", "one folder of")


def test_images_of_one_class_to_train_on_are_one_line(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 4, "dog": 1})
    data = folder_data(root, validation=0.6)
    expect_line(lambda: load(data, CPU), "task.data.validation = 0.6", "images of one class")


def test_no_image_at_all_is_one_line(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"cat": 0, "dog": 0})
    (root / "cat" / "000.heic").write_bytes(b"of a telephone")
    words = ["no image in the class folders cat, dog", ".jpg", "one folder of images"]
    expect_line(lambda: load(folder_data(root), CPU), *words)


# ---- what is said ------------------------------------------------------------------------------


def test_loading_logs_classes_split_and_what_is_not_used(
    image_folder: MakeFolder, folder_data: MakeData, caplog: pytest.LogCaptureFixture
) -> None:
    image_folder({"cat": 4, "dog": 6}, under="train")
    image_folder({"cat": 1, "dog": 1}, under="test")
    root = image_folder({"cat": 1}, under="raw")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / "notes.txt").touch()
    with caplog.at_level(logging.INFO):
        load(folder_data(root, subset=8, validation=0.25), CPU)
        load(folder_data(root, subset=8), CPU, Purpose.CONFIRMATION)
    assert "10 images in 2 classes (cat 4, dog 6); a subset of 8 is used" in caplog.text
    assert "6 images to train on, 2 validation images to measure errors on" in caplog.text
    assert "8 images to train on, 2 test images to measure errors on" in caplog.text
    assert "hidden folders .ipynb_checkpoints/" in caplog.text
    assert "folders beside train/: raw/" in caplog.text
    assert "files that are no images: .txt 1" in caplog.text
    assert "copies" not in caplog.text


@pytest.mark.parametrize("name", ["imagenet", "image-folder"])
def test_copies_across_the_split_are_logged(
    image_folder: MakeFolder, name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With half of the images held out, and each in two copies, some are on both sides."""
    root = image_folder({"cat": 4, "dog": 4}, under="train")
    for path in list((root / "train").rglob("*.png")):
        copy(path, path.with_name(f"{path.stem}-copy.png"))
    data = DataSpec(name=name, root=str(root), validation=0.5, image_size=16)
    split = load(data, CPU)
    if name == "image-folder":
        training = {image.numpy().tobytes() for image in split.training_images}
        copies = sum(image.numpy().tobytes() in training for image in split.validation_images)
    else:
        contents = {Path(os.fsdecode(path)).read_bytes() for path in split.training_paths}
        copies = sum(
            Path(os.fsdecode(path)).read_bytes() in contents for path in split.validation_paths
        )
    (line,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert copies
    assert f"{copies} of the 8 images to measure errors on are copies of images to train on" in line
    assert "-copy.png" in line


def test_copies_in_the_test_set_are_logged(
    image_folder: MakeFolder, folder_data: MakeData, caplog: pytest.LogCaptureFixture
) -> None:
    image_folder({"cat": 4, "dog": 4}, under="train")
    root = image_folder({"cat": 2, "dog": 2}, under="test")
    copy(root / "train/dog/000.png", root / "test/dog/000.png")
    load(folder_data(root), CPU, Purpose.CONFIRMATION)
    assert "1 of the 4 images to measure errors on are copies" in caplog.text
    assert f"a dog image is {root / 'train/dog/000.png'}" in caplog.text


def test_a_description_says_the_same_and_imports_no_torch(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 4, "dog": 6})
    for number in range(4):
        copy(root / "cat/000.png", root / f"cat/{number}-copy.png")
    data = folder_data(root, validation=0.5)
    images, split, copies = describe_data(data)
    assert images == f"image folder '{root}': 14 images in 2 classes (cat 8, dog 6)"
    assert split == "7 images to train on, 7 validation images to measure errors on"
    assert "of the 7 images to measure errors on are copies of images to train on" in copies
    program = (
        "import sys; from kdecay_search.training.data.description import describe_data; "
        "from kdecay_search.study.builtin_tasks import DataSpec; "
        "print(*describe_data(DataSpec.model_validate_json(sys.argv[1])), sep='\\n'); "
        "assert not {'torch', 'torchvision', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, data.model_dump_json()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=240,
    )
    assert done.stdout.splitlines() == [images, split, copies]


def test_many_classes_are_shortened(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({f"class-{number:02}": 2 for number in range(14)})
    images, *_ = describe_data(folder_data(root))
    assert "28 images in 14 classes (class-00 2, " in images
    assert "class-09 2, and 4 more)" in images
    assert "class-10" not in images


def check(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kdecay_search", "check", str(file)],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=240,
    )


def test_check_says_what_was_found(
    image_folder: MakeFolder, folder_data: MakeData, tmp_path: Path
) -> None:
    root = image_folder({"cat": 4, "dog\n": 6, ".ipynb_checkpoints": 1})
    file = tmp_path / "small.toml"
    file.write_text(
        f'name = "small"\n[task]\nkind = "images"\nepochs = 2\n'
        f'[task.data]\nname = "image-folder"\nroot = "{root}"\n'
    )
    done = check(file)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert f"data: image folder '{root}': 10 images in 2 classes (cat 4, 'dog\\n 6')" in lines
    assert "data: 8 images to train on, 2 validation images to measure errors on" in lines
    assert "data: not used: hidden folders .ipynb_checkpoints/" in lines
    shutil.rmtree(root / "dog\n")
    done = check(file)
    assert done.returncode == 2
    assert "one class only ('cat')" in done.stderr
    assert len(done.stderr.splitlines()) == 1
