"""The space of whole schedules that a study searches: what is fixed, what varies, and how far.

A study file states it in ``[search.space]``. Each parameter is a number, a list of values, or a
range: ``[low, high, "log"]`` or ``[low, high, "linear"]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kdecay_search.schedules.kdecay import FAMILIES
from kdecay_search.study.axis import Axis, axis_of
from kdecay_search.study.base import Settings
from kdecay_search.study.candidate import COOLDOWN, COOLDOWNS, Candidate
from kdecay_search.study.own_parameters import (
    MOST_SEARCHED,
    OwnAxis,
    is_own_name,
    own_axes,
    own_axis,
)

AXES = ("k", "power", "decay_share", "lr_max", "lr_min", "warmup")
"""The numbers that make up a whole schedule, in the order in which they are shown."""
SEARCHED_FAMILIES = (*FAMILIES, *COOLDOWNS)
"""Every family that a study may search."""
CAPS: Mapping[str, tuple[float, float]] = {
    "k": (0.05, 200.0),
    "power": (0.25, 16.0),
    "decay_share": (0.01, 1.0),
    "lr_min": (0.0, 0.5),
    "warmup": (0.0, 0.5),
}
"""How far a range is widened whose best candidate lies at its edge; ``lr_max`` has
:data:`LEVEL_CAP`."""
SETTING_LIMITS: Mapping[str, tuple[float, float]] = {
    "k": (0.001, 1000.0),
    "power": (0.001, 1000.0),
    "decay_share": (0.001, 1.0),
    "lr_max": (1e-12, 1e6),
    "lr_min": (0.0, 1.0),
    "warmup": (0.0, 0.9),
}
"""What a study file may state for each parameter; the last two are shares."""
RESERVED = frozenset({"args", "lr_min_share", "warmup_share", "schedule"})
"""Names that no parameter of the user's own may have: of parts of a candidate, and of parameters
that Optuna's dashboard shows."""
LEVEL_CAP = 16.0
"""Factor, either side of the range's middle, up to which a range of lr_max is widened."""
DEFAULT_LEVEL_FACTOR = 4.0
"""Factor either side of ``schedule.lr_max`` that is searched unless the study file says else."""
SCHEDULE_LIMITS = {"lr_max": (1e-30, 5e7), "power": (1e-30, 1e8)}
"""Smallest and largest values that ``[schedule]`` may state where whole schedules are searched: no
candidate that follows from them is too large to be stored."""


def _checked(setting: object) -> object:
    if setting is None:
        return None
    axis_of(setting)
    return setting


def _checked_own(setting: Any) -> Any:
    own_axis("", setting)
    return tuple(setting) if isinstance(setting, list) else setting


Setting = Annotated[float | tuple[float | str, ...], BeforeValidator(_checked)]
"""An axis as the study file states it."""
OwnSetting = Annotated[Any, AfterValidator(_checked_own)]
"""An axis of a parameter of the user's own code, as the study file states it."""
Family = Literal["polynomial", "cosine", "exponential", "cooldown", "linear-cooldown"]


class SpaceSpec(Settings):
    """What ``joint`` searches. Each is a number, a list, or a range ``[low, high, "log"]``. Further
    keys are parameters of the user's own code."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OwnSetting]

    k: Setting = (0.3, 30.0, "log")
    """Exponent of the first term; below 1 the rate falls at once, above 1 it is held for longer."""
    power: Setting = (0.5, 4.0, "log")
    """N of the polynomial family (eq. 11)."""
    lr_max: Setting | None = None
    """Highest learning rate; None means a quarter of to four times ``schedule.lr_max``."""
    lr_min: Setting = (0.0, 0.1, "linear")
    """Lowest learning rate, as a share of ``lr_max``."""
    warmup: Setting | None = None
    """Length of the warm-up, as a share of the training; None means that of ``schedule``."""
    decay_share: Setting = (0.05, 0.6, "log")
    """Length of a cooldown's decay, as a share of the updates after the warm-up."""
    family: Annotated[tuple[Family, ...], Field(min_length=1)] = ("polynomial", "cooldown")
    """Families that are searched, by name."""

    @field_validator("k", "power", "lr_max", "lr_min", "warmup", "decay_share")
    @classmethod
    def _lies_within_limits(cls, setting: Any, info: ValidationInfo) -> Any:
        if setting is None:
            return None
        axis, (lowest, highest) = axis_of(setting), SETTING_LIMITS[str(info.field_name)]
        if not lowest <= axis.low <= axis.high <= highest:
            raise ValueError(f"must lie within {lowest:g} and {highest:g}")
        return setting

    @field_validator("family")
    @classmethod
    def _families_differ(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(families)) < len(families):
            raise ValueError("must name each family once")
        return families

    @model_validator(mode="after")
    def _own_parameters_have_names(self) -> Self:
        for name in self.own:
            if not is_own_name(name):
                raise ValueError(f"{name!r} is no name: use letters, digits and _")
            if name in RESERVED:
                raise ValueError(f"{name} is the name of something else; use another one")
        if sum(not axis.is_fixed for axis in self.own.values()) > MOST_SEARCHED:
            raise ValueError(f"holds more than {MOST_SEARCHED} parameters of your own that vary")
        return self

    @property
    def own(self) -> dict[str, OwnAxis]:
        """The axes of the parameters of the user's own code, by name."""
        return own_axes(self.model_extra or {})


@dataclass(frozen=True)
class Subspace:
    """Schedules of one family: a box, each side of which is an axis."""

    name: str
    """Name of the family, or of the baseline."""
    family: str
    """The family."""
    axes: Mapping[str, Axis]
    """What varies or is fixed, by the name of the candidate's field."""

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the axes that are not fixed."""
        return tuple(name for name, axis in self.axes.items() if not axis.is_fixed)

    def at(self, shares: Iterable[float]) -> Candidate:
        """The candidate at a share of the way along each searched axis, in order."""
        way = dict(zip(self.searched, shares, strict=True))
        values = {name: axis.at(way.get(name, 0.5)) for name, axis in self.axes.items()}
        return Candidate.of({"family": self.family, **values})

    def shares(self, point: Candidate) -> list[float]:
        """How far along each searched axis a candidate of this family is."""
        return [self.axes[name].share(point.value(name)) for name in self.searched]

    def holds(self, point: Candidate) -> bool:
        """Whether a candidate lies here; ranges may have been widened since."""
        return point.family == self.family and all(
            getattr(point, name) == axis.low
            for name, axis in self.axes.items()
            if axis.is_fixed and name in ("k", "power")
        )


ORIGINAL_NAME = "original"
"""Name of the baseline that the study file's own schedule is at k = 1."""
TUNED_BASELINES: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "linear": ("polynomial", {"k": 1.0, "power": 1.0}),
    "cosine": ("cosine", {"k": 1.0}),
    "exponential": ("exponential", {"k": 1.0}),
    "cooldown": (COOLDOWN, {}),
}
"""Family and fixed parameters of the usual schedules that ``search.baselines`` may name: their
level, their floor and a cooldown's length are tuned."""
PARAMETERS_OF: Mapping[str, tuple[str, ...]] = {
    "polynomial": ("k", "power"),
    "cosine": ("k",),
    "exponential": ("k",),
    **dict.fromkeys(COOLDOWNS, ("decay_share",)),
}
"""The shape's parameters, by family."""


@dataclass(frozen=True)
class ScheduleSpace:
    """All that a search of whole schedules may try."""

    families: tuple[Subspace, ...]
    """The families that are searched."""
    baselines: tuple[Subspace, ...]
    """The schedules that the found one is compared with, each to be tuned; the original first."""
    own: tuple[OwnAxis, ...] = ()
    """The user's own parameters, which are among the axes of every family and baseline."""

    @staticmethod
    def of(
        space: SpaceSpec,
        families: Iterable[str],
        baselines: Iterable[str],
        original: Candidate,
    ) -> ScheduleSpace:
        """The space that a study file describes.

        Args:
            space: Its table.
            families: The families to search.
            baselines: Names of usual schedules, keys of :data:`TUNED_BASELINES`.
            original: The study file's own schedule at k = 1: family, power and level.
        """
        axes = {
            name: axis_of(getattr(space, name)) for name in ("k", "power", "decay_share", "lr_min")
        }
        level = original.lr_max or 1.0
        ends = (level / DEFAULT_LEVEL_FACTOR, level * DEFAULT_LEVEL_FACTOR)
        axes["lr_max"] = Axis(ends, "log") if space.lr_max is None else axis_of(space.lr_max)
        if space.warmup is not None:
            axes["warmup"] = axis_of(space.warmup)
        common: dict[str, Axis] = {
            name: axes[name] for name in ("lr_max", "lr_min", "warmup") if name in axes
        }
        of_user = space.own
        common |= of_user

        def box(name: str, family: str, fixed: Mapping[str, float]) -> Subspace:
            shape = {
                key: Axis((fixed[key],)) if key in fixed else axes[key]
                for key in PARAMETERS_OF[family]
            }
            return Subspace(name, family, {**shape, **common})

        own = {"k": 1.0} | (
            {"power": original.power or 1.0} if original.family == "polynomial" else {}
        )
        tuned = [box(ORIGINAL_NAME, original.family or "polynomial", own)]
        for name in baselines:
            family, fixed = TUNED_BASELINES[name]
            if (family, fixed) != (original.family, own):
                tuned.append(box(name, family, fixed))
        searched = tuple(box(name, name, {}) for name in families)
        return ScheduleSpace(searched, tuple(tuned), tuple(of_user.values()))
