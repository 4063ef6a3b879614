"""The study file: what a user launches, as frozen models.

A study file is TOML. :func:`load` reads one, applies ``--set dotted.key=value`` overrides and
returns a :class:`StudySpec`; whatever is wrong becomes one :class:`InvalidSpec` line that names
the file, the dotted key, the value and the rule. The validated spec is stored with the study
(``spec.to_json()``), and workers read it from there.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from kdecay_search.errors import InvalidSpec
from kdecay_search.schedules import Family, KDecaySchedule

MAX_CANDIDATES = 1000
"""More grid points than this in one stage is a slip of ``k_step``, not a search."""

SMALLEST_K, LARGEST_K = 0.001, 1000.0

Exponent = Annotated[float, Field(ge=SMALLEST_K, le=LARGEST_K)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


def _cap(k_max: float, k_cap: float | None) -> float:
    return k_cap if k_cap is not None else min(2 * k_max, LARGEST_K)


def _at_least(bound_name: str, value: float, bound: float | None) -> float:
    if bound is not None and value < bound:
        raise ValueError(f"must be at least {bound_name} = {bound:g}")
    return value


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


class ModelSpec(_Model):
    """The network of an image task: CIFAR-style ResNets of depth 6n + 2."""

    name: Literal["resnet"] = "resnet"
    depth: Annotated[int, Field(ge=8, le=1202)] = 8
    block: Literal["basic"] = "basic"
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the first of the three groups; the others have twice and four times as many."""

    @field_validator("depth")
    @classmethod
    def _depth_fits_the_blocks(cls, depth: int) -> int:
        if (depth - 2) % 6:
            below = (depth - 2) // 6 * 6 + 2
            raise ValueError(
                f"must be 6n + 2 for basic blocks; the nearest are {below}, {below + 6}"
            )
        return depth


class DataSpec(_Model):
    """The data of an image task, and how its training part is split."""

    name: Literal["digits", "cifar10", "cifar100", "image-folder"]
    root: str | None = None
    """Folder of the data set; for image-folder, with or without train/ and test/ inside."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training part that is held out to choose k on; the test part stays closed."""
    subset: Annotated[int | None, Field(ge=2)] = None
    """Images of the training part to use, drawn evenly over the classes before the split."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    image_size: Annotated[int | None, Field(ge=4, le=512)] = None
    """Resize to this many pixels a side; None keeps the images' own size."""
    crop_padding: Annotated[int | None, Field(ge=0, le=64)] = None
    """Pixels padded before the random crop; None means an eighth of the image's side."""
    flip: bool | None = None
    """Random horizontal flips; None means yes, except for digits."""

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, root: str | None, info: ValidationInfo) -> str | None:
        """Workers elsewhere read this spec: a relative path would mean another folder there."""
        if root is None:
            if info.data.get("name") in ("image-folder", "cifar10", "cifar100"):
                raise ValueError(f"must name the folder of data set {info.data['name']!r}")
            return None
        try:
            return str(Path(root).expanduser().resolve())
        except (RuntimeError, OSError) as error:
            raise ValueError(f"is not a folder's path: {error}") from None


class OptimizerSpec(_Model):
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


class ImagesTask(_Model):
    """The built-in image classification task."""

    kind: Literal["images"]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Count = 128
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, Field(ge=0, le=1024)] = 1
    """CPU threads of one training. Results depend on it in the last bits, so it is part of the
    study; 0 shares the machine's cores among its workers and gives that reproducibility up."""
    averaging_epochs: Positive = 1.0
    """Half-life, in epochs, of the averaged weights that pruning looks at."""
    model: ModelSpec = ModelSpec()
    data: DataSpec
    optimizer: OptimizerSpec = OptimizerSpec()


class SurfaceSpec(_Model):
    """The stated error surface of a simulated task; see :mod:`kdecay_search.simulation`."""

    best_ks: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (3.0,)
    best_error: Annotated[float, Field(ge=0, le=100)] = 8.0
    curvature: NotNegative = 30.0
    seed_noise: NotNegative = 0.3
    run_noise: NotNegative = 0.2
    epoch_noise: NotNegative = 0.3
    crossing: NotNegative = 8.0
    noise_seed: int = 0


class SimulatedTask(_Model):
    """Curves drawn from a stated error surface, without training anything."""

    kind: Literal["simulated"]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    epoch_seconds: NotNegative = 0.0
    surface: SurfaceSpec = SurfaceSpec()


class ScheduleSpec(_Model):
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


class SearchSpec(_Model):
    """The search for the terms k1 < k2 < … of eq. 14."""

    sampler: Literal["grid", "tpe", "gp", "random"] = "grid"
    k_min: Exponent = 1.0
    k_max: Exponent = 5.0
    k_cap: Exponent | None = None
    """The grid grows up to here while the best k is its largest; None means twice k_max."""
    k_step: Exponent = 0.5
    trials: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Candidates per stage that tpe, gp and random try; a grid has its own number."""
    sampler_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    max_terms: Annotated[int, Field(ge=1, le=16)] = 2
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Replicates of every candidate."""
    min_gain: NotNegative = 0.1
    """Percentage points by which a term must lower the paired mean error to be kept."""

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


class PruningSpec(_Model):
    """When a run may be ended early; see :mod:`kdecay_search.pruning`."""

    enabled: bool = True
    first_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """No run is pruned before this share of its epochs."""
    reduction_factor: Annotated[int, Field(ge=2, le=16)] = 2
    """About one in so many runs goes on after each rung."""


class WorkersSpec(_Model):
    """How workers share the study; changing these does not change any result."""

    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    grace_seconds: Annotated[float, Field(ge=0.2, le=86_400)] = 60.0
    """A trial whose worker has been silent for so long is given to another."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Trials that a run may use up before it counts as failed."""

    @field_validator("grace_seconds")
    @classmethod
    def _grace_outlasts_beats(cls, grace: float, info: ValidationInfo) -> float:
        return _at_least(
            "twice workers.heartbeat_seconds", grace, 2 * info.data.get("heartbeat_seconds", 0.0)
        )


class StudySpec(_Model):
    """A whole study file."""

    name: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: Annotated[str, Field(max_length=10_000)] = ""
    task: Annotated[ImagesTask | SimulatedTask, Field(discriminator="kind")]
    schedule: ScheduleSpec = ScheduleSpec()
    search: SearchSpec = SearchSpec()
    pruning: PruningSpec = PruningSpec()
    workers: WorkersSpec = WorkersSpec()

    @field_validator("schedule")
    @classmethod
    def _warmup_ends(cls, schedule: ScheduleSpec, info: ValidationInfo) -> ScheduleSpec:
        task = info.data.get("task")
        if task is not None and schedule.warmup_epochs >= task.epochs:
            warmup = schedule.warmup_epochs
            raise ValueError(f"warmup_epochs = {warmup} must be below task.epochs = {task.epochs}")
        return schedule

    def schedule_for(self, ks: Sequence[float], steps_per_epoch: float = 1) -> KDecaySchedule:
        """The schedule with terms ``ks``, its warm-up in updates of this many per epoch."""
        part = self.schedule
        last_step = math.ceil(self.task.epochs * steps_per_epoch) - 1
        warmup_steps = min(round(part.warmup_epochs * steps_per_epoch), last_step)
        return KDecaySchedule(
            part.family, tuple(ks), part.power, part.lr_max, part.lr_min, warmup_steps
        )

    def to_json(self) -> str:
        """The spec as stored with the study; :func:`from_json` reads it back unchanged."""
        return self.model_dump_json()


def from_json(text: str) -> StudySpec:
    """Read a spec back from the study's storage."""
    try:
        return StudySpec.model_validate_json(text)
    except ValidationError as error:
        line = _first_error(error, source="stored study")
        raise InvalidSpec(f"{line}; it was launched by another version of kdecay-search") from None


def load(path: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read the study file at ``path`` and apply ``dotted.key=value`` overrides.

    Raises :class:`InvalidSpec` with one line when either cannot be used.
    """
    table = _read_toml(Path(path))
    for override in overrides:
        _apply(table, override)
    try:
        return StudySpec.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise InvalidSpec(_first_error(error, str(path), overrides)) from None
    except RecursionError:
        raise InvalidSpec(f"{path}: is nested too deeply; tables are at most three deep") from None
    except ValueError:  # an integer of more digits than Python prints
        raise InvalidSpec(f"{path}: holds a number that is too large; use up to 1e9") from None


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """Dotted keys, with both values, in which two specs differ so that results would mix.

    The description, the workers' settings and the largest number of terms may change between
    launches; everything else decides what is trained or compared.
    """
    free = {"description", "workers", "search.max_terms"}
    before, after = (_flatten(spec.model_dump(mode="json")) for spec in (old, new))
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
        and key not in free
        and key.partition(".")[0] not in free
    ]


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InvalidSpec(f"{path}: no such file; give the path of a study file") from None
    except OSError as error:
        raise InvalidSpec(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidSpec(f"{path}: is not a text file; a study file is TOML in UTF-8") from None
    if not text.strip():
        raise InvalidSpec(f"{path}: the file is empty; a study file has at least name and [task]")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidSpec(f"{path}: is not valid TOML: {reason}") from None


def _apply(table: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value``; the value is TOML, or else a plain string."""
    raw = override.partition("=")[2]
    parts = _override_key(override).split(".")
    if "=" not in override or not all(parts):
        raise InvalidSpec(f"--set {override}: must have the form dotted.key=value")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        value = raw
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InvalidSpec(f"--set {override}: {'.'.join(parts[:depth])} is not a table")
    table[parts[-1]] = value


def _override_key(override: str) -> str:
    return ".".join(part.strip() for part in override.partition("=")[0].split("."))


def _first_error(error: ValidationError, source: str, overrides: Sequence[str] = ()) -> str:
    """One line for the first of pydantic's errors: source, dotted key, value, rule."""
    details = error.errors(include_url=False)
    first = details[0]
    keys = _keys(first)
    dotted = ".".join(keys)
    if any(f"{dotted}.".startswith(f"{_override_key(override)}.") for override in overrides):
        source = "--set"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        kinds = [str(part) for part in first["loc"][1:2]] if keys[0] == "task" else []
        return f"{source}: {dotted}: unknown key{_nearest(keys, kinds)}{more}"
    if first["type"] == "missing":
        return f"{source}: {dotted}: is missing{more}"
    return f"{source}: {dotted}{_shown(first)}: {_rule(first)}{more}"


def _keys(detail: ErrorDetails) -> list[str]:
    """The error's path as in the file: without the union's tag, and with the tag's own key."""
    path = [str(part) for part in detail["loc"]]
    kinds = {_kind(task) for task in (ImagesTask, SimulatedTask)}
    if len(path) > 1 and path[0] == "task" and path[1] in kinds:
        del path[1]
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        path.append("kind")
    return path or ["the file"]


def _kind(task: type[BaseModel]) -> str:
    return str(get_args(task.model_fields["kind"].annotation)[0])


def _shown(detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] == "union_tag_invalid":
        value = value["kind"]
    if isinstance(value, dict):
        return ""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return f" = {text if len(text) <= 60 else text[:57] + '...'}"  # noqa: PLR2004


def _rule(detail: ErrorDetails) -> str:
    if detail["type"] == "union_tag_not_found" or detail["type"] == "union_tag_invalid":
        return "must be 'images' or 'simulated'"
    if detail["type"] == "string_pattern_mismatch":
        return "must start with a letter or digit and hold only letters, digits, '.', '_' and '-'"
    text = detail["msg"].removeprefix("Value error, ")
    return text.replace("Input should be", "must be").replace("Input should have", "must have")


def _nearest(keys: list[str], kinds: list[str]) -> str:
    known = _known_keys(keys[:-1], kinds)
    close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join([*keys[:-1], close[0]])}?"
    return f"; known here: {', '.join(sorted(known))}" if known else ""


def _known_keys(parents: list[str], kinds: list[str]) -> list[str]:
    """The keys of the table that ``parents`` lead to, in a task of one of ``kinds``."""
    models: list[type[BaseModel]] = [StudySpec]
    for parent in parents:
        fields = [model.model_fields[parent] for model in models if parent in model.model_fields]
        models = [
            option
            for field in fields
            for option in (get_args(field.annotation) or (field.annotation,))
            if isinstance(option, type) and issubclass(option, BaseModel)
            if "kind" not in option.model_fields or _kind(option) in kinds
        ]
    return sorted({key for model in models for key in model.model_fields})


def grid(k_min: float, k_max: float, k_step: float) -> tuple[float, ...]:
    """k_min, k_min + k_step, … up to k_max, without the drift of repeated addition."""
    count = math.floor((k_max - k_min) / k_step + 1e-9) + 1
    return tuple(round(k_min + index * k_step, 10) for index in range(max(count, 0)))
