"""Studies of three candidates as reports see them, for tests of what is shown."""

from __future__ import annotations

from typing import Any

from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.spec import StudySpec
from tests.support.memory_studies import MemoryQueue, study


def spec(**keys: Any) -> StudySpec:
    """Candidates k = 1, 2, 3; three seeds; one term."""
    part = {"k_max": 3.0, "k_cap": 3.0, "k_step": 1.0, "max_terms": 1, "min_gain": 0.0} | keys
    return study(search=part)


def seen(queue: MemoryQueue, stopped: bool = False) -> StudySnapshot:
    return StudySnapshot(queue.spec, tuple(queue.trials), stopped)


def ended(outcome: Any, **keys: Any) -> StudySnapshot:
    queue = MemoryQueue(spec(**keys), outcome)
    queue.play()
    return seen(queue)
