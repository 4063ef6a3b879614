"""A task without torch: curves drawn from a stated error surface.

Tests, benchmarks and capacity planning run the real workers, storage and procedure on it.

The surface: the final error of a schedule with terms k_1 … k_n is

    best_error + curvature · ∫₀¹ (φ(u) − φ*(u))² du,      φ(u) = (1/n) Σ u^(k_i)

where φ* belongs to ``best_ks``; the integral has a closed form. ``seed_noise`` (shared by all
candidates of a seed) and ``run_noise`` (a run's own) are added to it, as standard deviations in
percentage points. On the way there a curve behaves as recorded ones do: while the LR is high the
*raw* error lies above the averaged one by ``crossing`` points times the LR's share of lr_max, so
that schedules with a large k look worse until the last epochs, and cross over only then.
``epoch_noise`` is the standard deviation between epochs at full LR.

Everything follows from ``noise_seed``, the terms, the seed and the epoch: a run that is repeated,
by whichever worker, draws the same curve.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence

from kdecay_search.spec import SimulatedTask, SurfaceSpec
from kdecay_search.task import Epoch, Run

POLL_SECONDS = 0.2
START_ERROR = 90.0
"""Error (%) of an untrained network with ten classes."""


def final_error(surface: SurfaceSpec, ks: Sequence[float]) -> float:
    """The surface's error (%) at ``ks``, free of noise."""
    weighted = [(1 / len(ks), k) for k in ks]
    weighted += [(-1 / len(surface.best_ks), k) for k in surface.best_ks]
    distance = sum(a * b / (j + k + 1) for a, j in weighted for b, k in weighted)
    return min(100.0, surface.best_error + surface.curvature * max(distance, 0.0))


def curve(task: SimulatedTask, ks: Sequence[float], seed: int) -> list[Epoch]:
    """All epochs of one run; the learning rate is given as its share of lr_max."""
    surface = task.surface
    goal = final_error(surface, ks)
    shared = _gauss(surface, surface.seed_noise, seed)
    own = _gauss(surface, surface.run_noise, seed, *ks)
    return [
        _epoch(task, ks, seed, number, goal, shared + own) for number in range(1, task.epochs + 1)
    ]


def train(run: Run, sleep: Callable[[float], None] = time.sleep) -> None:
    """Report the run's curve epoch by epoch, each after ``epoch_seconds``."""
    task = run.spec.task
    assert isinstance(task, SimulatedTask)
    for epoch in curve(task, run.ks, run.seed):
        _wait(run, task.epoch_seconds, sleep)
        run.report(epoch)


def _epoch(
    task: SimulatedTask, ks: Sequence[float], seed: int, number: int, goal: float, offset: float
) -> Epoch:
    surface = task.surface
    share = number / task.epochs
    rate = 1 - sum(share**k for k in ks) / len(ks)
    noise = _gauss(surface, 1.0, seed, number, *ks) * surface.epoch_noise * rate
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
