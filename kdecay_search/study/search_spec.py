"""The search table of a study file: how candidates are chosen, where, and how many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdecay_search.study.base import OMITTED_IF_NONE, NotNegative, Positive, Settings, at_least
from kdecay_search.study.space import TUNED_BASELINES, SpaceSpec

MAX_CANDIDATES = 1000
"""Largest number of candidates in one stage; more than this is a slip of ``k_step``."""
SMALLEST_K, LARGEST_K = 0.001, 1000.0
"""Bounds of every exponent."""
MAX_SEEDS = 1000
"""Largest number of seeds of a search, and of a confirmation. A search's seeds lie below it."""
MAX_LR_LEVELS = 16
"""Largest number of learning-rate levels that one study searches."""
GRID_KEYS = frozenset({"ks", "k_min", "k_max", "k_cap", "k_step", "lr_max"})
"""Keys of the search table that describe a grid."""

UNUSED_BY_JOINT = ("ks", "k_min", "k_max", "k_cap", "lr_max")
"""Keys of the search table that a search of whole schedules does not look at."""

Sampler = Literal["joint", "joint-tpe", "joint-gp", "joint-random", "grid", "tpe", "gp", "random"]
"""How candidates are chosen."""

Exponent = Annotated[float, Field(ge=SMALLEST_K, le=LARGEST_K)]


def _cap(k_max: float, k_cap: float | None) -> float:
    """Largest k that a grid may grow to."""
    return k_cap if k_cap is not None else min(2 * k_max, LARGEST_K)


def _max_ks(search: Mapping[str, Any]) -> float:
    """Largest number of ks that stage 1 may try, by the settings that are valid so far."""
    k_min, k_max, k_cap, k_step = (search.get(key) for key in ("k_min", "k_max", "k_cap", "k_step"))
    if search.get("sampler") != "grid" or k_min is None or k_max is None or k_step is None:
        return 1
    stated = len(search.get("ks") or ())
    return stated + (_cap(float(k_max), k_cap) - float(k_min)) / float(k_step) + 1


def _with_tuples(value: Any) -> Any:
    """A value of JSON with tuples for its lists, which strict models want from Python."""
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return value


class SearchSpec(Settings):
    """The search for the terms k1 < k2 < … of eq. 14."""

    sampler: Sampler = "joint"
    """How candidates are chosen: ``joint`` searches whole schedules in ``space`` on a budget;
    ``joint-tpe``, ``joint-gp`` and ``joint-random`` let a sampler of Optuna's propose them;
    ``grid`` tries every k of a grid, as the paper does; ``tpe``, ``gp`` and ``random`` choose each
    k by Optuna. The default is ``grid`` where a key of the grid is stated, and else ``joint``."""
    space: SpaceSpec = SpaceSpec()
    """What ``joint`` searches."""
    budget: Annotated[int, Field(ge=4, le=100_000)] = 30
    """Trainings of full length that ``joint`` may spend, those of the baselines included."""
    baselines: tuple[str, ...] = ("linear", "cosine", "cooldown")
    """Usual schedules whose level and floor ``joint`` tunes as well, to compare with."""
    ks: Annotated[tuple[Exponent, ...], Field(min_length=1, max_length=1000)] | None = None
    """Candidates of stage 1, in place of a grid from ``k_min`` to ``k_max`` by ``k_step``."""
    k_min: Exponent = 1.0
    """Smallest k of stage 1; the baseline k = 1 is tried in any case."""
    k_max: Exponent = 5.0
    """Largest k of stage 1 at its start."""
    k_cap: Exponent | None = None
    """Largest k that the grid may grow to while the best k is its largest; None means twice
    ``k_max``."""
    k_step: Exponent = 0.5
    """Step of the grid, and the least distance between two terms."""
    trials: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Candidates per stage that tpe, gp and random try; a grid has its own number."""
    sampler_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the sampler."""
    max_terms: Annotated[int, Field(ge=1, le=16)] = 2
    """Largest number of terms, and so of stages."""
    seeds: Annotated[int, Field(ge=1, le=MAX_SEEDS)] = 3
    """Number of seeds that every candidate is run on, its replicates."""
    min_gain: Literal["auto"] | NotNegative = "auto"
    """By how much a term must improve the paired mean to be kept, in the metric's unit; ``auto``
    means one standard error of that difference, by the noise of the study's own runs."""
    lr_max: Annotated[tuple[Positive, ...] | None, OMITTED_IF_NONE] = None
    """Learning-rate levels to search jointly with the first term, in place of
    ``schedule.lr_max``."""

    @model_validator(mode="before")
    @classmethod
    def _grid_is_meant_where_it_is_described(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        is_grid = "sampler" not in table and GRID_KEYS & table.keys()
        chosen = {**table, "sampler": "grid"} if is_grid else table
        return {key: _with_tuples(value) for key, value in chosen.items()}

    @field_validator("baselines")
    @classmethod
    def _baselines_can_be_tuned(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(names):
            if name not in TUNED_BASELINES:
                known = ", ".join(TUNED_BASELINES)
                raise ValueError(f"must hold names among {known}; not {name!r}")
            if name in names[:index]:
                raise ValueError(f"must name each schedule once; {name!r} is there twice")
        return names

    @field_validator("min_gain", mode="before")
    @classmethod
    def _gain_is_auto_or_a_number(cls, gain: object) -> object:
        is_number = isinstance(gain, int | float) and not isinstance(gain, bool)
        if gain == "auto" or (is_number and 0 <= cast("float", gain) < math.inf):
            return gain
        raise ValueError("must be 'auto', or a number that is not negative")

    @field_validator("lr_max")
    @classmethod
    def _levels_are_a_small_grid(
        cls, levels: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        if levels is None:
            return None
        if not 2 <= len(levels) <= MAX_LR_LEVELS:  # noqa: PLR2004 - one is no search
            raise ValueError(f"must hold 2 to {MAX_LR_LEVELS} levels; one alone is schedule.lr_max")
        if any(later <= earlier for earlier, later in pairwise(levels)):
            raise ValueError("must strictly increase")
        sampler, trials = (info.data.get(key) for key in ("sampler", "trials"))
        if sampler not in (None, "grid") and trials is not None and trials <= len(levels):
            raise ValueError(
                f"needs search.trials of {len(levels) + 1} or more: k = 1 is tried at every level"
            )
        if len(levels) * _max_ks(info.data) > MAX_CANDIDATES:
            raise ValueError(f"gives more than {MAX_CANDIDATES} candidates; try fewer levels or ks")
        return levels

    @field_validator("ks")
    @classmethod
    def _ks_increase(
        cls, ks: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        if ks is not None and info.data.get("sampler") != "grid":
            raise ValueError("needs sampler = 'grid': other samplers choose each k themselves")
        if ks is not None and any(later <= earlier for earlier, later in pairwise(ks)):
            raise ValueError("must strictly increase")
        return ks

    @field_validator("k_max")
    @classmethod
    def _range_is_ordered(cls, k_max: float, info: ValidationInfo) -> float:
        return at_least("search.k_min", k_max, info.data.get("k_min"))

    @field_validator("k_step")
    @classmethod
    def _grid_is_finite(cls, k_step: float, info: ValidationInfo) -> float:
        k_min, k_max, k_cap = (info.data.get(key) for key in ("k_min", "k_max", "k_cap"))
        if k_min is None or k_max is None:
            return k_step
        if (_cap(k_max, k_cap) - k_min) / k_step >= MAX_CANDIDATES:
            raise ValueError(f"gives more than {MAX_CANDIDATES} candidates; make it larger")
        return k_step

    @field_validator("k_cap")
    @classmethod
    def _cap_is_not_below(cls, k_cap: float | None, info: ValidationInfo) -> float | None:
        return k_cap if k_cap is None else at_least("search.k_max", k_cap, info.data.get("k_max"))

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.is_joint:
            fields = SearchSpec.model_fields
            unused = [key for key in UNUSED_BY_JOINT if getattr(self, key) != fields[key].default]
            if unused:
                raise ValueError(
                    f"{unused[0]} has no effect with sampler = {self.sampler!r}, which searches "
                    "search.space; state it there, or leave sampler out for a grid"
                )
        elif self.space != SpaceSpec():
            raise ValueError(
                f"space has no effect with sampler = {self.sampler!r}; it is what 'joint' searches"
            )
        return self

    @property
    def is_joint(self) -> bool:
        """Whether whole schedules are searched on a budget, proposed by whichever sampler."""
        return self.sampler.startswith("joint")

    @property
    def cap(self) -> float:
        """Largest k that a grid may grow to."""
        return _cap(self.k_max, self.k_cap)


def grid(k_min: float, k_max: float, k_step: float) -> tuple[float, ...]:
    """The values k_min, k_min + k_step, … up to k_max, without the drift of repeated addition."""
    count = math.floor((k_max - k_min) / k_step + 1e-9) + 1
    return tuple(round(k_min + index * k_step, 10) for index in range(max(count, 0)))
