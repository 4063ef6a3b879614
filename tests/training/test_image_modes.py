"""Images of every mode give the pixels that they show, or one line that names the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.decoding import open_image
from kdecay_search.training.data.loading import load

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
OPAQUE = np.full_like(GREY, 255)


def pixels(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    image = open_image(str(path))
    assert image.mode == "RGB"
    return np.asarray(image)


def as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([grey] * 3, axis=-1)


def png_16(path: Path, values: NDArray[np.uint16]) -> Path:
    """Write a 16-bit PNG of one (grey), three (RGB) or four (RGBA) channels."""
    height, width, channels = values.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def expect_line(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_image(str(path))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".pgm", {}),
    ],
)
@pytest.mark.parametrize("factor", [257, 256])
def test_16_bit_grey_gives_the_pixels_of_its_8_bit_copy(
    tmp_path: Path, suffix: str, options: dict[str, Any], factor: int
) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * factor).save(path, **options)
    assert np.array_equal(pixels(path), as_rgb(GREY))


def test_big_endian_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    values = (GREY.astype(np.uint16) * 257).astype(">u2")
    Image.frombytes("I;16B", (16, 16), values.tobytes()).save(tmp_path / "image.tif")
    assert np.array_equal(pixels(tmp_path / "image.tif"), as_rgb(GREY))


def test_16_bit_colour_is_scaled(tmp_path: Path) -> None:
    path = png_16(tmp_path / "image.png", COLOUR.astype(np.uint16) * 257)
    assert np.array_equal(pixels(path), COLOUR)
    with_alpha = np.dstack([COLOUR, OPAQUE]).astype(np.uint16) * 257
    assert np.array_equal(pixels(png_16(path, with_alpha)), COLOUR)


@pytest.mark.parametrize("level", [0, 512, 65535])
def test_a_16_bit_image_of_one_value_is_scaled(tmp_path: Path, level: int) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.full((4, 4), level, dtype=np.uint16)).save(path)
    assert (pixels(path) == level >> 8).all()


@pytest.mark.parametrize(
    "values",
    [
        GREY.astype(np.uint16),  # 8-bit data in a 16-bit file
        GREY.astype(np.uint16) * 16,  # 12-bit data in a 16-bit file
        (GREY > 100).astype(np.uint16),  # a mask of 0 and 1
        GREY.astype(np.uint16) + 32768,  # little contrast far from black
        np.full_like(GREY, 200).astype(np.uint16),  # one value of 8-bit data
    ],
    ids=["8 bits", "12 bits", "mask", "offset", "one value"],
)
def test_a_16_bit_image_that_8_bits_cannot_show_is_one_line(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    Image.fromarray(values).save(tmp_path / "grey.png")
    expect_line(tmp_path / "grey.png", "16 bits", "scale it to 8 bits")
    png_16(tmp_path / "colour.png", as_rgb(values))  # type: ignore[arg-type]
    expect_line(tmp_path / "colour.png", "16 bits", "scale it to 8 bits")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_white_are_one_line(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(GREY.astype(dtype)).save(path)
    expect_line(path, "32-bit", "convert it to 8 bits")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_one_bit_is_black_and_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(GREY > 100).save(path)
    assert np.array_equal(pixels(path), as_rgb(np.where(GREY > 100, 255, 0).astype(np.uint8)))


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "image.png")
    assert np.array_equal(pixels(tmp_path / "image.png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_gives_its_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    plain = np.full((16, 16, 3), (10, 200, 90), dtype=np.uint8)
    Image.fromarray(plain).convert("CMYK").save(path)
    assert np.abs(pixels(path).astype(int) - plain).max() <= 2


def with_alpha(alpha: NDArray[np.uint8], mode: str) -> Image.Image:
    """An image with an alpha channel, or with a palette or colour that is transparent."""
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    if mode == "RGBA":
        return Image.fromarray(np.dstack([COLOUR, alpha]))
    image = Image.fromarray(GREY if mode == "L" else COLOUR)
    return image.quantize(16) if mode == "P" else image


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_opaque_alpha_channel_is_dropped(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    with_alpha(OPAQUE, mode).save(path)
    assert np.array_equal(pixels(path), as_rgb(GREY) if mode == "LA" else COLOUR)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("LA", {}),
        ("RGBA", {}),
        ("P", {"transparency": 3}),
        ("P", {"transparency": bytes([0, 128] + [255] * 14)}),
        ("L", {"transparency": 5}),
        ("RGB", {"transparency": (0, 0, 255)}),
    ],
)
def test_transparent_pixels_are_one_line(
    tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "image.png"
    with_alpha(GREY, mode).save(path, **options)
    expect_line(path, "transparent", "background")


def test_transparent_16_bit_pixels_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path, transparency=514)
    expect_line(path, "transparent", "background")


def test_a_transparent_colour_that_no_pixel_has_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(COLOUR).save(path, transparency=(1, 2, 3))
    assert np.array_equal(pixels(path), COLOUR)


def test_a_16_bit_folder_loads_as_its_8_bit_copy(
    tmp_path: Path, folder_data: Callable[..., DataSpec]
) -> None:
    """Before, all images turned white, and a study ended at chance in silence."""
    random = np.random.RandomState(0)
    for label, name in enumerate(("dark", "light")):
        for number in range(4):
            grey = random.randint(120, size=(8, 8)).astype(np.uint8) + np.uint8(130 * label)
            for depth, values in ((8, grey), (16, grey.astype(np.uint16) * 257)):
                folder = tmp_path / str(depth) / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / f"{number}.png")
    eight, sixteen = (
        load(folder_data(tmp_path / depth, validation=0.5), torch.device("cpu"))
        for depth in ("8", "16")
    )
    assert torch.equal(eight.training_images, sixteen.training_images)
    assert torch.equal(eight.validation_images, sixteen.validation_images)
    assert len(eight.training_images.unique()) > 50
