"""Studies that search whole schedules, played in memory, for tests of what is shown."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from kdecay_search.schedules.base import Schedule
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import COOLDOWNS, Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey, RunRequest, State, Trial
from tests.support.memory_studies import EPOCHS, Outcome, study_table

LEVEL, PLACES = 0.1, [index / 50 for index in range(51)]
LATE = tuple(1 - u**4 for u in PLACES)
"""The shape that is the best, k = 4, unless a test says otherwise."""
COOLED = tuple(1 - math.sqrt(max(0.0, u - 0.7) / 0.3) for u in PLACES)
"""The shape of a cooldown over 30 %."""


def joint_spec(name: str = "joint", budget: int = 24, **tables: Any) -> StudySpec:
    """A study that searches whole schedules; ``tables`` replace or add top-level keys."""
    search = {"budget": budget, "max_terms": 1} | tables.pop("search", {})
    schedule = {"lr_max": LEVEL, "lr_min": LEVEL / 100}
    task = {"kind": "python", "entry": "mine:train", "epochs": EPOCHS}
    table = study_table(name, task=task, search=search, schedule=schedule) | tables
    return StudySpec.model_validate_json(json.dumps(table))


def landscape(spec: StudySpec, best: Sequence[float], level: float = 2 * LEVEL) -> Outcome:
    """Errors grow with the distance of a schedule's shape, and of its level, from the best ones."""

    def error_of(schedule: Schedule) -> float:
        far = sum(
            (schedule.weight(u) - wanted) ** 2 for u, wanted in zip(PLACES, best, strict=True)
        )
        return 10 + 0.6 * far + 2 * math.log(schedule.lr_max / level) ** 2

    def run(waiting: Trial) -> Trial:
        request, seed = waiting.request, waiting.key.seed
        assert request.point is not None
        noise = random.Random(f"{request.earlier_ks} {request.point} {seed}").gauss(0.0, 0.1)
        error = error_of(spec.candidate_schedule(request.point, request.earlier_ks)) + noise
        error += 0.2 * seed
        epochs = spec.task.length.reports
        return replace(
            waiting, state=State.COMPLETE, error=error, averaged_error=error, epochs=epochs
        )

    return run


def whole(family: str = "polynomial", **values: float) -> Candidate:
    """A whole schedule; what is not stated is usual."""
    usual: dict[str, float] = {"lr_max": LEVEL, "lr_min": 0.01}
    if family in COOLDOWNS:
        usual |= {"decay_share": 0.2}
    else:
        usual |= {"k": 1.0} | ({"power": 1.0} if family == "polynomial" else {})
    known: dict[str, Any] = {"k": None, "family": family, **usual, **values}
    return Candidate(**known)


RUNS: tuple[tuple[Candidate, int], ...] = (
    (whole(), 1),
    (whole(lr_max=0.2, lr_min=0.02), 2),
    (whole("cosine"), 1),
    (whole("cosine", lr_max=0.25), 2),
    (whole("cooldown"), 1),
    (whole("cooldown", lr_max=0.22, decay_share=0.3), 3),
    (whole("cooldown", lr_max=0.06, decay_share=0.08), 1),
    (whole(k=0.5, power=2.0, lr_max=0.05, lr_min=0.05), 1),
    (whole(k=9.0, power=0.7, lr_max=0.31, lr_min=0.08), 1),
    (whole(k=2.4, power=3.1, lr_max=0.14, lr_min=0.03), 1),
    (whole(k=20.0, power=1.4, lr_max=0.12, lr_min=0.0), 1),
    (whole(k=5.6, power=1.3, lr_max=0.2, lr_min=0.02), 2),
    (whole(k=4.1, power=1.1, lr_max=0.21, lr_min=0.01), 3),
)
"""Runs of a search of whole schedules: each candidate with its number of seeds."""


@cache
def joint(
    best: tuple[float, ...] = LATE, runs: int | None = None, stopped: bool = False, **search: Any
) -> StudySnapshot:
    """A study of whole schedules as a snapshot, with the runs of :data:`RUNS` and no others.

    Args:
        best: The shape with the lowest error.
        runs: Number of runs that are complete; None for all, which is what the budget allows.
        stopped: Whether the user has stopped the study.
        search: Keys of ``[search]``.
    """
    wanted = [
        (index, point, seed) for index, (point, count) in enumerate(RUNS) for seed in range(count)
    ]
    spec = joint_spec(search={"budget": len(wanted)} | search)
    finish = landscape(spec, best)
    trials = []
    for number, (index, point, seed) in enumerate(wanted[:runs]):
        request = RunRequest(RunKey(1, index, seed), (), point.k, (0.3, 30.0), point=point)
        request = replace(request, lr_max=point.lr_max)
        waiting = Trial(
            number, request, State.WAITING, point.k, lr_max=point.lr_max, trial_id=number
        )
        trials.append(finish(waiting))
    return StudySnapshot(spec, tuple(trials), stopped)


@cache
def two_terms() -> StudySnapshot:
    """A search of two shapes that has kept k = 4 and tried five second terms."""
    space = {"k": [1.0, 4.0], "power": 1.0, "lr_max": LEVEL, "lr_min": 0.01}
    search = {"budget": 11, "max_terms": 2, "min_gain": 0.0, "baselines": []}
    spec = joint_spec(search=search | {"space": space | {"family": ["polynomial"]}})
    finish, trials, first = landscape(spec, LATE), [], (whole(), whole(k=4.0))
    wanted = [
        (RunKey(1, index, seed), (), point)
        for index, point in enumerate(first)
        for seed in range(3)
    ]
    wanted += [
        (RunKey(2, index, 0), (4.0,), whole(k=k))
        for index, k in enumerate((5.0, 8.0, 13.0, 22.0, 40.0))
    ]
    for number, (key, earlier, point) in enumerate(wanted):
        request = RunRequest(key, earlier, point.k, (0.3, 30.0), point=point)
        request = replace(request, lr_max=point.lr_max)
        waiting = Trial(
            number, request, State.WAITING, point.k, lr_max=point.lr_max, trial_id=number
        )
        trials.append(finish(waiting))
    return StudySnapshot(spec, tuple(trials), stopped=False)
