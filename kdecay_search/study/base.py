"""What every table of a study file is made of: the models' base class, and types of numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

AVERAGING_SHARE = 0.08
"""Default half-life of averaged weights, as a share of the training. Anything from a fifteenth to
an eighth was measured to do as well (docs/pruning.md)."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
NotNegativeCount = Annotated[int, Field(ge=0, le=1_000_000_000)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]

OMITTED_IF_NONE = Field(exclude_if=lambda value: value is None)
"""Marks a setting that studies of an earlier version do not have. While it is None it is left out
of what is stored, so such studies keep their stored form and their fingerprint."""


class Settings(BaseModel):
    """Base of all tables: frozen, strict about types, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


def at_least(bound_name: str, value: float, bound: float | None) -> float:
    """The value, if it is not below the bound. A bound that is wrong itself is None."""
    if bound is not None and value < bound:
        raise ValueError(f"must be at least {bound_name} = {bound:g}")
    return value
