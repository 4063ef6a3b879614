"""The base of every table of a study file, and the numbers that they hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

AVERAGING_SHARE = 0.08
"""Half-life of averaged weights, as a share of the training. Measured: anything from a fifteenth
to an eighth does as well (docs/pruning.md)."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]

LATER = Field(exclude_if=lambda value: value is None)
"""Of a setting that came after the first studies: left out, they are stored and told apart from
others as before."""


class Settings(BaseModel):
    """Frozen, without unknown keys, and without guesses at what a value was meant to be."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )
