"""A task without torch: learning curves drawn from a stated error surface.

Tests, benchmarks and capacity planning run the real workers, storage and search on it.

The surface: the final error of a schedule with terms k_1 … k_n is

    best_error + curvature · ∫₀¹ (φ(u) − φ*(u))² du,      φ(u) = (1/n) Σ u^(k_i)

where φ* belongs to ``best_ks``; the integral has a closed form. With ``best_lr_max`` the
learning-rate level matters, too: the integrand is then the squared distance between r(1 − φ) and
1 − φ*, where r = lr_max / best_lr_max. Every schedule therefore has a best level of its own, at
which its learning rate is nearest to that of the best schedule: for k = 1 and k* = 3 at r = 1.35,
which removes more than half of the distance. With ``best_power`` N, the best schedule is
(1 − φ*)^N, and the integral is computed by quadrature.

So it is for a *whole candidate*, whose shape may be any: 1 − φ is then its learning rate in units
of the range from the study file's lr_min to the best level. Without a best level, the floor's share
of lr_max counts in place of the floor. The warm-up makes no difference.

``seed_noise`` (shared by all candidates of a seed) and ``run_noise`` (of each run) are added to the
final error; both are standard deviations in percentage points. Before the end, a curve behaves as
recorded ones do: the *raw* error lies above the averaged one by ``crossing`` points times the
learning rate's share of lr_max, so that schedules with a large k look worse until the last epochs.
``epoch_noise`` is the standard deviation between epochs at the full learning rate.

A curve depends on nothing but ``noise_seed``, the schedule, the seed and the epoch: a run that is
repeated, by any worker, draws the same curve.
"""

from __future__ import annotations

import json
import math
import random
import time
import zlib
from collections.abc import Callable, Sequence

from kdecay_search.schedules.base import mean_over_unit_interval
from kdecay_search.study.builtin_tasks import SimulatedTask, SurfaceSpec
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import BASELINE_KS, FOUND, ORIGINAL, schedule_of
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Epoch, Released, Run

Shape = Callable[[float], float]
"""1 − φ(u), the learning rate's share of its range, as a function of the share u of training."""
POLL_SECONDS = 0.2
"""Longest sleep between two polls."""
START_ERROR = 90.0
"""Error (%) of an untrained network with ten classes."""


def train(run: Run, sleep: Callable[[float], None] = time.sleep) -> None:
    """Report the run's curve epoch by epoch, each after ``epoch_seconds``.

    Its state, the number of epochs done, is kept when the run is interrupted.
    """
    task = run.spec.task
    assert isinstance(task, SimulatedTask)
    name = run.comparator or FOUND
    epochs = comparator_curve(run.spec, name, run.ks, run.seed, run.lr_max, run.point)
    done = _epochs_kept(run)
    if done:
        run.restore(epochs[:done])
    try:
        for epoch in epochs[done:]:
            run.poll()
            seconds = task.epoch_seconds
            while seconds > 0:
                sleep(min(seconds, POLL_SECONDS))
                seconds -= POLL_SECONDS
                run.poll()
            done = epoch.number
            run.report(epoch)
    except Released:
        if run.checkpoint is not None:
            run.checkpoint.write(str(done).encode())
        raise


def _epochs_kept(run: Run) -> int:
    """How many epochs an interrupted attempt at this run has done."""
    kept = run.checkpoint.read() if run.checkpoint is not None else None
    return int(kept) if kept else 0


def final_error(surface: SurfaceSpec, ks: Sequence[float], lr_max: float | None = None) -> float:
    """The surface's error (%) without noise, for the schedule with terms ``ks``."""
    ratio = _lr_ratio(surface, lr_max)
    if surface.best_power is not None:
        return shape_error(surface, _shape(ks, ratio))
    weighted = [(ratio / len(ks), k) for k in ks]
    weighted += [(-1 / len(surface.best_ks), k) for k in surface.best_ks]
    weighted += [(1 - ratio, 0.0)]
    distance = sum(a * b / (j + k + 1) for a, j in weighted for b, k in weighted)
    return min(100.0, surface.best_error + surface.curvature * max(distance, 0.0))


def curve(
    task: SimulatedTask, ks: Sequence[float], seed: int, lr_max: float | None = None
) -> list[Epoch]:
    """All epochs of one run.

    Args:
        task: The surface and the number of epochs.
        ks: The terms of the schedule.
        seed: The seed of the run.
        lr_max: The learning-rate level; None if it makes no difference.

    Returns:
        The epochs. Their learning rates are shares of the surface's best level, or of ``lr_max`` if
        the surface has none.
    """
    goal, shape = final_error(task.surface, ks, lr_max), _shape(ks, _lr_ratio(task.surface, lr_max))
    return _curve(task, seed, goal, shape, (*ks, *_key(lr_max)))


def comparator_curve(
    spec: StudySpec,
    comparator: str,
    ks: Sequence[float],
    seed: int,
    lr_max: float | None = None,
    point: Candidate | None = None,
) -> list[Epoch]:
    """All epochs of one run of the search, or of a schedule that a confirmation trains.

    Args:
        spec: A study of a simulated task.
        comparator: Name of the schedule (:mod:`kdecay_search.study.comparators`).
        ks: The terms of the schedule that the search has found.
        seed: The seed of the run.
        lr_max: The learning-rate level; None for that of ``spec.schedule``.
        point: The whole candidate, if the study searches these.
    """
    task = spec.task
    assert isinstance(task, SimulatedTask)
    if point is not None:
        return _whole_curve(spec, task, comparator, ks, seed, point)
    if comparator in (FOUND, ORIGINAL):
        level = spec.schedule.lr_max if lr_max is None and task.surface.best_lr_max else lr_max
        return curve(task, ks if comparator == FOUND else BASELINE_KS, seed, level)
    shape = comparator_shape(spec, comparator, ks, lr_max)
    goal = shape_error(task.surface, shape)
    return _curve(task, seed, goal, shape, (*ks, *_key(lr_max), zlib.crc32(comparator.encode())))


def _whole_curve(
    spec: StudySpec,
    task: SimulatedTask,
    comparator: str,
    ks: Sequence[float],
    seed: int,
    point: Candidate,
) -> list[Epoch]:
    """All epochs of one run of a whole candidate, or of a comparator made from it.

    The learning rate that the curve's noise follows ends at 0, as on a grid: a floor is judged by
    the surface alone.
    """
    shape = comparator_shape(spec, comparator, ks, point=point)
    key = [*ks, zlib.crc32(json.dumps(point.stated(), sort_keys=True).encode())]
    if comparator not in (FOUND, ORIGINAL):
        key.append(zlib.crc32(comparator.encode()))
    end = shape(1.0)
    goal = shape_error(task.surface, shape)
    return _curve(task, seed, goal, lambda u: shape(u) - end, key)


def comparator_shape(
    spec: StudySpec,
    comparator: str,
    ks: Sequence[float],
    lr_max: float | None = None,
    point: Candidate | None = None,
) -> Shape:
    """1 − φ(u) of a schedule that may have no terms: its learning rate above ``lr_min``, in units
    of the range up to the surface's best level, or to its own if there is none.

    Args:
        spec: A study of a simulated task.
        comparator: Name of the schedule (:mod:`kdecay_search.study.comparators`).
        ks: The terms of the schedule that the search has found.
        lr_max: The learning-rate level; None for that of ``spec.schedule``.
        point: The whole candidate, if the study searches these.
    """
    schedule = schedule_of(spec, comparator, ks, lr_max=lr_max, point=point)
    assert isinstance(spec.task, SimulatedTask)
    low, best = spec.schedule.lr_min, spec.task.surface.best_lr_max
    high = best or lr_max or spec.schedule.lr_max
    if point is not None and point.lr_max is not None and best is None:
        low, high = low * (point.lr_max / high), point.lr_max
    span, shift = (schedule.lr_max - schedule.lr_min), schedule.lr_min - low
    return lambda u: (shift + span * schedule.weight(u)) / (high - low or 1.0)


def shape_error(surface: SurfaceSpec, shape: Shape) -> float:
    """The surface's error (%) without noise for a schedule with this shape, by quadrature."""
    best, power = _shape(surface.best_ks), surface.best_power or 1.0
    # The mean of terms that are all 1 may exceed 1 by a last digit.
    distance = mean_over_unit_interval(lambda u: (shape(u) - max(best(u), 0.0) ** power) ** 2)
    return min(100.0, surface.best_error + surface.curvature * distance)


def _lr_ratio(surface: SurfaceSpec, lr_max: float | None) -> float:
    """r = lr_max / best_lr_max; 1 if the level makes no difference."""
    return lr_max / surface.best_lr_max if lr_max and surface.best_lr_max else 1.0


def _shape(ks: Sequence[float], ratio: float = 1.0) -> Shape:
    return lambda u: ratio * (1 - sum(u**k for k in ks) / len(ks))


def _key(lr_max: float | None) -> tuple[float, ...]:
    """The level's part of the key that tells the noise of two runs apart."""
    return () if lr_max is None else (lr_max,)


def _curve(
    task: SimulatedTask, seed: int, goal: float, shape: Shape, key: Sequence[float]
) -> list[Epoch]:
    """A curve that ends at ``goal`` (%) plus noise; ``key`` identifies the schedule."""
    surface = task.surface
    offset = _gauss(surface, surface.seed_noise, seed)
    offset += _gauss(surface, surface.run_noise, seed, *key)
    epochs = []
    for number in range(1, task.epochs + 1):
        share = number / task.epochs
        rate = shape(share)
        noise = _gauss(surface, 1.0, seed, number, *key) * surface.epoch_noise * rate
        known = surface.best_error + (goal - surface.best_error) * share
        averaged = known + offset + (START_ERROR - known) * math.exp(-8 * share) * (1 - share)
        raw = averaged + surface.crossing * rate + noise
        epochs.append(
            Epoch(
                number=number,
                training_loss=_percentage(raw) / 30,
                validation_error=_percentage(raw),
                averaged_error=_percentage(averaged + 0.3 * noise),
                learning_rate=rate,
            )
        )
    return epochs


def _gauss(surface: SurfaceSpec, sd: float, *key: float) -> float:
    """A normal number with standard deviation ``sd`` that depends only on the surface and key."""
    return random.Random(f"{surface.noise_seed}|{key}").gauss(0.0, sd) if sd else 0.0


def _percentage(value: float) -> float:
    """``value``, limited to 0 … 100."""
    return min(max(value, 0.0), 100.0)
