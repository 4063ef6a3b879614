"""Runs that keep what a task reports, and small image folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch


class Recorder:
    """A run as a task sees it; keeps the calls."""

    def __init__(self, spec: StudySpec, ks: tuple[float, ...] = (1.0,), seed: int = 0) -> None:
        self.spec, self.ks, self.seed, self.device = spec, ks, seed, "cpu"
        self.comparator: str | None = None
        self.lr_max: float | None = None
        self.point: Candidate | None = None
        self.checkpoint: Checkpoint | None = None
        self.epochs: list[Epoch] = []
        self.restored: list[Epoch] = []
        self.polls = 0

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self.restored += epochs

    def report(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def poll(self) -> None:
        self.polls += 1


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests share no data, not even in memory."""
    from kdecay_search.training.data.loading import load

    monkeypatch.setenv("KDECAY_HOME", str(tmp_path / "home"))
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture(autouse=True)
def _settings_restored() -> Iterator[None]:
    """Restore what a training sets for the whole process."""
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    torch.random.set_rng_state(state)


@pytest.fixture
def recorder() -> Callable[..., Recorder]:
    """Makes a run of a very small task on digits; keywords go to [task]."""

    def make(
        *,
        ks: tuple[float, ...] = (1.0,),
        seed: int = 0,
        schedule: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        **task: Any,
    ) -> Recorder:
        task = {
            "kind": "images",
            "epochs": 2,
            "batch_size": 50,
            "model": {"width": 4},
            "data": {"name": "digits", "subset": 320, "validation": 0.25, **(data or {})},
            **task,
        }
        spec = {"name": "test", "task": task, "schedule": dict(schedule or {})}
        spec["search"] = {"sampler": "grid"}
        return Recorder(StudySpec.model_validate(spec), ks, seed)

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes class folders of noise under ``tmp_path / "images"``; returns that folder."""
    random = np.random.RandomState(0)

    def make(
        counts: Mapping[str, int],
        *,
        under: str = "",
        size: tuple[int, int] = (12, 12),
        mode: str = "RGB",
        suffix: str = ".png",
    ) -> Path:
        root = tmp_path / "images"
        for name, count in counts.items():
            folder = root / under / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                pixels = random.randint(256, size=shape).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:03}{suffix}")
        return root

    return make


@pytest.fixture
def folder_data() -> Callable[..., DataSpec]:
    def make(root: Path, **keys: Any) -> DataSpec:
        return DataSpec(name="image-folder", root=str(root), **keys)

    return make
