"""Finds copies of images on both sides of a split, which make errors look too low."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from kdecay_search.training.data.dataset import Images

T = TypeVar("T")

SAMPLED_BYTES = 1024
"""How many bytes of an image are compared before all of them are."""


def copies_across(
    training: Iterable[T], measured: Iterable[T], keys: Sequence[Callable[[T], Hashable]]
) -> list[tuple[T, T]]:
    """Find items to measure errors on that are copies of items to train on.

    Args:
        training: The items to train on.
        measured: The items to measure errors on.
        keys: Functions of an item that are equal for copies, the cheapest first. One is only
            called for items that agree with one of the other side in all before it.

    Returns:
        Pairs of an item to measure errors on and the first item to train on that agrees with it in
        all keys.
    """
    groups = [(list(training), list(measured))]
    for key in keys:
        finer = []
        for sides in groups:
            by_key: defaultdict[Hashable, tuple[list[T], list[T]]] = defaultdict(lambda: ([], []))
            for side, items in enumerate(sides):
                for item in items:
                    by_key[key(item)][side].append(item)
            finer += [pair for pair in by_key.values() if all(pair)]
        groups = finer
    return [(copy, originals[0]) for originals, copies in groups for copy in copies]


def copied_files(training: Iterable[str], measured: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of files with the same content, as :func:`copies_across` returns them."""
    return copies_across(training, measured, [os.path.getsize, _file_digest])


def copied_images(training: Images, measured: Images) -> list[tuple[int, int]]:
    """Find images with the same pixels.

    Args:
        training: Images to train on: uint8 (N, C, H, W).
        measured: Images to measure errors on: uint8 (M, C, H, W).

    Returns:
        Pairs of positions in ``measured`` and in ``training``.
    """
    pixels = training.reshape(len(training), -1), measured.reshape(len(measured), -1)
    step = max(1, pixels[0].shape[1] // SAMPLED_BYTES)
    found = copies_across(
        [(0, position) for position in range(len(training))],
        [(1, position) for position in range(len(measured))],
        [
            lambda item: pixels[item[0]][item[1], ::step].tobytes(),
            lambda item: pixels[item[0]][item[1]].tobytes(),
        ],
    )
    return [(copy, original) for (_, copy), (_, original) in found]


def _file_digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
