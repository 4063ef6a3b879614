from __future__ import annotations

import hashlib
import io
import logging
import pickle
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torchvision import datasets

from kdecay_search.errors import DataError, MissingPackage
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data import download
from kdecay_search.training.data.cifar import cifar
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.sampling import stratified_split
from kdecay_search.training.data.split import Split

CPU = torch.device("cpu")


def images_of(split: Split) -> list[bytes]:
    images = [*split.training_images, *split.validation_images]
    return [image.numpy().tobytes() for image in images]


def digits(**keys: Any) -> Split:
    return load(DataSpec(name="digits", **keys), CPU)


def test_digits_are_grey_bytes_with_labels() -> None:
    split = digits()
    assert split.training_images.shape[1:] == (1, 8, 8)
    assert split.training_images.dtype == torch.uint8
    assert split.training_labels.dtype == torch.int64
    assert split.training_images.max() == 255
    assert split.classes == 10
    assert split.training_labels.unique().tolist() == list(range(10))


def test_a_fifth_of_the_digits_is_never_seen_whatever_the_seed() -> None:
    everything = load_digits().images
    seen: set[bytes] = set()
    for seed in range(4):
        split = digits(split_seed=seed, subset=600)
        seen |= set(images_of(split))
    assert len(images_of(digits())) == len(everything) - round(0.2 * len(everything))
    assert seen <= set(images_of(digits()))


def test_a_fifth_of_the_drawn_images_is_for_validation() -> None:
    split = digits(subset=500, validation=0.2)
    assert len(split.validation_labels) == 100
    assert torch.bincount(split.validation_labels).tolist() == [10] * 10
    assert torch.bincount(split.training_labels).tolist() == [40] * 10


def test_another_split_seed_gives_other_validation_images() -> None:
    one, other = digits(split_seed=0), digits(split_seed=1)
    assert not torch.equal(one.validation_images, other.validation_images)
    assert sorted(images_of(one)) == sorted(images_of(other))


def test_statistics_are_those_of_the_images_to_train_on() -> None:
    split = digits(validation=0.5)
    pixels = split.training_images.double()
    assert split.mean == pytest.approx((pixels.mean().item(),))
    assert split.std == pytest.approx((pixels.std(correction=0).item(),))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
        ("cifar100", (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
        ("imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_published_statistics_can_be_used_with_any_colour_images(
    tiny_cifar: Path, name: Any, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    split = load(DataSpec(name="cifar10", root=str(tiny_cifar), normalisation=name), CPU)
    assert split.mean == pytest.approx(mean)
    assert split.std == pytest.approx(std)


def test_grey_digits_are_not_normalised_as_colours() -> None:
    with pytest.raises(ValidationError, match="must be measured for digits"):
        DataSpec(name="digits", normalisation="cifar10")


def test_the_papers_split_is_a_tenth_of_fifty_thousand() -> None:
    labels = np.repeat(np.arange(10), 5000)
    training, validation = stratified_split(labels, 0.1, 0)
    assert (len(training), len(validation)) == (45_000, 5_000)
    assert np.bincount(labels[validation]).tolist() == [500] * 10
    assert np.array_equal(validation, stratified_split(labels, 0.1, 0)[1])
    assert not np.array_equal(validation, stratified_split(labels, 0.1, 1)[1])


def test_a_worker_loads_the_same_data_once() -> None:
    assert digits(subset=100) is digits(subset=100)


def test_images_are_resized_when_asked() -> None:
    assert digits(subset=100, image_size=16).validation_images.shape[2:] == (16, 16)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"subset": 5000}, ["task.data.subset = 5000", "digits has 1438", "at most"]),
        ({"validation": 0.0001}, ["task.data.validation = 0.0001", "no image", "raise it"]),
        ({"subset": 3, "validation": 0.9}, ["task.data.validation = 0.9", "0 of 3", "lower it"]),
    ],
)
def test_impossible_splits_are_one_clear_line(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        digits(**keys)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_package_is_named_with_its_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "kdecay_search.training.data.digits", raising=False)
    with pytest.raises(MissingPackage, match=r"sklearn\.datasets.*kdecay-search\[worker\]"):
        digits()


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like CIFAR-10, with 20 images, which torchvision takes for whole."""
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.RandomState(0).randint(256, size=(20, 3 * 32 * 32)).astype(np.uint8)
    batch = {"data": pixels, "labels": [i % 10 for i in range(20)]}
    meta = {"label_names": [str(i) for i in range(10)]}

    def write(name: str, content: object) -> str:
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    checksum = write("data_batch_1", batch)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", checksum]])
    # There is no file of the test set: opening it would fail.
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [])
    names = {"filename": "meta", "key": "label_names", "md5": write("meta", meta)}
    monkeypatch.setattr(datasets.CIFAR10, "meta", names)
    return tmp_path


def test_cifar_is_read_without_its_test_set(tiny_cifar: Path) -> None:
    split = load(DataSpec(name="cifar10", root=str(tiny_cifar), validation=0.5), CPU)
    assert split.training_images.shape == (10, 3, 32, 32)
    raw = pickle.loads((tiny_cifar / "cifar-10-batches-py" / "data_batch_1").read_bytes())
    expected = {image.tobytes() for image in raw["data"]}
    assert set(images_of(split)) == expected


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_cannot_be_found_is_one_clear_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(DataError, match=rf"{name}: is not in task\.data\.root .* put cifar-10.*"):
        load(DataSpec(name=name, root=str(tmp_path / "nowhere")), CPU)


def test_cifar_in_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cifar10: is not in .* \(.*Not a directory.*; put cifar"):
        load(DataSpec(name="cifar10", root=str(tmp_path / "file" / "x")), CPU)


class Server(ThreadingHTTPServer):
    """Sends ``content``, or nothing for ever if that is None; counts the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: bytes | None = b""
        self.asked = 0
        self.ends = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.content is None:
            self.server.ends.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tiny_cifar: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the tiny CIFAR-10 as an archive; its folder is gone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tiny_cifar / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(tiny_cifar / "cifar-10-batches-py")
    with Server() as made:
        made.content = buffer.getvalue()
        monkeypatch.setattr(
            datasets.CIFAR10, "url", f"http://127.0.0.1:{made.server_port}/cifar-10-python.tar.gz"
        )
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(made.content).hexdigest())
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.ends.set()
        made.shutdown()
        thread.join()


def test_one_of_several_downloads_cifar_and_logs_its_progress(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataSpec(name="cifar10", root=str(tmp_path / "data"))
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(4) as pool:
        sources = list(pool.map(cifar, [data] * 4))
    assert server.asked == 1
    assert [len(source.labels) for source in sources] == [20] * 4
    assert "downloading cifar-10-python.tar.gz: 100 %" in caplog.text
    assert len(cifar(data).labels) == 20
    assert server.asked == 1
    assert not list((tmp_path / "data").glob("*.part"))


def test_a_damaged_download_is_one_clear_line_and_leaves_nothing(
    server: Server, tmp_path: Path
) -> None:
    server.content = b"<html>Please sign in to this network</html>"
    with pytest.raises(DataError, match=r"sends is damaged: its MD5 sum .* put cifar-10"):
        cifar(DataSpec(name="cifar10", root=str(tmp_path / "data")))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".cifar-10-python.tar.gz.lock"]


def test_a_server_that_falls_silent_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SILENT_SECONDS", 0.2)
    server.content = None
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*timed out.*\); put cifar-10"):
        cifar(DataSpec(name="cifar10", root=str(tmp_path / "data")))


def test_an_archive_is_unpacked_without_a_network(server: Server, tmp_path: Path) -> None:
    assert server.content
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(server.content)
    assert len(cifar(DataSpec(name="cifar10", root=str(tmp_path))).labels) == 20
    assert server.asked == 0
