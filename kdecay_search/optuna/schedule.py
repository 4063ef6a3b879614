"""A schedule as parameters of an Optuna trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.base import Schedule
from kdecay_search.study.axis import Axis, axis_of
from kdecay_search.study.candidate import Candidate, floor_of, schedule_with
from kdecay_search.study.space import PARAMETERS_OF, SpaceSpec

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

PREFIX = "schedule_"
"""What the names of a schedule's parameters begin with."""
NAMES = {
    "k": "k",
    "power": "power",
    "decay_share": "decay_share",
    "lr_max": "lr_max",
    "lr_min": "lr_min_share",
}
"""Name of the parameter for each number of a candidate, behind the prefix."""
FAMILY, WARMUP = "family", "warmup_steps"
CANDIDATE = "kdecay:schedule"
"""User attribute of a trial: all that its schedule is made of, by the candidate's fields."""

Setting = float | Sequence[float | str]
"""A number, a list of values, or a range: ``(low, high, "log")`` or ``(low, high, "linear")``."""


def suggest_schedule(
    trial: BaseTrial,
    *,
    lr_max: Setting,
    lr_min: Setting = (0.0, 0.1, "linear"),
    k: Setting = (0.3, 30.0, "log"),
    power: Setting = (0.5, 4.0, "log"),
    decay_share: Setting = (0.05, 0.6, "log"),
    family: Sequence[str] = ("polynomial", "cooldown"),
    warmup_steps: int | tuple[int, int] = 0,
    prefix: str = PREFIX,
) -> Schedule:
    """Suggest a learning-rate schedule: define-by-run, with the parameters that its family has.

    Each setting is a number, which is not a parameter then; a list of values; or a range,
    ``(low, high, "log")`` or ``(low, high, "linear")``.

    Args:
        trial: The trial.
        lr_max: Highest learning rate; of a pair ``(low, high)``, the range is logarithmic.
        lr_min: Lowest learning rate, as a share of ``lr_max``; the parameter is called
            ``lr_min_share``.
        k: Exponent of k-decay; below 1 the rate falls at once, above 1 it is held for longer.
        power: N of the polynomial family (eq. 11 of arXiv:2004.05909).
        decay_share: Length of a cooldown's decay, as a share of the updates after the warm-up.
        family: Families: ``polynomial``, ``cosine``, ``exponential``, ``cooldown`` (1 - sqrt) and
            ``linear-cooldown``. Of several, the family is a parameter, too.
        warmup_steps: Optimizer updates of linear warm-up, or ``(low, high)``.
        prefix: What the names of the parameters begin with.

    Returns:
        The schedule: ``schedule(step, total_steps)`` is the learning rate of an update. For a torch
        optimizer, see :func:`kdecay_search.torch.schedule_lr`.

    Raises:
        InvalidSchedule: A setting makes no sense (a ``ValueError``).

    Example:
        In an objective of your own::

            def objective(trial):
                schedule = kd.suggest_schedule(trial, lr_max=(1e-3, 1.0))
                decay = trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
                ...
                scheduler = schedule_lr(optimizer, schedule, total_steps)
    """
    numbers = {"k": k, "power": power, "decay_share": decay_share, "lr_max": lr_max}
    axes = _axes({**numbers, "lr_min": lr_min}, family)
    chosen = family[0]
    if len(family) > 1:
        chosen = trial.suggest_categorical(f"{prefix}{FAMILY}", list(family))
    values = {
        name: _suggested(trial, f"{prefix}{NAMES[name]}", axes[name])
        for name in (*PARAMETERS_OF[chosen], "lr_max", "lr_min")
    }
    steps = warmup_steps
    if isinstance(steps, tuple):
        steps = trial.suggest_int(f"{prefix}{WARMUP}", *steps)
    known: dict[str, Any] = {"k": None, "family": chosen, **values}
    point = Candidate(**known)
    trial.set_user_attr(CANDIDATE, point.stated())
    return _schedule(point, steps)


def _axes(settings: Mapping[str, Setting], family: Sequence[str]) -> dict[str, Axis]:
    """The axes of all parameters, checked as a study file's are."""
    given = {
        name: tuple(setting) if isinstance(setting, Sequence) else setting
        for name, setting in settings.items()
    }
    level = given["lr_max"]
    if isinstance(level, tuple) and len(level) == 2:  # noqa: PLR2004 - a pair is a range
        given["lr_max"] = (*level, "log")
    try:
        SpaceSpec(**cast("Any", {**given, "family": tuple(family)}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = first["loc"][0]
        shown = list(family) if key == "family" else settings[str(key)]
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidSchedule(f"suggest_schedule: {key} = {shown!r}: {text}") from None
    return {name: axis_of(setting) for name, setting in given.items()}


def _suggested(trial: BaseTrial, name: str, axis: Axis) -> float:
    if axis.is_fixed:
        return axis.low
    if axis.scale is None:
        return float(trial.suggest_categorical(name, list(axis.values)))
    return trial.suggest_float(name, axis.low, axis.high, log=axis.scale == "log")


def _schedule(point: Candidate, warmup_steps: int) -> Schedule:
    high = point.lr_max or 1.0
    ks = (1.0 if point.k is None else point.k,)
    return schedule_with(point, ks, high, floor_of(point.lr_min or 0.0, high), warmup_steps)
