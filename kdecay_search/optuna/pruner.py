"""A pruner for any Optuna study that looks at averaged weights.

While the learning rate is high, the metric of the weights as they are says little of where a
training will end: a schedule that holds its rate for longer looks worse until its last epochs, and
may win there. The metric of averaged weights ranks schedules much earlier (docs/pruning.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from optuna.trial import Trial

AVERAGED = "kdecay:averaged"
"""User attributes ``kdecay:averaged:SEED:STEP`` of a trial hold its averaged values, each with its
place in the order of the reports."""
_SLACK = 1e-9


def report(
    trial: Trial, step: int, value: float, averaged_value: float | None = None, seed: int = 0
) -> None:
    """Report the metric of a trial, for Optuna's figures and for :class:`AveragedPruner`.

    Args:
        trial: The trial.
        step: Number of updates, or of epochs, that are done; the same in all trials.
        value: The metric with the weights as they are, which is what Optuna shows.
        averaged_value: The metric with averaged weights. A trial that reports none is never pruned.
        seed: Seed of the training: initial weights, data order. A trial may train several, one
            after the other; Optuna shows the first.
    """
    known = _averaged_reports(trial.user_attrs)
    if averaged_value is not None:
        kept = [float(averaged_value), len(known)]
        trial.set_user_attr(f"{AVERAGED}:{seed}:{step}", kept)
    if seed == (first_seed(trial.user_attrs) if known else seed):
        trial.report(value, step)


class AveragedPruner(BasePruner):
    """Ends trials that are behind by the averaged values of :func:`report`, in pairs of seeds.

    At share u of the training, the better 1 - u of the trials go on. Trials are compared after the
    same step, and only on seeds that both have trained; of several seeds, the mean of the
    differences counts. Only the order of values counts, so the metric may have any scale. The
    values that ``trial.report`` keeps are not looked at.

    It works with ``study.optimize`` and with ``trial.should_prune()``, in any storage.

    Args:
        total_steps: The last step of a training.
        first_share: Share of the training before which nothing is pruned.
        last_share: Share after which nothing is pruned: too little is left to be saved.
        looks: Number of evenly spaced moments of a training at which a trial may be pruned.
        keep_at_least: Number of better trials without which none is pruned.

    Raises:
        ValueError: A setting makes no sense.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        first_share: float = 0.5,
        last_share: float = 0.75,
        looks: int = 12,
        keep_at_least: int = 4,
    ) -> None:
        if total_steps < 1 or looks < 1 or keep_at_least < 1:
            raise ValueError("total_steps, looks and keep_at_least must be 1 or more")
        if not 0 < first_share <= last_share <= 1:
            raise ValueError("must be: 0 < first_share <= last_share <= 1")
        self._total, self._looks, self._keep = total_steps, looks, keep_at_least
        self._first, self._last = first_share, last_share

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a trial that has just reported should end; Optuna calls this."""
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        reports = _averaged_reports(trial.user_attrs)
        if not reports:
            return False
        own = _averaged(trial, sign)
        seed, step = max(reports, key=lambda at: reports[at][1])
        if not self._is_look(step, [other for other in own if seed in own[other]]):
            return False
        others = [
            _averaged(other, sign).get(step, {})
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
        ]
        differences = [
            difference for other in others if (difference := _behind(own[step], other)) is not None
        ]
        better = sum(difference > 0 for difference in differences)
        staying = math.ceil((1 - step / self._total) * (len(differences) + 1) - _SLACK)
        return better >= max(self._keep, staying)

    def _is_look(self, step: int, reported: Iterable[int]) -> bool:
        """Whether a trial may be pruned after this step: at the first report of each look."""
        share = step / self._total
        if not self._first - _SLACK <= share <= self._last + _SLACK:
            return False
        before = max((other for other in reported if other < step), default=0) / self._total
        return math.floor(share * self._looks + _SLACK) > math.floor(before * self._looks + _SLACK)


def _behind(own: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """By how much a trial is worse than another, on the seeds that both have; None without any."""
    common = own.keys() & other.keys()
    if not common:
        return None
    own_mean = sum(own[seed] for seed in common) / len(common)
    other_mean = sum(other[seed] for seed in common) / len(common)
    if math.isinf(own_mean) or math.isinf(other_mean):
        return float(own_mean > other_mean) - float(own_mean < other_mean)
    return own_mean - other_mean


def _averaged(trial: FrozenTrial, sign: float) -> dict[int, dict[int, float]]:
    """Averaged values by step and seed, oriented so that lower is better; NaN is infinitely bad."""
    found: dict[int, dict[int, float]] = {}
    for (seed, step), (stated, _) in _averaged_reports(trial.user_attrs).items():
        value = sign * stated
        found.setdefault(step, {})[seed] = value if math.isfinite(value) else math.inf
    return found


def first_seed(attributes: Mapping[str, Any]) -> int:
    """The seed that a trial, whose user attributes are given, has trained first; 0 if it reports no
    averaged values."""
    reports = _averaged_reports(attributes)
    return min(reports, key=lambda at: reports[at][1])[0] if reports else 0


def _averaged_reports(attributes: Mapping[str, Any]) -> dict[tuple[int, int], tuple[float, int]]:
    """Averaged values and their places in the order of the reports, by seed and step."""
    found = {}
    for key, kept in attributes.items():
        if key.startswith(f"{AVERAGED}:"):
            seed, step = map(int, key.removeprefix(f"{AVERAGED}:").split(":"))
            found[seed, step] = float(kept[0]), int(kept[1])
    return found
