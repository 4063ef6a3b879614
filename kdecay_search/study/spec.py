"""A study as frozen models: every setting, its default and its rule.

:mod:`kdecay_search.study.file` reads them from TOML. The validated spec is stored with the study
(``spec.to_json()``), and workers read it from there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from kdecay_search.schedules.baselines import BASELINES
from kdecay_search.schedules.kdecay import Family, KDecaySchedule
from kdecay_search.study.base import (
    LATER,
    NotNegative,
    Positive,
    Settings,
)
from kdecay_search.study.builtin_tasks import ImagesTask, SimulatedTask
from kdecay_search.study.user_tasks import PURPOSE, SCHEDULE_CSV, CommandTask, PythonTask

MAX_CANDIDATES = 1000
"""More grid points than this in one stage is a slip of ``k_step``, not a search."""

SMALLEST_K, LARGEST_K = 0.001, 1000.0
MOST_SEEDS = 1000
MOST_LEVELS = 16

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of a study: what fits in URLs, file names and terminals."""

Exponent = Annotated[float, Field(ge=SMALLEST_K, le=LARGEST_K)]


def _cap(k_max: float, k_cap: float | None) -> float:
    return k_cap if k_cap is not None else min(2 * k_max, LARGEST_K)


def _most_ks(search: Mapping[str, Any]) -> float:
    """How many ks stage 1 can come to try, by the settings that are valid so far."""
    k_min, k_max, k_cap, k_step = (search.get(key) for key in ("k_min", "k_max", "k_cap", "k_step"))
    if search.get("sampler") != "grid" or k_min is None or k_max is None or k_step is None:
        return 1
    stated = len(search.get("ks") or ())
    return stated + (_cap(float(k_max), k_cap) - float(k_min)) / float(k_step) + 1


def _at_least(bound_name: str, value: float, bound: float | None) -> float:
    if bound is not None and value < bound:
        raise ValueError(f"must be at least {bound_name} = {bound:g}")
    return value


Task = ImagesTask | PythonTask | CommandTask | SimulatedTask


class ScheduleSpec(Settings):
    """The schedule whose exponents are searched."""

    family: Family = "polynomial"
    power: Positive = 1.0
    """N of the polynomial family (eq. 11)."""
    lr_min: NotNegative = 0.001
    lr_max: Positive = 0.1
    warmup_epochs: NotNegative = 0.0

    @field_validator("power")
    @classmethod
    def _power_has_an_effect(cls, power: float, info: ValidationInfo) -> float:
        if power != 1 and info.data.get("family") != "polynomial":
            raise ValueError("must be 1: only the polynomial family has a power")
        return power

    @field_validator("lr_max")
    @classmethod
    def _range_is_ordered(cls, lr_max: float, info: ValidationInfo) -> float:
        return _at_least("schedule.lr_min", lr_max, info.data.get("lr_min"))


class SearchSpec(Settings):
    """The search for the terms k1 < k2 < … of eq. 14."""

    sampler: Literal["grid", "tpe", "gp", "random"] = "grid"
    ks: Annotated[tuple[Exponent, ...], Field(min_length=1, max_length=1000)] | None = None
    """Stage 1's candidates, instead of a grid from k_min to k_max by k_step."""
    k_min: Exponent = 1.0
    k_max: Exponent = 5.0
    k_cap: Exponent | None = None
    """The grid grows up to here while the best k is its largest; None means twice k_max."""
    k_step: Exponent = 0.5
    trials: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Candidates per stage that tpe, gp and random try; a grid has its own number."""
    sampler_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    max_terms: Annotated[int, Field(ge=1, le=16)] = 2
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 3
    """Replicates of every candidate."""
    min_gain: NotNegative = 0.1
    """Percentage points by which a term must lower the paired mean error to be kept."""
    lr_max: Annotated[tuple[Positive, ...] | None, LATER] = None
    """Levels of the LR to search jointly with the first term, in place of schedule.lr_max."""

    @field_validator("lr_max")
    @classmethod
    def _levels_are_a_small_grid(
        cls, levels: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        if levels is None:
            return None
        if not 2 <= len(levels) <= MOST_LEVELS:  # noqa: PLR2004 - one is no search
            raise ValueError(f"must hold 2 to {MOST_LEVELS} levels; one alone is schedule.lr_max")
        if any(later <= earlier for earlier, later in pairwise(levels)):
            raise ValueError("must strictly increase")
        sampler, trials = (info.data.get(key) for key in ("sampler", "trials"))
        if sampler not in (None, "grid") and trials is not None and trials <= len(levels):
            raise ValueError(
                f"needs search.trials of {len(levels) + 1} or more: k = 1 is tried at every level"
            )
        if len(levels) * _most_ks(info.data) > MAX_CANDIDATES:
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
        return _at_least("search.k_min", k_max, info.data.get("k_min"))

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
        return k_cap if k_cap is None else _at_least("search.k_max", k_cap, info.data.get("k_max"))

    @property
    def cap(self) -> float:
        """The largest k that a grid may grow to."""
        return _cap(self.k_max, self.k_cap)


class PruningSpec(Settings):
    """When a run may be ended early; see :mod:`kdecay_search.search.early_stopping`."""

    enabled: bool = True
    first_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """No run is pruned before this share of its epochs."""
    keep_at_least: Annotated[int, Field(ge=1, le=1000)] = 6
    """So many candidates, beside the baseline, run to the end on the first seed."""


class ConfirmSpec(Settings):
    """The comparison at a study's end: fresh seeds, all training images, error on the test set."""

    seeds: Annotated[int, Field(ge=0, le=MOST_SEEDS)] = 0
    """So many trainings of each schedule. 0: no confirmation, and the test set stays closed."""
    first_seed: Annotated[int, Field(ge=MOST_SEEDS, le=1_000_000_000)] = MOST_SEEDS
    """The seeds count up from here; a search's are below. Another one repeats the comparison."""
    area_matched: bool = True
    """Compare with the original at a higher rate as well: raised so that its mean rate is the
    found schedule's."""
    rivals: tuple[str, ...] = ()
    """Usual schedules to compare with as well, between the same rates."""

    @field_validator("seeds")
    @classmethod
    def _pairs_have_a_spread(cls, seeds: int) -> int:
        if seeds == 1:
            raise ValueError("must be 2 or more (one pair tells no noise), or 0 for none")
        return seeds

    @field_validator("rivals")
    @classmethod
    def _rivals_are_known(cls, rivals: tuple[str, ...]) -> tuple[str, ...]:
        for index, rival in enumerate(rivals):
            if rival not in BASELINES:
                raise ValueError(f"must hold names among {', '.join(BASELINES)}; not {rival!r}")
            if rival in rivals[:index]:
                raise ValueError(f"must name each schedule once; {rival!r} is there twice")
        return rivals


class WorkersSpec(Settings):
    """How workers share the study; changing these does not change any result."""

    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    grace_seconds: Annotated[float, Field(ge=0.2, le=86_400)] = 120.0
    """A trial whose worker has been silent for so long is given to another."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Trials that may fail with an error before their run counts as failed."""
    checkpoint_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 300.0
    """A run's state is kept at the end of every epoch, and within it so often."""
    decoders: Annotated[int, Field(ge=0, le=256)] = 8
    """Processes, at most one per core, that decode imagenet's images for each worker while it
    trains; 0: it does that itself."""

    @field_validator("grace_seconds")
    @classmethod
    def _grace_outlasts_beats(cls, grace: float, info: ValidationInfo) -> float:
        return _at_least(
            "twice workers.heartbeat_seconds", grace, 2 * info.data.get("heartbeat_seconds", 0.0)
        )


class StudySpec(Settings):
    """A whole study file."""

    name: Annotated[str, Field(max_length=100, pattern=NAME_PATTERN)]
    description: Annotated[str, Field(max_length=10_000)] = ""
    task: Annotated[Task, Field(discriminator="kind")]
    schedule: ScheduleSpec = ScheduleSpec()
    search: SearchSpec = SearchSpec()
    pruning: PruningSpec = PruningSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    workers: WorkersSpec = WorkersSpec()

    @field_validator("schedule")
    @classmethod
    def _warmup_ends(cls, schedule: ScheduleSpec, info: ValidationInfo) -> ScheduleSpec:
        task = info.data.get("task")
        if task is not None and schedule.warmup_epochs >= task.epochs:
            warmup = schedule.warmup_epochs
            raise ValueError(f"warmup_epochs = {warmup} must be below task.epochs = {task.epochs}")
        return schedule

    @field_validator("search")
    @classmethod
    def _levels_are_not_below_the_end(cls, search: SearchSpec, info: ValidationInfo) -> SearchSpec:
        schedule = info.data.get("schedule")
        if schedule is not None and search.lr_max and search.lr_max[0] < schedule.lr_min:
            lowest, lr_min = search.lr_max[0], schedule.lr_min
            raise ValueError(f"lr_max = {lowest:g} must be at least schedule.lr_min = {lr_min:g}")
        return search

    @field_validator("confirm")
    @classmethod
    def _command_can_be_confirmed(cls, confirm: ConfirmSpec, info: ValidationInfo) -> ConfirmSpec:
        task = info.data.get("task")
        if not isinstance(task, CommandTask) or not confirm.seeds:
            return confirm
        if PURPOSE not in task.placeholders:
            raise ValueError(
                "seeds needs {purpose} in task.command: it tells the program to train on all "
                "training data and to report the error on the test set"
            )
        if confirm.rivals and SCHEDULE_CSV not in task.placeholders:
            raise ValueError("rivals needs {schedule_csv} in task.command: they have no k")
        return confirm

    def schedule_for(
        self, ks: Sequence[float], steps_per_epoch: float = 1, lr_max: float | None = None
    ) -> KDecaySchedule:
        """The schedule with terms ``ks``, its warm-up in updates of this many per epoch.
        ``lr_max``: where that is searched, in place of the file's."""
        part, warmup_steps = self.schedule, self.warmup_steps(steps_per_epoch)
        high = part.lr_max if lr_max is None else lr_max
        return KDecaySchedule(part.family, tuple(ks), part.power, high, part.lr_min, warmup_steps)

    def warmup_steps(self, steps_per_epoch: float) -> int:
        """Updates of the warm-up; one update after it, at least, is left."""
        last_step = math.ceil(self.task.epochs * steps_per_epoch) - 1
        return min(round(self.schedule.warmup_epochs * steps_per_epoch), last_step)

    def fingerprint(
        self,
        ks: Sequence[float] = (),
        seed: int | None = None,
        comparator: str | None = None,
        lr_max: float | None = None,
    ) -> bytes:
        """32 bytes that tell apart trainings that differ in anything but who does them. Without
        ``ks`` and ``seed``: studies. ``comparator``: of a confirmation's run. ``lr_max``: where that
        is searched, in place of the file's."""
        schedule = self.schedule.model_dump() | ({} if lr_max is None else {"lr_max": lr_max})
        task = self.task.model_dump(exclude={"epoch_timeout"})
        decisive: list[object] = [task, schedule]
        decisive += [list(ks), seed]
        decisive += [comparator] if comparator else []
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).digest()

    def to_json(self) -> str:
        """The spec as stored with the study; :func:`from_json` reads it back unchanged."""
        return self.model_dump_json()


def grid(k_min: float, k_max: float, k_step: float) -> tuple[float, ...]:
    """k_min, k_min + k_step, … up to k_max, without the drift of repeated addition."""
    count = math.floor((k_max - k_min) / k_step + 1e-9) + 1
    return tuple(round(k_min + index * k_step, 10) for index in range(max(count, 0)))
