"""A study as frozen models: every setting with its default and its rule.

:mod:`kdecay_search.study.file` reads them from TOML. The validated spec is stored with the study
(``spec.to_json()``), and workers read it from there. docs/study-file.md describes every key.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import BASELINES
from kdecay_search.schedules.kdecay import Family, KDecaySchedule
from kdecay_search.study.base import (
    OMITTED_IF_NONE,
    NotNegative,
    NotNegativeCount,
    Positive,
    Settings,
    at_least,
)
from kdecay_search.study.builtin_tasks import ImagesTask, SimulatedTask
from kdecay_search.study.candidate import Candidate, floor_of, schedule_with
from kdecay_search.study.search_spec import MAX_SEEDS, SearchSpec
from kdecay_search.study.searched_args import require_own_parameters, usual_args
from kdecay_search.study.space import SCHEDULE_LIMITS, ScheduleSpace
from kdecay_search.study.user_tasks import (
    PURPOSE,
    SCHEDULE_CSV,
    WARMUP_STEPS,
    CommandTask,
    PythonTask,
)

FIRST_CONFIRMATION_SEED = MAX_SEEDS
"""Smallest seed of a confirmation, so that no search has used it."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Pattern of a study's name: what fits in URLs, file names and terminals."""


_ROUNDING = 1e-9
"""Reports by which a share of all reports may be off."""
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
        return at_least("schedule.lr_min", lr_max, info.data.get("lr_min"))


class PruningSpec(Settings):
    """When a run may be paused or ended early; see :mod:`kdecay_search.search.early_stopping`."""

    enabled: bool = True
    """Whether runs are chosen as the search proceeds, and may be paused and end early. If not,
    every candidate runs to the end on every seed."""
    first_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a run's length before which it is never paused."""
    looks: Annotated[int, Field(ge=1, le=1000)] = 12
    """Number of evenly spaced moments of a run, its end included, at which it may be paused; those
    before ``first_share`` are left out."""
    keep_at_least: Annotated[int, Field(ge=1, le=1000)] = 6
    """Has no effect any more; files of earlier versions may state it."""


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
        return at_least(
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
    """When a run may be paused or ended early."""
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
        if schedule is None or not search.is_joint:
            return search
        for name, (low, high) in SCHEDULE_LIMITS.items():
            value = getattr(schedule, name)
            if not low <= value <= high:
                raise ValueError(
                    f"sampler = {search.sampler!r} needs schedule.{name} within {low:g} and "
                    f"{high:g}; it is {value:g}"
                )
        return search

    @field_validator("search")
    @classmethod
    def _own_parameters_reach_the_task(cls, search: SearchSpec, info: ValidationInfo) -> SearchSpec:
        task = info.data.get("task")
        if task is not None:
            require_own_parameters(search, task)
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
        low = self.schedule.lr_min if point.lr_min is None else floor_of(point.lr_min, high)
        ks = (*earlier_ks, *(() if point.k is None else (point.k,)))
        if point.family is None:
            power = self.schedule.power if point.power is None else point.power
            point = point._replace(family=self.schedule.family, power=power)
        return schedule_with(point, ks, high, low, warmup_steps)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of the reports, ascending, at which a run may be paused: none at its end, and
        none at all if pruning is off."""
        if not self.pruning.enabled:
            return ()
        total, looks = self.task.length.reports, self.pruning.looks
        first = self.pruning.first_share * total - _ROUNDING
        evenly = {-(-place * total // looks) for place in range(1, looks)}
        return tuple(sorted(number for number in evenly if first <= number < total))

    @property
    def original(self) -> Candidate:
        """The schedule that the study file states, with k = 1 and the usual values of the user's
        own parameters, as a point of the search space."""
        schedule = self.schedule
        power = schedule.power if schedule.family == "polynomial" else None
        floor = schedule.lr_min / schedule.lr_max
        args = usual_args(self.search.space, self.task)
        return Candidate(1.0, schedule.lr_max, schedule.family, power, lr_min=floor, args=args)

    def schedule_space(self) -> ScheduleSpace:
        """What a search of whole schedules may try.

        A command without ``{schedule_csv}`` takes what it has placeholders for: its family and N
        stay as the study file says, and its level, floor and warm-up do unless it takes them.
        """
        search, schedule, task, original = self.search, self.schedule, self.task, self.original
        if not isinstance(task, CommandTask) or SCHEDULE_CSV in task.placeholders:
            return ScheduleSpace.of(search.space, search.space.family, search.baselines, original)
        fixed: dict[str, object] = {"power": schedule.power}
        if "lr_max" not in task.placeholders:
            fixed["lr_max"] = schedule.lr_max
        if "lr_min" not in task.placeholders:
            fixed["lr_min"] = original.lr_min
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
        task = self.task.model_dump(exclude={"epoch_timeout", "fork", "metric"})
        decisive: list[object] = [task, schedule]
        decisive += [list(ks), seed]
        decisive += [comparator] if comparator else []
        decisive += [point.stated()] if point else []
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).digest()

    def to_json(self) -> str:
        """The spec as it is stored; :func:`kdecay_search.study.file.from_json` reads it back."""
        return self.model_dump_json()
