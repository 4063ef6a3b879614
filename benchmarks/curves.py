"""Files of recorded curves: every candidate k trained to its end on every seed.

A file holds one JSON object: ``source`` (what was trained), ``ks`` (K candidates), ``epochs`` (T),
and ``seeds`` with an object for each seed: ``raw`` (validation error, %), ``averaged_W`` (the same
for weights averaged with a half-life of W epochs) and ``train_loss``, each T rows of K values. The
last row is the end of the schedule. A run that is not recorded yet has null in its column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.files import read_object
from kdecay_search.errors import DataError
from kdecay_search.study.base import AVERAGING_SHARE
from kdecay_search.study.search_spec import LARGEST_K, SMALLEST_K

Array = NDArray[np.float64]

RAW = "raw"
AVERAGED = "averaged_"


@dataclass(frozen=True)
class Curves:
    """The curves of a file, its candidates in increasing order."""

    file: str
    """Path of the file."""
    ks: tuple[float, ...]
    """Exponents of the K candidates, ascending."""
    epochs: int
    """Number of epochs of a training, T."""
    raw: Array
    """Validation errors (%) of the weights, (S, T, K)."""
    averaged: Array
    """Validation errors (%) of the averaged weights, (S, T, K)."""
    window: str
    """Half-life of the averaging in epochs, as the file names it."""

    @property
    def seeds(self) -> int:
        """Number of recorded seeds, S."""
        return len(self.raw)

    @property
    def means(self) -> Array:
        """Mean final error (%) of each k over all recorded seeds, (K,)."""
        means: Array = self.raw[:, -1].mean(axis=0)
        return means

    def relabelled(self, orders: Iterable[Sequence[int]]) -> Curves:
        """The same curves under other labels of k.

        Args:
            orders: For each seed, the column that each candidate takes its curves from.
        """
        columns = [list(order) for order in orders]
        raw, averaged = (
            np.stack([part[:, order] for part, order in zip(curves, columns, strict=True)])
            for curves in (self.raw, self.averaged)
        )
        return replace(self, raw=raw, averaged=averaged)

    def reversed(self) -> Curves:
        """What k gave now carries the label at the other end: small k wins where large k did."""
        order = range(len(self.ks))[::-1]
        return self.relabelled([order] * self.seeds)

    def shuffled(self, random: np.random.Generator) -> Curves:
        """Labels of k drawn anew for every seed: k makes no difference."""
        return self.relabelled(random.permutation(len(self.ks)).tolist() for _ in range(self.seeds))


def read(path: str | Path, window: str | None = None) -> Curves:
    """Read the curves of a file.

    Args:
        path: A file of this format.
        window: Which ``averaged_W`` to use; None takes the one nearest to the package's default.

    Raises:
        DataError: The file cannot be used; the message is one line.
    """
    table = read_table(path)
    try:
        return _curves(str(path), table, window)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: is not a file of recorded curves: {reason}") from None


def read_table(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        DataError: There is none; the message is one line.
    """
    return read_object(
        path,
        missing="no such file; benchmarks.record writes one",
        wrong="is not a file of recorded curves: must be a JSON object",
    )


def _curves(file: str, table: dict[str, Any], window: str | None) -> Curves:
    ks = [float(k) for k in table["ks"]]
    epochs = table["epochs"]
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise ValueError(f"epochs = {epochs!r} must be a whole number from 1 on")
    if len(ks) < 2 or len(set(ks)) < len(ks):
        raise ValueError(f"ks = {ks} must be two different candidates or more")
    if not all(SMALLEST_K <= k <= LARGEST_K for k in ks):
        raise ValueError(f"ks = {ks} must lie between {SMALLEST_K:g} and {LARGEST_K:g}")
    seeds = table["seeds"]
    if not isinstance(seeds, dict) or not seeds:
        raise ValueError("seeds must be an object with one entry a seed")
    name = _averaged_name(seeds.values(), window, AVERAGING_SHARE * epochs)
    order = np.argsort(ks)
    shape = (epochs, len(ks))
    raw, averaged = (
        np.stack([_matrix(curves, key, seed, shape)[:, order] for seed, curves in seeds.items()])
        for key in (RAW, name)
    )
    return Curves(file, tuple(sorted(ks)), epochs, raw, averaged, name.removeprefix(AVERAGED))


def _matrix(curves: dict[str, Any], key: str, seed: str, shape: tuple[int, int]) -> Array:
    matrix = np.array(curves[key], dtype=float)
    if matrix.shape != shape:
        raise ValueError(
            f"seed {seed}, {key}: must be {shape[0]} rows (epochs) of {shape[1]} (ks), "
            f"not of shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise ValueError(f"seed {seed}, {key}: holds values that are missing or not finite")
    return matrix


def _averaged_name(seeds: Iterable[dict[str, Any]], window: str | None, default: float) -> str:
    """The name of an averaged curve that every seed has: that of ``window`` or, if it is None, the
    one nearest to ``default`` epochs."""
    shared = set.intersection(*(set(curves) for curves in seeds))
    names = sorted(name for name in shared if name.startswith(AVERAGED))
    if window is not None:
        if AVERAGED + window not in names:
            raise ValueError(f"no {AVERAGED}{window} in every seed; there are {names}")
        return AVERAGED + window
    if not names:
        raise KeyError(AVERAGED + "1")
    return min(names, key=lambda name: _distance(name, default))


def _distance(name: str, default: float) -> float:
    try:
        epochs = float(name.removeprefix(AVERAGED))
    except ValueError:
        return math.inf
    return abs(math.log(epochs / default)) if epochs > 0 else math.inf
