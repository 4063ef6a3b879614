"""How often a joint search claims a gain where there is none, for :mod:`benchmarks.honesty`.

No schedule makes a difference on the surface that is searched, so every "better" is false.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from benchmarks.landscapes import SURFACES
from benchmarks.processes import mapping
from benchmarks.search_methods import SimulatedGround, play_joint
from kdecay_search.search.verdict import Outcome, judge
from kdecay_search.statistics import compare

FRESH_SEEDS = 10
"""Seeds of the simulated confirmation."""
FIRST_FRESH_SEED = 1000
EVERY = 20
"""Studies between two lines of progress."""


@dataclass(frozen=True)
class Claims:
    """What one study claimed."""

    found: bool
    """Whether it found another schedule than the original at its best level."""
    better: bool
    """Whether the search's verdict on the original is "better"."""
    covers: bool | None
    """Whether the verdict's interval contains 0; None if it has none."""
    any_usual: bool
    """Whether it claims a gain on any of the tuned usual schedules, the original included."""
    fresh_better: bool
    """Whether fresh seeds say that what was found is better than the original."""
    fresh_worse: bool
    """Whether they say that it is worse."""


@dataclass(frozen=True)
class Summary:
    """Shares of all studies."""

    studies: int
    budget: int
    """Trainings of a study."""
    found: float
    falsely_better: float
    falsely_better_interval: tuple[float, float]
    """95 % interval (Wilson) of the share."""
    coverage: float | None
    """Share of the verdicts' intervals that contain 0."""
    any_usual: float
    fresh_better: float
    fresh_worse: float


def simulate(budget: int, seed: int, number: int) -> Claims:
    """Search where nothing matters, and confirm what was found.

    Args:
        budget: Trainings of the study.
        seed: Seed of the simulation.
        number: Number of the study.
    """
    surface = SURFACES["nothing"]
    key = 1_000_000 * seed + number
    plan = play_joint(SimulatedGround(surface, budget, key)).plan
    assert plan is not None
    verdict = judge(plan, "done")
    found = plan.leader.point != plan.baseline.point
    interval = verdict.interval
    tuned = [each.gain for stage in plan.stages for each in stage.baselines]
    rng = np.random.default_rng([key, 2])
    old, new = (
        dict(enumerate(rng.normal(0.0, surface.run_noise, FRESH_SEEDS).tolist(), FIRST_FRESH_SEED))
        for _ in range(2)
    )
    fresh = compare(old, new).verdict if found else None
    return Claims(
        found,
        verdict.outcome == Outcome.BETTER,
        None if interval is None else interval[0] <= 0 <= interval[1],
        any(gain is not None and gain.is_sure for gain in tuned),
        fresh == "better",
        fresh == "worse",
    )


def measure(studies: int, budget: int, seed: int, processes: int) -> Summary:
    """Simulate this number of studies, in this number of processes."""
    play = partial(simulate, budget, seed)
    done: list[Claims] = []
    with mapping(processes) as mapped:
        for claims in mapped(play, range(studies)):
            done.append(claims)
            if len(done) % EVERY == 0:
                false = sum(each.better for each in done)
                print(f"joint: {len(done)} studies, {false} false", file=sys.stderr, flush=True)
    return summary_of(done, budget)


def summary_of(done: Sequence[Claims], budget: int) -> Summary:
    """The shares of these studies."""

    def share(name: str) -> float:
        return float(np.mean([getattr(claims, name) for claims in done]))

    covered = [claims.covers for claims in done if claims.covers is not None]
    better = share("better")
    return Summary(
        len(done),
        budget,
        share("found"),
        better,
        wilson(better, len(done)),
        float(np.mean(covered)) if covered else None,
        share("any_usual"),
        share("fresh_better"),
        share("fresh_worse"),
    )


def wilson(share: float, number: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of ``number`` (Wilson, 1927)."""
    middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * (share * (1 - share) / number + (z / (2 * number)) ** 2) ** 0.5
    return middle - half, middle + half


def as_text(summary: Summary) -> str:
    """One line for each number."""
    return "\n".join(f"{name}: {value}" for name, value in asdict(summary).items())


def as_json(summary: Summary) -> str:
    """One JSON object."""
    return json.dumps(asdict(summary))
