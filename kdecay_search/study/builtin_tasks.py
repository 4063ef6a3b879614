"""The built-in tasks as a study file describes them: training on images, and a simulation."""

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
from kdecay_search.study.metric import VALIDATION_ERROR, Metric
from kdecay_search.study.networks import ModelSpec, ResNetSpec
from kdecay_search.study.training_length import TrainingLength


class DataSpec(Settings):
    """The data of an image task, and how its training part is split."""

    name: Literal["digits", "cifar10", "cifar100", "image-folder", "imagenet"]
    """Data set. All but imagenet are held on the device; imagenet is decoded while training."""
    root: str | None = None
    """Folder of the data set, required except for digits. An image-folder may have train/ and test/
    inside; imagenet has train/, and val/, which stays closed."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training part that is held out to choose k on; the test part stays closed."""
    subset: Annotated[int | None, Field(ge=2)] = None
    """Number of images of the training part to use, drawn evenly over the classes before the
    split; None means all."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed that draws the subset and the split, the same for all runs of a study."""
    image_size: Annotated[int | None, Field(ge=4, le=512)] = None
    """Pixels of a side that images are resized to; None keeps their own size, or means 224 for
    imagenet."""
    crop_padding: Annotated[int | None, Field(ge=0, le=64)] = None
    """Pixels padded before the random crop; None means an eighth of the image's side."""
    padding_mode: Literal["mean", "black", "reflect"] = "mean"
    """What is padded: the mean colour (zero once normalised), black, or the image mirrored."""
    flip: bool | None = None
    """Whether images are flipped horizontally at random; None means yes, except for digits."""
    normalisation: Literal["measured", "cifar10", "cifar100", "imagenet"] | None = None
    """Mean and standard deviation by channel: measured on the images to train on, or those
    published for a data set. None means measured, except for imagenet."""

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, root: str | None, info: ValidationInfo) -> str | None:
        # Workers elsewhere read this spec: a relative path would mean another folder there.
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
                "must be measured for digits: they are grey, the published ones are for colours"
            )
        if name == "imagenet" and normalisation == "measured":
            raise ValueError(
                "must be a published one for imagenet: its images are never all decoded"
            )
        return normalisation


class OptimizerSpec(Settings):
    """Stochastic gradient descent."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum, from 0 to below 1."""
    nesterov: bool = True
    """Whether the momentum is Nesterov's."""
    weight_decay: NotNegative = 1e-4
    """Weight decay, applied to all parameters."""

    @field_validator("nesterov")
    @classmethod
    def _nesterov_needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("must be false when task.optimizer.momentum = 0")
        return nesterov


class ImagesTask(Settings):
    """The built-in image classification task."""

    kind: Literal["images"]
    """Tag of this kind of task."""
    epochs: Epochs
    """Epochs of every run."""
    batch_size: Count = 128
    """Images per optimizer update, on all devices of a run together."""
    sync_batch_norm: bool = Field(False, exclude_if=lambda given: given is False)
    """Whether batch norm takes its statistics of the whole batch where a run has several GPUs; else
    each device normalises by those of its own part, as torch does. Left out of what is stored while
    it is the default."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Precision of the forward and backward pass. bfloat16 is autocast; in float64 the weights are
    double, too, and short trainings on CPUs of different kinds agree but for their last bits."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 1
    """CPU threads of one training. Results depend on it in the last bits, so it is part of the
    study; 0 shares the machine's cores among its workers and gives that reproducibility up."""
    averaging_share: Annotated[float, Field(gt=0, le=1)] = AVERAGING_SHARE
    """Half-life, as a share of the training, of the averaged weights that pruning looks at."""
    model: ModelSpec = ResNetSpec()
    """Network that is trained."""
    data: DataSpec
    """Data set, its split and its augmentation."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """Settings of stochastic gradient descent."""

    @property
    def metric(self) -> Metric:
        """What every run reports and the study optimises."""
        return VALIDATION_ERROR

    @property
    def length(self) -> TrainingLength:
        """How long every run trains; it reports after every epoch."""
        return TrainingLength("epoch", self.epochs)


class SurfaceSpec(Settings):
    """The stated error surface of a simulated task; see :mod:`kdecay_search.tasks.simulated`."""

    best_ks: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (3.0,)
    """Terms of the best schedule."""
    best_error: Annotated[float, Field(ge=0, le=100)] = 8.0
    """Error (%) of the best schedule."""
    curvature: NotNegative = 30.0
    """Percentage points of error per mean squared distance between a schedule and the best."""
    seed_noise: NotNegative = 0.3
    """Standard deviation, in points, of the noise that all candidates of a seed share."""
    run_noise: NotNegative = 0.2
    """Standard deviation, in points, of the noise of a single run."""
    epoch_noise: NotNegative = 0.3
    """Standard deviation, in points, of the noise between epochs at the full learning rate."""
    crossing: NotNegative = 8.0
    """Points by which the raw error lies above the averaged one at the full learning rate."""
    noise_seed: int = 0
    """Seed that draws all of the noise."""
    best_lr_max: Annotated[Positive | None, OMITTED_IF_NONE] = None
    """lr_max of the best schedule; None means that the learning-rate level makes no difference."""
    best_power: Annotated[Positive | None, OMITTED_IF_NONE] = None
    """N of the best schedule; None means 1."""


class SimulatedTask(Settings):
    """Curves drawn from a stated error surface, without training anything."""

    kind: Literal["simulated"]
    """Tag of this kind of task."""
    epochs: Epochs
    """Epochs of every run."""
    epoch_seconds: NotNegative = 0.0
    """Seconds that an epoch takes."""
    surface: SurfaceSpec = SurfaceSpec()
    """The error surface that the curves are drawn from."""

    @property
    def metric(self) -> Metric:
        """What every run reports and the study optimises."""
        return VALIDATION_ERROR

    @property
    def length(self) -> TrainingLength:
        """How long every run trains; it reports after every epoch."""
        return TrainingLength("epoch", self.epochs)
