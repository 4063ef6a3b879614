"""A study as frozen models: every setting with its default and its rule.

:mod:`kdecay_search.study.file` reads them from TOML. The validated spec is stored with the study
(``spec.to_json()``), and workers read it from there. docs/study-file.md describes every key.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import BASELINES, WarmupStableDecay
from kdecay_search.schedules.kdecay import Family, KDecaySchedule
from kdecay_search.study.base import (
    OMITTED_IF_NONE,
    NotNegative,
    NotNegativeCount,
    Positive,
    Settings,
)
from kdecay_search.study.builtin_tasks import ImagesTask, SimulatedTask
from kdecay_search.study.candidate import COOLDOWNS, LINEAR_COOLDOWN, Candidate
from kdecay_search.study.space import SCHEDULE_LIMITS, TUNED_BASELINES, ScheduleSpace, SpaceSpec
from kdecay_search.study.user_tasks import (
    PURPOSE,
    SCHEDULE_CSV,
    WARMUP_STEPS,
    CommandTask,
    PythonTask,
)

MAX_CANDIDATES = 1000
"""Largest number of candidates in one stage; more than this is a slip of ``k_step``."""
SMALLEST_K, LARGEST_K = 0.001, 1000.0
"""Bounds of every exponent."""
MAX_SEEDS = 1000
"""Largest number of seeds of a search, and of a confirmation. A search's seeds lie below it."""
FIRST_CONFIRMATION_SEED = MAX_SEEDS
"""Smallest seed of a confirmation, so that no search has used it."""
MAX_LR_LEVELS = 16
"""Largest number of learning-rate levels that one study searches."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Pattern of a study's name: what fits in URLs, file names and terminals."""

GRID_KEYS = frozenset({"ks", "k_min", "k_max", "k_cap", "k_step", "lr_max"})
"""Keys of the search table that describe a grid."""

UNUSED_BY_JOINT = ("ks", "k_min", "k_max", "k_cap", "lr_max")
"""Keys of the search table that a search of whole schedules does not look at."""

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


def _at_least(bound_name: str, value: float, bound: float | None) -> float:
    """The value, if it is not below the bound. A bound that is wrong itself is None."""
    if bound is not None and value < bound:
        raise ValueError(f"must be at least {bound_name} = {bound:g}")
    return value


Task = ImagesTask | PythonTask | CommandTask | SimulatedTask


class ScheduleSpec(Settings):
    """The schedule whose exponents are searched; equations are those of the k-decay paper."""

    family: Family = "polynomial"
    """Ordinary schedule that k-decay is applied to (eq. 11, 12, 13)."""
    power: Positive = 1.0
    """N of the polynomial family (eq. 11); 1 in the others."""
    lr_min: NotNegative = 0.001
    """Learning rate at the end, Le."""
    lr_max: Positive = 0.1
    """Learning rate at the start of the decay, L0, unless ``search.lr_max`` searches it."""
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear warm-up before the decay."""
    warmup_steps: Annotated[NotNegativeCount | None, OMITTED_IF_NONE] = None
    """Optimizer updates of linear warm-up before the decay, if ``task.steps`` counts."""

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

    sampler: Literal["joint", "grid", "tpe", "gp", "random"] = "joint"
    """How candidates are chosen: ``joint`` searches whole schedules in ``space`` on a budget;
    ``grid`` tries every k of a grid, as the paper does; the others are Optuna's samplers. The
    default is ``grid`` where a key of the grid is stated, and else ``joint``."""
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

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.sampler == "joint":
            fields = SearchSpec.model_fields
            unused = [key for key in UNUSED_BY_JOINT if getattr(self, key) != fields[key].default]
            if unused:
                raise ValueError(
                    f"{unused[0]} has no effect with sampler = 'joint', which searches "
                    "search.space; state it there, or leave sampler out for a grid"
                )
        elif self.space != SpaceSpec():
            raise ValueError(
                f"space has no effect with sampler = {self.sampler!r}; it is what 'joint' searches"
            )
        return self

    @property
    def cap(self) -> float:
        """Largest k that a grid may grow to."""
        return _cap(self.k_max, self.k_cap)


class PruningSpec(Settings):
    """When a run may be ended early; see :mod:`kdecay_search.search.early_stopping`."""

    enabled: bool = True
    """Whether runs are chosen as the search proceeds and may end early. If not, every candidate
    runs to the end on every seed."""
    first_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a run's length before which it is never pruned."""
    keep_at_least: Annotated[int, Field(ge=1, le=1000)] = 6
    """Number of candidates, besides the baseline, that run to the end on the first seed."""


class ConfirmSpec(Settings):
    """The comparison at a study's end: fresh seeds, all training images, error on the test set."""

    seeds: Annotated[int, Field(ge=0, le=MAX_SEEDS)] = 0
    """Trainings of each schedule; 0 means no confirmation, and the test set stays closed."""
    first_seed: Annotated[int, Field(ge=FIRST_CONFIRMATION_SEED, le=1_000_000_000)] = (
        FIRST_CONFIRMATION_SEED
    )
    """Seed of the first training of each schedule; the others count up from it. Another first seed
    repeats the comparison."""
    area_matched: bool = True
    """Whether to compare also with the original at a higher rate, raised so that its mean rate is
    the found schedule's."""
    baselines: tuple[str, ...] = ()
    """Names of usual schedules to compare with as well, between the same rates."""

    @field_validator("seeds")
    @classmethod
    def _pairs_have_a_spread(cls, seeds: int) -> int:
        if seeds == 1:
            raise ValueError("must be 2 or more, or 0 for none: one pair does not show its noise")
        return seeds

    @field_validator("baselines")
    @classmethod
    def _baselines_are_known(cls, baselines: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(baselines):
            if name not in BASELINES:
                raise ValueError(f"must hold names among {', '.join(BASELINES)}; not {name!r}")
            if name in baselines[:index]:
                raise ValueError(f"must name each schedule once; {name!r} is there twice")
        return baselines


class WorkersSpec(Settings):
    """How workers share the study; changing these does not change any result."""

    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    """Seconds between two heartbeats of a worker."""
    grace_seconds: Annotated[float, Field(ge=0.2, le=86_400)] = 120.0
    """Seconds of silence after which a worker's trial is given to another worker."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Trials that may fail with an error before their run counts as failed."""
    checkpoint_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 300.0
    """Seconds between two checkpoints of an image task within an epoch; there is also one at the
    end of every epoch."""
    decoders: Annotated[int, Field(ge=0, le=256)] = 8
    """Processes, at most one per core, that decode imagenet's images for each worker; with 0 the
    worker decodes them itself."""

    @field_validator("grace_seconds")
    @classmethod
    def _grace_outlasts_beats(cls, grace: float, info: ValidationInfo) -> float:
        return _at_least(
            "twice workers.heartbeat_seconds", grace, 2 * info.data.get("heartbeat_seconds", 0.0)
        )


class StudySpec(Settings):
    """All settings of a study: a whole study file."""

    name: Annotated[str, Field(max_length=100, pattern=NAME_PATTERN)]
    """Name of the study; its stages are stored as NAME/k1, NAME/k2, … and NAME/confirm."""
    description: Annotated[str, Field(max_length=10_000)] = ""
    """Free text for people."""
    task: Annotated[Task, Field(discriminator="kind")]
    """What is trained."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The schedule whose exponents are searched."""
    search: SearchSpec = SearchSpec()
    """The search for the terms."""
    pruning: PruningSpec = PruningSpec()
    """When a run may be ended early."""
    confirm: ConfirmSpec = ConfirmSpec()
    """The comparison at the study's end."""
    workers: WorkersSpec = WorkersSpec()
    """How workers share the study."""

    @field_validator("schedule")
    @classmethod
    def _warmup_ends(cls, schedule: ScheduleSpec, info: ValidationInfo) -> ScheduleSpec:
        task = info.data.get("task")
        if task is None:
            return schedule
        length, of_epochs, of_steps = task.length, schedule.warmup_epochs, schedule.warmup_steps
        if length.counts_steps and of_epochs:
            raise ValueError(f"warmup_epochs = {of_epochs} goes with task.epochs; use warmup_steps")
        if not length.counts_steps and of_steps is not None:
            raise ValueError(f"warmup_steps = {of_steps} goes with task.steps; use warmup_epochs")
        if (of_steps or of_epochs) >= length.total:
            name = "warmup_steps" if of_steps else "warmup_epochs"
            raise ValueError(f"{name} = {of_steps or of_epochs} must be below {length.setting}")
        return schedule

    @field_validator("search")
    @classmethod
    def _levels_are_not_below_the_end(cls, search: SearchSpec, info: ValidationInfo) -> SearchSpec:
        schedule = info.data.get("schedule")
        if schedule is not None and search.lr_max and search.lr_max[0] < schedule.lr_min:
            lowest, lr_min = search.lr_max[0], schedule.lr_min
            raise ValueError(f"lr_max = {lowest:g} must be at least schedule.lr_min = {lr_min:g}")
        return search

    @field_validator("search")
    @classmethod
    def _whole_schedules_can_be_searched(
        cls, search: SearchSpec, info: ValidationInfo
    ) -> SearchSpec:
        schedule = info.data.get("schedule")
        if schedule is None or search.sampler != "joint":
            return search
        for name, (low, high) in SCHEDULE_LIMITS.items():
            value = getattr(schedule, name)
            if not low <= value <= high:
                raise ValueError(
                    f"sampler = 'joint' needs schedule.{name} within {low:g} and {high:g}; it is "
                    f"{value:g}"
                )
        return search

    @field_validator("confirm")
    @classmethod
    def _command_can_be_confirmed(cls, confirm: ConfirmSpec, info: ValidationInfo) -> ConfirmSpec:
        task = info.data.get("task")
        if not isinstance(task, CommandTask) or not confirm.seeds:
            return confirm
        if PURPOSE not in task.placeholders:
            raise ValueError(
                "seeds needs {purpose} in task.command, so that the program knows when to train on "
                "all training data and to report the error on the test set"
            )
        if confirm.baselines and SCHEDULE_CSV not in task.placeholders:
            raise ValueError("baselines needs {schedule_csv} in task.command: they have no k")
        return confirm

    def schedule_for(
        self, ks: Sequence[float], steps_per_epoch: float = 1, lr_max: float | None = None
    ) -> KDecaySchedule:
        """The k-decay schedule that the study trains with.

        Args:
            ks: Terms of the schedule.
            steps_per_epoch: Optimizer updates per epoch, for the warm-up; without effect if the
                study counts steps.
            lr_max: Learning-rate level, if the study searches it; None for the file's.
        """
        part, warmup_steps = self.schedule, self.warmup_steps(steps_per_epoch)
        high = part.lr_max if lr_max is None else lr_max
        return KDecaySchedule(part.family, tuple(ks), part.power, high, part.lr_min, warmup_steps)

    def candidate_schedule(
        self, point: Candidate, earlier_ks: Sequence[float] = (), steps_per_epoch: float = 1
    ) -> Schedule:
        """The schedule of a candidate.

        Args:
            point: The candidate; what it leaves out is as the study file says.
            earlier_ks: Terms that earlier stages kept.
            steps_per_epoch: Optimizer updates per epoch, for the warm-up; without effect if the
                study counts steps.
        """
        warmup_steps = self.warmup_steps(steps_per_epoch)
        if point.warmup is not None:
            updates = self.task.length.updates(steps_per_epoch)
            warmup_steps = min(round(point.warmup * updates), math.ceil(updates) - 1)
        high = self.schedule.lr_max if point.lr_max is None else point.lr_max
        low = self.schedule.lr_min
        if point.lr_min is not None:  # 5 % of 0.1 is 0.005, and not 0.005000000000000001
            low = min(float(f"{point.lr_min * high:.12g}"), high)
        if point.family in COOLDOWNS:
            return WarmupStableDecay(
                lr_max=high,
                lr_min=low,
                warmup_steps=warmup_steps,
                decay_share=point.decay_share or 0.0,
                decay="linear" if point.family == LINEAR_COOLDOWN else "1-sqrt",
            )
        ks = (*earlier_ks, *(() if point.k is None else (point.k,)))
        family = cast("Family", point.family or self.schedule.family)
        power = 1.0 if point.family else self.schedule.power
        power = power if point.power is None else point.power
        return KDecaySchedule(family, ks, power, high, low, warmup_steps)

    def schedule_space(self) -> ScheduleSpace:
        """What a search of whole schedules may try.

        A command without ``{schedule_csv}`` takes what it has placeholders for: its family and N
        stay as the study file says, and its level, floor and warm-up do unless it takes them.
        """
        search, schedule, task = self.search, self.schedule, self.task
        power = schedule.power if schedule.family == "polynomial" else None
        original = Candidate(1.0, schedule.lr_max, schedule.family, power)
        if not isinstance(task, CommandTask) or SCHEDULE_CSV in task.placeholders:
            return ScheduleSpace.of(search.space, search.space.family, search.baselines, original)
        fixed: dict[str, object] = {"power": schedule.power}
        if "lr_max" not in task.placeholders:
            fixed["lr_max"] = schedule.lr_max
        if "lr_min" not in task.placeholders:
            fixed["lr_min"] = schedule.lr_min / schedule.lr_max
        if WARMUP_STEPS not in task.placeholders:
            fixed["warmup"] = None
        space = search.space.model_copy(update=fixed)
        return ScheduleSpace.of(space, (schedule.family,), (), original)

    def warmup_steps(self, steps_per_epoch: float = 1) -> int:
        """Optimizer updates of the warm-up; at least one update is left after it.

        Args:
            steps_per_epoch: Optimizer updates per epoch; without effect if the study counts steps.
        """
        length, schedule = self.task.length, self.schedule
        last_step = math.ceil(length.updates(steps_per_epoch)) - 1
        if length.counts_steps:
            return min(schedule.warmup_steps or 0, last_step)
        return min(round(schedule.warmup_epochs * steps_per_epoch), last_step)

    def fingerprint(
        self,
        ks: Sequence[float] = (),
        seed: int | None = None,
        comparator: str | None = None,
        lr_max: float | None = None,
        point: Candidate | None = None,
    ) -> bytes:
        """Fingerprint of everything that decides what is trained, and of nothing else.

        A checkpoint belongs to the run with its fingerprint, so a fingerprint must not change from
        one version to the next.

        Args:
            ks: Terms of the run's schedule; with the defaults, the fingerprint is the study's.
            seed: Seed of the run.
            comparator: Schedule of a confirmation's run, one of its comparators.
            lr_max: Learning-rate level, if the study searches it; None for the file's.
            point: The whole schedule, if the study searches it.

        Returns:
            32 bytes.
        """
        schedule = self.schedule.model_dump() | ({} if lr_max is None else {"lr_max": lr_max})
        task = self.task.model_dump(exclude={"epoch_timeout", "metric"})
        decisive: list[object] = [task, schedule]
        decisive += [list(ks), seed]
        decisive += [comparator] if comparator else []
        decisive += [point.stated()] if point else []
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).digest()

    def to_json(self) -> str:
        """The spec as it is stored; :func:`kdecay_search.study.file.from_json` reads it back."""
        return self.model_dump_json()


def grid(k_min: float, k_max: float, k_step: float) -> tuple[float, ...]:
    """The values k_min, k_min + k_step, … up to k_max, without the drift of repeated addition."""
    count = math.floor((k_max - k_min) / k_step + 1e-9) + 1
    return tuple(round(k_min + index * k_step, 10) for index in range(max(count, 0)))
