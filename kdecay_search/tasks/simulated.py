"""A task without torch: curves drawn from a stated error surface.

Tests, benchmarks and capacity planning run the real workers, storage and procedure on it.

The surface: the final error of a schedule with terms k_1 … k_n is

    best_error + curvature · ∫₀¹ (φ(u) − φ*(u))² du,      φ(u) = (1/n) Σ u^(k_i)

where φ* belongs to ``best_ks``; the integral has a closed form. With ``best_lr_max`` the level of
the LR counts as well: the distance is that of r(1 − φ) from 1 − φ*, with r = lr_max / best_lr_max.
So another schedule has its own best level, where its LR is nearest to the best one's: k = 1 beside
k* = 3 at r = 1.35, which takes away more than half of the distance.

``seed_noise`` (shared by all candidates of a seed) and ``run_noise`` (a run's own) are added to it,
as standard deviations in percentage points. On the way there a curve behaves as recorded ones do:
while the LR is high the *raw* error lies above the averaged one by ``crossing`` points times the
LR's share of lr_max, so that schedules with a large k look worse until the last epochs, and cross
over only then. ``epoch_noise`` is the standard deviation between epochs at full LR.

Everything follows from ``noise_seed``, the schedule, the seed and the epoch: a run that is
repeated, by whichever worker, draws the same curve.
"""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Callable, Sequence

from kdecay_search.schedules.base import mean_over_unit_interval
from kdecay_search.study.builtin_tasks import SimulatedTask, SurfaceSpec
from kdecay_search.study.comparators import BASELINE_KS, FOUND, ORIGINAL, schedule_of
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Epoch, Run

Shape = Callable[[float], float]
"""1 − φ(u), the LR's share of its range, by the share u of the training."""
POLL_SECONDS = 0.2
START_ERROR = 90.0
"""Error (%) of an untrained network with ten classes."""


def final_error(surface: SurfaceSpec, ks: Sequence[float], lr_max: float | None = None) -> float:
    """The surface's error (%) at ``ks`` and ``lr_max``, free of noise."""
    level = _level(surface, lr_max)
    weighted = [(level / len(ks), k) for k in ks]
    weighted += [(-1 / len(surface.best_ks), k) for k in surface.best_ks]
    weighted += [(1 - level, 0.0)]
    distance = sum(a * b / (j + k + 1) for a, j in weighted for b, k in weighted)
    return min(100.0, surface.best_error + surface.curvature * max(distance, 0.0))


def curve(
    task: SimulatedTask, ks: Sequence[float], seed: int, lr_max: float | None = None
) -> list[Epoch]:
    """All epochs of one run; the learning rate is given as its share of the best level, or of
    lr_max where that makes no difference."""
    goal, shape = final_error(task.surface, ks, lr_max), _shape(ks, _level(task.surface, lr_max))
    return _curve(task, seed, goal, shape, (*ks, *_key(lr_max)))


def comparator_curve(
    spec: StudySpec, comparator: str, ks: Sequence[float], seed: int, lr_max: float | None = None
) -> list[Epoch]:
    """The same of a schedule that a confirmation trains (:mod:`kdecay_search.study.comparators`).
    ``lr_max``: where that is searched.

    Where that has no terms, 1 − φ(u) is what its LR is above lr_min, in units of the best level's
    range, or of the study's.
    """
    task = spec.task
    assert isinstance(task, SimulatedTask)
    if comparator in (FOUND, ORIGINAL):
        level = spec.schedule.lr_max if lr_max is None and task.surface.best_lr_max else lr_max
        return curve(task, ks if comparator == FOUND else BASELINE_KS, seed, level)
    shape = comparator_shape(spec, comparator, ks, lr_max)
    goal = shape_error(task.surface, shape)
    return _curve(task, seed, goal, shape, (*ks, *_key(lr_max), zlib.crc32(comparator.encode())))


def comparator_shape(
    spec: StudySpec, comparator: str, ks: Sequence[float], lr_max: float | None = None
) -> Shape:
    schedule = schedule_of(spec, comparator, ks, lr_max=lr_max)
    assert isinstance(spec.task, SimulatedTask)
    low, best = spec.schedule.lr_min, spec.task.surface.best_lr_max
    high = best or lr_max or spec.schedule.lr_max
    span, shift = (schedule.lr_max - schedule.lr_min), schedule.lr_min - low
    return lambda u: (shift + span * schedule.weight(u)) / (high - low or 1.0)


def shape_error(surface: SurfaceSpec, shape: Shape) -> float:
    """The surface's error (%) for a schedule with the shape 1 − φ(u), by quadrature."""
    best = _shape(surface.best_ks)
    distance = mean_over_unit_interval(lambda u: (shape(u) - best(u)) ** 2)
    return min(100.0, surface.best_error + surface.curvature * distance)


def _key(lr_max: float | None) -> tuple[float, ...]:
    return () if lr_max is None else (lr_max,)


def _level(surface: SurfaceSpec, lr_max: float | None) -> float:
    """r: lr_max in units of the best one."""
    return lr_max / surface.best_lr_max if lr_max and surface.best_lr_max else 1.0


def _shape(ks: Sequence[float], level: float = 1.0) -> Shape:
    return lambda u: level * (1 - sum(u**k for k in ks) / len(ks))


def _curve(
    task: SimulatedTask, seed: int, goal: float, shape: Shape, key: Sequence[float]
) -> list[Epoch]:
    surface = task.surface
    offset = _gauss(surface, surface.seed_noise, seed) + _gauss(
        surface, surface.run_noise, seed, *key
    )
    epochs = range(1, task.epochs + 1)
    return [_epoch(task, shape, (seed, number, *key), goal, offset) for number in epochs]


def train(run: Run, sleep: Callable[[float], None] = time.sleep) -> None:
    """Report the run's curve epoch by epoch, each after ``epoch_seconds``."""
    task = run.spec.task
    assert isinstance(task, SimulatedTask)
    for epoch in comparator_curve(run.spec, run.comparator or FOUND, run.ks, run.seed, run.lr_max):
        _wait(run, task.epoch_seconds, sleep)
        run.report(epoch)


def _epoch(
    task: SimulatedTask, shape: Shape, key: Sequence[float], goal: float, offset: float
) -> Epoch:
    """``key``: seed, number of the epoch, and what tells the schedule apart."""
    surface, number = task.surface, int(key[1])
    share = number / task.epochs
    rate = shape(share)
    noise = _gauss(surface, 1.0, *key) * surface.epoch_noise * rate
    known = surface.best_error + (goal - surface.best_error) * share
    averaged = known + offset + (START_ERROR - known) * math.exp(-8 * share) * (1 - share)
    raw = averaged + surface.crossing * rate + noise
    return Epoch(
        number=number,
        training_loss=_error(raw) / 30,
        validation_error=_error(raw),
        averaged_error=_error(averaged + 0.3 * noise),
        learning_rate=rate,
    )


def _gauss(surface: SurfaceSpec, sd: float, *key: float) -> float:
    return random.Random(f"{surface.noise_seed}|{key}").gauss(0.0, sd) if sd else 0.0


def _error(value: float) -> float:
    return min(max(value, 0.0), 100.0)


def _wait(run: Run, seconds: float, sleep: Callable[[float], None]) -> None:
    """Sleep through an epoch in short steps, so that the worker can interrupt it."""
    run.poll()
    while seconds > 0:
        sleep(min(seconds, POLL_SECONDS))
        seconds -= POLL_SECONDS
        run.poll()
