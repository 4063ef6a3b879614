"""Searches, and the queues in memory that play them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from kdecay_search.search import Stage
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import Trial
from tests.support.memory_studies import MemoryQueue, study

NOISE = {"seed_noise": 0.5, "run_noise": 0.05, "epoch_noise": 0.3}
QUARTERS = st.integers(1, 12).map(lambda quarters: quarters / 4)


def search(**keys: Any) -> dict[str, Any]:
    """[search] with two seeds and a closed range: k = 1, 1.5, … 4, and no growth."""
    return {"k_min": 1.0, "k_max": 4.0, "k_cap": 4.0, "seeds": 2, "min_gain": 0.01} | keys


def played(spec: StudySpec, outcome: Any = None, at_once: int | None = None) -> MemoryQueue:
    queue = MemoryQueue(spec, outcome)
    queue.play(at_once)
    return queue


def by_k(stage: Stage) -> dict[float | None, Any]:
    return {candidate.k: candidate for candidate in stage.candidates}


def again(queue: MemoryQueue, original: Trial, **changes: Any) -> Trial:
    """Another trial of the same run, as a repeated enqueue leaves one."""
    number = len(queue.trials)
    queue.trials.append(replace(original, number=number, trial_id=number, **changes))
    return queue.trials[-1]


def sampler_spec(**keys: Any) -> StudySpec:
    surface = {"best_ks": [2.5], **NOISE}
    return study(surface=surface, search=search(sampler="tpe", trials=6, seeds=3, **keys))
