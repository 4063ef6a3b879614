"""A candidate: one point of the search space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.kdecay import FAMILIES, Family, KDecaySchedule
from kdecay_search.study.own_parameters import is_own_name, is_own_value, own_text

COOLDOWN, LINEAR_COOLDOWN = "cooldown", "linear-cooldown"
"""Families without an exponent: a constant rate, then a decay of shape 1 − √v, or 1 − v, over the
last share of the training."""
COOLDOWNS = (COOLDOWN, LINEAR_COOLDOWN)


class Candidate(NamedTuple):
    """What is tried. None stands for what the study file says, or for what the family lacks.

    A grid sets ``k`` and, if the learning-rate level is searched, ``lr_max``. A search of the whole
    schedule sets every parameter that the candidate's family has. Candidates sort by their values
    in the order of the fields, None first.
    """

    k: float | None
    """Exponent of the term that is searched; None for a cooldown, which has no terms."""
    lr_max: float | None = None
    """Highest learning rate; None stands for ``schedule.lr_max`` of the study file."""
    family: str | None = None
    """Schedule that k-decay is applied to, or one of :data:`COOLDOWNS`."""
    power: float | None = None
    """N of the polynomial family."""
    decay_share: float | None = None
    """Length of a cooldown as a share of the updates after the warm-up."""
    lr_min: float | None = None
    """Lowest learning rate as a share of ``lr_max``."""
    warmup: float | None = None
    """Length of the warm-up as a share of all updates."""
    args: tuple[tuple[str, Any], ...] = ()
    """Values of the user's own parameters, by name in the order of the names."""

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Candidate:
        """The candidate with these settings, the user's own among them."""
        own = {name: value for name, value in settings.items() if name not in Candidate._fields}
        fields = {name: value for name, value in settings.items() if name not in own}
        known: dict[str, Any] = {"k": None, **fields, "args": tuple(sorted(own.items()))}
        return Candidate(**known)

    def __lt__(self, other: object) -> bool:
        """Whether this candidate sorts before another."""
        if not isinstance(other, Candidate):
            return NotImplemented
        return _sort_key(self) < _sort_key(other)

    def __gt__(self, other: object) -> bool:
        """Whether this candidate sorts after another."""
        if not isinstance(other, Candidate):
            return NotImplemented
        return other < self

    @property
    def is_whole(self) -> bool:
        """Whether this is a point of the space of whole schedules, and not of a grid."""
        return self.family is not None

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters that are not None, by name, the user's own among them."""
        schedule = self._replace(args=()).stated()
        return schedule | dict(self.args)

    def value(self, name: str) -> Any:
        """One of the parameters; None if the candidate has none of this name."""
        return getattr(self, name) if name in self._fields else dict(self.args).get(name)

    def stated(self) -> dict[str, Any]:
        """The parameters that are not None, by name; the user's own, if there are any, are a table
        of their own, ``args``."""
        found = {name: value for name, value in self._asdict().items() if value is not None}
        own = dict(found.pop("args"))
        return found | ({"args": own} if own else {})

    def without_term(self) -> Candidate:
        """Everything but the searched term: what later stages keep."""
        return self._replace(k=None)


def _sort_key(point: Candidate) -> list[tuple[bool, Any]]:
    return [(value is not None, 0 if value is None else value) for value in tuple(point)]


def floor_of(share: float, lr_max: float) -> float:
    """The lowest rate that is a share of the highest: 5 % of 0.1 is 0.005, and not
    0.005000000000000001."""
    return min(float(f"{share * lr_max:.12g}"), lr_max)


def schedule_with(
    point: Candidate, ks: tuple[float, ...], lr_max: float, lr_min: float, warmup_steps: int
) -> Schedule:
    """The schedule of a whole candidate.

    Args:
        point: The candidate, of which the family, N and a cooldown's length are used.
        ks: All terms; without effect for a cooldown.
        lr_max: Highest learning rate.
        lr_min: Lowest learning rate.
        warmup_steps: Optimizer updates of linear warm-up.
    """
    if point.family in COOLDOWNS:
        return WarmupStableDecay(
            lr_max=lr_max,
            lr_min=lr_min,
            warmup_steps=warmup_steps,
            decay_share=point.decay_share or 0.0,
            decay="linear" if point.family == LINEAR_COOLDOWN else "1-sqrt",
        )
    power = 1.0 if point.power is None else point.power
    return KDecaySchedule(cast("Family", point.family), ks, power, lr_max, lr_min, warmup_steps)


def candidate_name(point: Candidate, earlier_ks: Iterable[float] = ()) -> str:
    """A candidate's name for people.

    Args:
        point: The candidate.
        earlier_ks: The terms that earlier stages kept.

    Returns:
        Text such as ``k = 2``, ``k = 2, N = 1.5 at lr_max 0.1, lr_min 1 %`` or ``cooldown over 20 %
        at lr_max 0.1, weight_decay 0.001``. The floor and the warm-up are shares of lr_max and of
        the training.
    """
    ks = (*earlier_ks, *(() if point.k is None else (point.k,)))
    name = schedule_name(ks) if ks else ""
    if point.family in COOLDOWNS:
        shape = "linear cooldown" if point.family == LINEAR_COOLDOWN else "cooldown"
        name = f"{shape} over {_percent(point.decay_share or 0.0)}"
    elif point.family not in (None, "polynomial"):
        name = f"{point.family} {name}"
    elif point.power not in (None, 1.0):
        name += f", N = {point.power:.3g}"
    name += level_name(point.lr_max)
    if point.lr_min:
        name += f", lr_min {_percent(point.lr_min)}"
    if point.warmup:
        name += f", warm-up {_percent(point.warmup)}"
    return ", ".join([name, *(f"{own} {own_text(value)}" for own, value in point.args)])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def schedule_name(ks: Iterable[float], lr_max: float | None = None) -> str:
    """A schedule's name for people.

    Args:
        ks: Its terms.
        lr_max: Its level of the learning rate, if the level was searched.

    Returns:
        Text such as ``k = 2``, ``k = 2, 6.5`` or ``k = 2 at lr_max 0.1``.
    """
    return "k = " + ", ".join(f"{k:.4g}" for k in ks) + level_name(lr_max)


def level_name(lr_max: float | None) -> str:
    """Text such as `` at lr_max 0.1``; empty if the level was not searched."""
    return "" if lr_max is None else f" at lr_max {lr_max:.4g}"


def read_candidate(values: object) -> Candidate | None:
    """A candidate from the parameters that :meth:`Candidate.stated` gave, read back from JSON.

    Returns:
        The candidate; None if the values do not make one.
    """
    if not isinstance(values, Mapping) or not values.keys() <= set(Candidate._fields):
        return None
    settings = dict(values)
    family, own = settings.get("family"), settings.pop("args", {})
    numbers = [value for name, value in settings.items() if name != "family"]
    if family not in (*FAMILIES, *COOLDOWNS) or not isinstance(own, Mapping):
        return None
    if not all(is_own_name(name) and is_own_value(value) for name, value in own.items()):
        return None
    if not all(type(number) in (int, float) and 0 <= number < 1e9 for number in numbers):  # noqa: PLR2004
        return None
    return None if own.keys() & set(Candidate._fields) else Candidate.of({**settings, **own})
