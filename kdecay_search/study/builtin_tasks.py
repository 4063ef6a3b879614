"""The tasks of the package itself, as a study file describes them: images, and a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from kdecay_search.study.base import (
    AVERAGING_SHARE,
    OMITTED_IF_NONE,
    Count,
    Epochs,
    NotNegative,
    Positive,
    Settings,
)
from kdecay_search.study.networks import ModelSpec, ResNetSpec


class DataSpec(Settings):
    """The data of an image task, and how its training part is split."""

    name: Literal["digits", "cifar10", "cifar100", "image-folder", "imagenet"]
    """All but imagenet are held on the device; that one is decoded while training."""
    root: str | None = None
    """Folder of the data set; for image-folder, with or without train/ and test/ inside; for
    imagenet, with train/ (and val/, which stays closed)."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training part that is held out to choose k on; the test part stays closed."""
    subset: Annotated[int | None, Field(ge=2)] = None
    """Images of the training part to use, drawn evenly over the classes before the split."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    image_size: Annotated[int | None, Field(ge=4, le=512)] = None
    """Resize to this many pixels a side; None keeps the images' own size, imagenet's are 224."""
    crop_padding: Annotated[int | None, Field(ge=0, le=64)] = None
    """Pixels padded before the random crop; None means an eighth of the image's side."""
    padding_mode: Literal["mean", "black", "reflect"] = "mean"
    """What is padded: the mean colour (zero once normalised), black, or the image mirrored."""
    flip: bool | None = None
    """Random horizontal flips; None means yes, except for digits."""
    normalisation: Literal["measured", "cifar10", "cifar100", "imagenet"] | None = None
    """Mean and deviation by channel: of the images to train on, or published ones. None means
    measured, except for imagenet."""

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, root: str | None, info: ValidationInfo) -> str | None:
        """Workers elsewhere read this spec: a relative path would mean another folder there."""
        if root is None:
            if info.data.get("name") not in (None, "digits"):
                raise ValueError(f"must name the folder of data set {info.data['name']!r}")
            return None
        try:
            return str(Path(root).expanduser().resolve())
        except (RuntimeError, OSError) as error:
            raise ValueError(f"is not a folder's path: {error}") from None

    @field_validator("crop_padding", "padding_mode")
    @classmethod
    def _padding_has_an_effect(
        cls, value: int | str | None, info: ValidationInfo
    ) -> int | str | None:
        if info.data.get("name") == "imagenet" and value not in (None, "mean"):
            raise ValueError("must be left out for imagenet: it has random resized crops instead")
        return value

    @field_validator("normalisation")
    @classmethod
    def _normalisation_fits(cls, normalisation: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name")
        if name == "digits" and normalisation not in (None, "measured"):
            raise ValueError(
                "must be measured for digits: they are grey, the others are of colours"
            )
        if name == "imagenet" and normalisation == "measured":
            raise ValueError(
                "must be a published one for imagenet: its images are never all decoded"
            )
        return normalisation


class OptimizerSpec(Settings):
    """Stochastic gradient descent."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 1e-4

    @field_validator("nesterov")
    @classmethod
    def _nesterov_needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("must be false when task.optimizer.momentum = 0")
        return nesterov


class ImagesTask(Settings):
    """The built-in image classification task."""

    kind: Literal["images"]
    epochs: Epochs
    batch_size: Count = 128
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, Field(ge=0, le=1024)] = 1
    """CPU threads of one training. Results depend on it in the last bits, so it is part of the
    study; 0 shares the machine's cores among its workers and gives that reproducibility up."""
    averaging_share: Annotated[float, Field(gt=0, le=1)] = AVERAGING_SHARE
    """Half-life, as a share of the training, of the averaged weights that pruning looks at."""
    model: ModelSpec = ResNetSpec()
    data: DataSpec
    optimizer: OptimizerSpec = OptimizerSpec()


class SurfaceSpec(Settings):
    """The stated error surface of a simulated task; see :mod:`kdecay_search.tasks.simulated`."""

    best_ks: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (3.0,)
    best_error: Annotated[float, Field(ge=0, le=100)] = 8.0
    curvature: NotNegative = 30.0
    seed_noise: NotNegative = 0.3
    run_noise: NotNegative = 0.2
    epoch_noise: NotNegative = 0.3
    crossing: NotNegative = 8.0
    noise_seed: int = 0
    best_lr_max: Annotated[Positive | None, OMITTED_IF_NONE] = None
    """lr_max of the best schedule; None: the level makes no difference."""


class SimulatedTask(Settings):
    """Curves drawn from a stated error surface, without training anything."""

    kind: Literal["simulated"]
    epochs: Epochs
    epoch_seconds: NotNegative = 0.0
    surface: SurfaceSpec = SurfaceSpec()
