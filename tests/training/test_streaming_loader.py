"""ImageNet's layout, decoded while training: small files, real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import v2

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.study.spec import WorkersSpec
from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Released
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import StreamedSplit
from kdecay_search.training.streaming_loader import StreamingTrainLoader, StreamingValidationLoader
from kdecay_search.training.trainer import train
from tests.support.wait import wait_for

CPU = torch.device("cpu")
SIDE = 16
MakeFolder = Callable[..., Path]


def imagenet(root: Path, **keys: Any) -> DataSpec:
    return DataSpec(
        name="imagenet", root=str(root), **{"image_size": SIDE, "validation": 0.25, **keys}
    )


def streamed(data: DataSpec) -> StreamedSplit:
    load.cache_clear()
    split = load(data, CPU)
    assert isinstance(split, StreamedSplit)
    return split


def batches(
    data: DataSpec, *, size: int = 7, seed: int = 0, decoders: int = 0
) -> StreamingTrainLoader:
    return StreamingTrainLoader(data, streamed(data), size, seed, CPU, decoders)


def validation(data: DataSpec, decoders: int = 0) -> StreamingValidationLoader:
    return StreamingValidationLoader(data, streamed(data), 4, CPU, decoders)


def pixels(images: torch.Tensor, split: StreamedSplit) -> torch.Tensor:
    """Normalised images as they were before."""
    mean = torch.tensor(split.mean).view(1, -1, 1, 1)
    std = torch.tensor(split.std).view(1, -1, 1, 1)
    return (images * std + mean).round()


@pytest.fixture
def folder(image_folder: MakeFolder) -> Path:
    """Three classes of 12 images of noise, of several sizes; and a test set that is rubbish."""
    image_folder({"cat": 12}, under="train", size=(30, 20), suffix=".jpg")
    image_folder({"dog": 12}, under="train", size=(24, 41), mode="L")
    root = image_folder({"eel": 12}, under="train", size=(17, 60), suffix=".JPEG")
    (root / "val" / "cat").mkdir(parents=True)
    (root / "val" / "cat" / "1.jpg").write_bytes(b"must not be opened")
    return root


@pytest.fixture
def plain_colours(tmp_path: Path) -> Path:
    """Two classes of 8 images; every image is of one colour that no other has."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "colours" / "train" / name).mkdir(parents=True)
        for number in range(8):
            image = Image.new("RGB", (20 + number, 40 - number), (100 * label, 10 * number, 77))
            image.save(tmp_path / "colours" / "train" / name / f"{number}.png")
    return tmp_path / "colours"


def test_decoders_change_nothing_and_an_epoch_can_be_resumed_anywhere(folder: Path) -> None:
    data = imagenet(folder)
    alone = list(batches(data).epoch(3))
    assert len(alone) == batches(data).steps_per_epoch == 3
    for done in range(3):
        rest = list(batches(data, decoders=2 * (done % 2)).epoch(3, done))
        assert len(rest) == 3 - done
        for (images, labels), (same_images, same_labels) in zip(rest, alone[done:], strict=True):
            assert torch.equal(images, same_images)
            assert torch.equal(labels, same_labels)
    for one, other in zip(validation(data), validation(data, decoders=2), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_batches_are_normalised_floats_channels_last(folder: Path) -> None:
    data = imagenet(folder)
    for images, labels in (next(batches(data).epoch(1)), next(iter(validation(data)))):
        assert images.dtype == torch.float32
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
    split = streamed(data)
    assert split.mean == pytest.approx((123.675, 116.28, 103.53))
    assert split.std == pytest.approx((58.395, 57.12, 57.375))
    other = streamed(imagenet(folder, normalisation="cifar10"))
    assert other.mean == (125.3, 123.0, 113.9)


def test_images_are_224_pixels_wide_by_default(folder: Path) -> None:
    data = imagenet(folder, image_size=None)
    assert next(batches(data, size=2).epoch(1))[0].shape == (2, 3, 224, 224)
    assert next(iter(validation(data)))[0].shape == (4, 3, 224, 224)


def test_every_image_is_seen_once_an_epoch_with_its_own_label(plain_colours: Path) -> None:
    data = imagenet(plain_colours)
    split = streamed(data)

    def seen(parts: Any) -> list[tuple[float, ...]]:
        colours = []
        for images, labels in parts:
            for image, label in zip(pixels(images, split), labels.tolist(), strict=True):
                assert (image == image[:, :1, :1]).all()
                assert image[0, 0, 0] == 100 * label
                colours.append(tuple(image[:, 0, 0].tolist()))
        return colours

    trained = seen(batches(data, size=6).epoch(1))
    validated = seen(validation(data))
    assert (len(trained), len(validated)) == (12, 4)
    assert len({*trained, *validated}) == 16
    assert trained != seen(batches(data, size=6).epoch(2))


def test_images_that_fill_no_batch_are_left_out(folder: Path) -> None:
    sizes = [len(labels) for _, labels in batches(imagenet(folder), size=10).epoch(1)]
    assert sizes == [10, 10]


def test_crops_differ_between_epochs_seeds_and_images(folder: Path) -> None:
    data = imagenet(folder, flip=False)

    def views(epoch: int, seed: int) -> dict[bytes, int]:
        ((images, labels),) = batches(data, size=100, seed=seed).epoch(epoch)
        found = [image.contiguous().numpy().tobytes() for image in images]
        return dict(zip(found, labels.tolist(), strict=True))

    assert views(1, 0) == views(1, 0)
    assert len(views(1, 0)) == 27
    assert not set(views(1, 0)) & set(views(2, 0))
    assert not set(views(1, 0)) & set(views(1, 1))


@pytest.mark.parametrize("flip", [None, True, False])
def test_images_are_flipped_by_default(tmp_path: Path, flip: bool | None) -> None:
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8)[None, :, None], (40, 1, 3))
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(16):
            Image.fromarray(ramp).save(tmp_path / "train" / name / f"{number}.png")
    ((images, _),) = batches(imagenet(tmp_path, flip=flip), size=100).epoch(1)
    rising = images[:, 0, 0, -1] > images[:, 0, 0, 0]
    assert rising.any()
    assert rising.all() == (flip is False)


def test_validation_images_are_resized_and_cropped_at_the_centre(folder: Path) -> None:
    data = imagenet(folder)
    split = streamed(data)
    found = torch.cat([pixels(images, split) for images, _ in validation(data)])
    for path, image in zip(split.validation_paths, found, strict=True):
        picture = Image.open(os.fsdecode(path)).convert("RGB")
        scaled = v2.functional.center_crop(v2.functional.resize(picture, [18]), [SIDE, SIDE])
        expected = torch.from_numpy(np.asarray(scaled).transpose(2, 0, 1).astype(np.float32))
        assert torch.equal(image, expected)


def test_a_subset_is_drawn_evenly_and_split_by_seed(folder: Path) -> None:
    split = streamed(imagenet(folder, subset=24))
    assert np.bincount(split.training_labels).tolist() == [6, 6, 6]
    assert np.bincount(split.validation_labels).tolist() == [2, 2, 2]
    other = streamed(imagenet(folder, subset=24, split_seed=1))
    assert set(split.validation_paths) != set(other.validation_paths)


# ---- training ---------------------------------------------------------------------------------


def test_a_run_resumed_within_an_epoch_gives_the_same_bits(
    folder: Path, tmp_path: Path, recorder: Callable[..., Any]
) -> None:
    """Dropout draws from the generator that torchvision's crops draw from, too."""

    def run(decoders: int, *, kept: bool, polls: int = 100) -> Any:
        made = recorder(
            batch_size=7,
            model={"name": "wide-resnet", "depth": 10, "widen": 1, "dropout": 0.3},
            data={**imagenet(folder).model_dump(exclude_defaults=True), "subset": None},
        )
        workers = WorkersSpec(decoders=decoders)
        made.spec = made.spec.model_copy(update={"workers": workers})
        if kept:
            made.checkpoint = Checkpoint(tmp_path, RunKey(1, 0, 0), b"x" * 32, 300.0)
        count = made.poll

        def poll() -> None:
            count()
            if made.polls > polls:
                raise Released

        made.poll = poll
        return made

    whole = run(0, kept=False)
    train(whole)
    first = run(2, kept=True, polls=4)  # one batch into the second epoch
    with pytest.raises(Released):
        train(first)
    torch.manual_seed(99)
    second = run(0, kept=True)
    train(second)
    assert second.polls == 2
    assert second.restored + second.epochs == whole.epochs


# ---- errors -----------------------------------------------------------------------------------


def expect_line(act: Callable[[], object], *words: str) -> None:
    with pytest.raises(DataError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    assert "\\n" not in text
    assert all(word in text for word in words), text


def test_a_missing_root_is_one_clear_line(tmp_path: Path) -> None:
    expect_line(lambda: streamed(imagenet(tmp_path / "no")), "task.data.root", "no such", "train/")


def test_a_root_without_train_is_one_clear_line(image_folder: MakeFolder) -> None:
    root = image_folder({"cat": 3, "dog": 3}, under="val")
    expect_line(lambda: streamed(imagenet(root)), "has no folder train", "one folder of images")


def test_an_empty_class_folder_is_one_clear_line(folder: Path) -> None:
    (folder / "train" / "fox").mkdir()
    expect_line(lambda: streamed(imagenet(folder)), "no image in the class folders fox")


def test_too_few_images_are_one_clear_line(folder: Path) -> None:
    expect_line(lambda: streamed(imagenet(folder, validation=0.01)), "leaves no image", "36 in all")
    expect_line(lambda: streamed(imagenet(folder, validation=0.99)), "leaves 0 of 36")
    expect_line(lambda: streamed(imagenet(folder, subset=37)), "has 36 training images")
    expect_line(lambda: batches(imagenet(folder), size=1), "task.batch_size = 1")


@pytest.mark.parametrize("decoders", [0, 2])
def test_an_unreadable_image_is_one_line_that_names_it(folder: Path, decoders: int) -> None:
    for path in (folder / "train" / "cat").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    epoch = batches(imagenet(folder), decoders=decoders).epoch(1)
    expect_line(lambda: list(epoch), "train/cat/0", ".jpg", "cannot be decoded", "remove it")


def test_killed_decoders_end_the_attempt(folder: Path) -> None:
    before = multiprocessing.active_children()
    epoch = batches(imagenet(folder), size=2, decoders=2).epoch(1)
    next(epoch)
    for child in multiprocessing.active_children():
        if child not in before:
            child.kill()
    with pytest.raises(RuntimeError, match=r"a process that decodes images has ended; .*decoders"):
        list(epoch)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"crop_padding": 4}, "must be left out for imagenet"),
        ({"padding_mode": "reflect"}, "must be left out for imagenet"),
        ({"normalisation": "measured"}, "must be a published one for imagenet"),
    ],
)
def test_keys_without_meaning_for_imagenet_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        imagenet(Path("/"), **keys)


def test_python_can_exit_within_an_epoch(folder: Path, tmp_path: Path) -> None:
    """At its exit Python terminates its decoders and waits for them."""
    (tmp_path / "host.py").write_text(HOST)
    command = [sys.executable, str(tmp_path / "host.py"), str(folder)]
    done = subprocess.run(
        command, input="\n\n", capture_output=True, text=True, timeout=120, check=False
    )
    # A decoder that was still starting may say on stderr that its queues are gone.
    assert done.returncode == 0, done.stderr


HOST = """
import multiprocessing, sys
from pathlib import Path
import torch
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.loading import load
from kdecay_search.training.streaming_loader import StreamingTrainLoader

if __name__ == "__main__":
    data = DataSpec(name="imagenet", root=sys.argv[1], image_size=16)
    cpu = torch.device("cpu")
    epoch = StreamingTrainLoader(data, load(data, cpu), 2, 0, cpu, 2).epoch(1)
    next(epoch)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.readline()
    print(len(list(epoch)), flush=True)
    again = StreamingTrainLoader(data, load(data, cpu), 2, 0, cpu, 2).epoch(1)
    next(again)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.readline()
"""


def test_decoders_survive_signals_and_end_with_their_worker(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(HOST)
    command = [sys.executable, str(tmp_path / "host.py"), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as host:  # type: ignore[call-overload]
        try:
            for pid in map(int, host.stdout.readline().split()):
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
            host.stdin.write("\n")
            host.stdin.flush()
            assert host.stdout.readline() == "13\n"
            decoders = [int(pid) for pid in host.stdout.readline().split()]
            assert decoders
        finally:
            host.kill()
    wait_for(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in decoders),
        "the end of all decoders",
    )
