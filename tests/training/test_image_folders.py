from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.cache import cache_folder, cached
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import Split

CPU = torch.device("cpu")
MakeFolder = Callable[..., Path]
MakeData = Callable[..., DataSpec]


def load_afresh(data: DataSpec) -> Split:
    """As another process would: nothing is left in memory."""
    load.cache_clear()
    return load(data, CPU)


def all_images(split: Split) -> torch.Tensor:
    return torch.cat([split.training_images, split.validation_images])


def spoil(path: Path) -> None:
    """Replace a file's content by rubbish of the same size and time."""
    state = path.stat()
    path.write_bytes(b"x" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_folder_gives_the_pixels_of_its_files(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 4, "dog": 6})
    split = load(folder_data(root, validation=0.5), CPU)
    assert split.classes == 2
    assert torch.bincount(split.training_labels).tolist() == [2, 3]
    found = {image.numpy().tobytes() for image in all_images(split)}
    files = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in root.rglob("*.png")]
    assert found == {file.tobytes() for file in files}


def test_train_is_used_if_there_is_one_and_test_stays_closed(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 3, "dog": 3}, under="train")
    root = image_folder({"cat": 5, "dog": 5}, under="test")
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"must not be opened")
    assert len(all_images(load(folder_data(root), CPU))) == 6


def test_grey_images_get_three_channels_and_jpegs_are_read(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 3, "dog": 3}, mode="L", suffix=".jpg")
    images = all_images(load(folder_data(root), CPU))
    assert images.shape == (6, 3, 12, 12)
    assert torch.equal(images[:, 0], images[:, 2])


def test_images_of_several_sizes_are_resized_to_one(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 4}, size=(20, 10))
    root = image_folder({"dog": 4}, size=(9, 15))
    images = all_images(load(folder_data(root, image_size=8), CPU))
    assert images.shape == (8, 3, 8, 8)


def test_resizing_keeps_shapes_and_takes_the_middle(tmp_path: Path, folder_data: MakeData) -> None:
    stripes = np.zeros((8, 16, 3), dtype=np.uint8)
    stripes[:, 4:12] = 255
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(stripes).save(tmp_path / "images" / name / f"{number}.png")
    images = all_images(load(folder_data(tmp_path / "images", image_size=8, validation=0.5), CPU))
    assert (images == 255).all()


def test_images_are_decoded_once(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"cat": 4, "dog": 4})
    before = load_afresh(folder_data(root))
    for path in root.rglob("*.png"):
        spoil(path)
    after = load_afresh(folder_data(root))
    assert torch.equal(all_images(before), all_images(after))


def test_a_file_written_again_is_decoded_again(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 4, "dog": 4})
    load_afresh(folder_data(root))
    path = root / "cat" / "000.png"
    Image.new("RGB", (12, 12), (1, 2, 3)).save(path)
    images = all_images(load_afresh(folder_data(root)))
    assert any((image == torch.tensor([1, 2, 3]).view(3, 1, 1)).all() for image in images)


def test_only_the_subset_is_decoded(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"cat": 20, "dog": 20})
    data = folder_data(root, subset=8)
    chosen = {image.numpy().tobytes() for image in all_images(load_afresh(data))}
    for path in root.rglob("*.png"):
        if np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() not in chosen:
            spoil(path)
    for file in cache_folder().glob("*.npy"):
        file.unlink()
    again = {image.numpy().tobytes() for image in all_images(load_afresh(data))}
    assert again == chosen


def test_a_damaged_cache_file_is_made_again(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 4, "dog": 4})
    before = load_afresh(folder_data(root))
    (file,) = cache_folder().glob("*.npy")
    for damage in (b"", b"rubbish", file.read_bytes()[:-10]):
        file.write_bytes(damage)
        assert torch.equal(all_images(before), all_images(load_afresh(folder_data(root))))
    assert not list(cache_folder().glob("*.part"))


def test_without_a_cache_there_is_a_warning(
    image_folder: MakeFolder,
    folder_data: MakeData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = image_folder({"cat": 4, "dog": 4})
    (tmp_path / "a-file").write_text("not a folder")
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path / "a-file"))
    with caplog.at_level(logging.WARNING):
        assert len(all_images(load(folder_data(root), CPU))) == 8
    assert "cannot keep decoded images" in caplog.text


def test_one_of_several_decodes_the_same_images() -> None:
    calls = []

    def decode() -> np.ndarray:
        calls.append(threading.get_ident())
        time.sleep(0.1)
        return np.full((2, 3, 4, 4), 7, dtype=np.uint8)

    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(cached("key", decode))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all((result == 7).all() for result in results)
    assert len(results) == 4


def expect_line(data: DataSpec, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(data, CPU)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_a_missing_folder_is_one_clear_line(tmp_path: Path, folder_data: MakeData) -> None:
    expect_line(folder_data(tmp_path / "nowhere"), "nowhere", "no such folder", "one folder of im")


def test_a_folder_without_class_folders_is_one_clear_line(
    tmp_path: Path, folder_data: MakeData
) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "image.png")
    expect_line(folder_data(tmp_path / "flat"), "flat", "has no class folder", "one folder of")


def test_a_class_without_images_is_one_clear_line(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 3, "dog": 0})
    (root / "dog" / "notes.txt").write_text("no image")
    expect_line(folder_data(root), "no image in the class folders dog", "one folder of images")


def test_images_of_several_sizes_are_one_clear_line(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 3}, size=(12, 12))
    root = image_folder({"dog": 3}, size=(14, 12))
    expect_line(folder_data(root), "dog/", "14 x 12", "12 x 12", "task.data.image_size")


def test_a_damaged_image_is_one_clear_line(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"cat": 3, "dog": 3})
    (root / "cat" / "001.png").write_bytes(b"rubbish")
    expect_line(folder_data(root), "cat/001.png", "cannot be decoded", "remove it")


def test_a_cut_off_image_is_one_clear_line(image_folder: MakeFolder, folder_data: MakeData) -> None:
    root = image_folder({"cat": 3, "dog": 3}, suffix=".jpg", size=(40, 40))
    path = root / "cat" / "001.jpg"
    path.write_bytes(path.read_bytes()[:600])
    expect_line(folder_data(root), "cat/001.jpg", "cannot be decoded")


def test_a_subset_larger_than_the_folder_is_one_clear_line(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 3, "dog": 3})
    expect_line(folder_data(root, subset=7), "task.data.subset = 7", "6 training images")


def test_an_empty_validation_part_is_one_clear_line(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 2, "dog": 2})
    expect_line(folder_data(root, validation=0.1), "task.data.validation = 0.1", "no image")
