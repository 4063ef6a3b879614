"""Studies that search the level of the learning rate, and what came of them."""

from __future__ import annotations

from typing import Any

from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State
from kdecay_search.tasks.simulated import final_error
from tests.support.memory_studies import MemoryQueue, study

LEVELS = (0.05, 0.1, 0.2)


def joint(
    levels: tuple[float, ...] = LEVELS,
    best: float = 3.0,
    best_lr_max: float | None = 0.1,
    noise: float = 0.0,
    prunes: bool = False,
    seeds: int = 3,
    confirm: int = 0,
    **search: Any,
) -> StudySpec:
    surface = {"best_ks": [best], "best_lr_max": best_lr_max, "run_noise": noise,
               "seed_noise": 1.0}  # fmt: skip
    part = {"k_max": 4.0, "k_cap": 4.0, "k_step": 1.0, "max_terms": 1, "lr_max": levels}
    return study(
        surface=surface,
        search=part | {"seeds": seeds} | search,
        pruning={"enabled": prunes},
        confirm={"seeds": confirm, "baselines": ["cosine"]},
    )


def true_error(spec: StudySpec, point: Candidate) -> float:
    assert isinstance(spec.task, SimulatedTask)
    return final_error(spec.task.surface, (point.k,), point.lr_max)


def tried(queue: MemoryQueue) -> dict[Candidate, set[int]]:
    """The seeds on which each candidate of stage 1 ran to its end."""
    found: dict[Candidate, set[int]] = {}
    for trial in queue.trials:
        if trial.state == State.COMPLETE and trial.key.stage == 1:
            assert trial.point is not None
            found.setdefault(trial.point, set()).add(trial.key.seed)
    return found
