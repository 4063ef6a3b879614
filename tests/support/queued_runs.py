"""Runs that wait in a real storage."""

from __future__ import annotations

from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.trials import RunKey, RunRequest


def request(candidate: int, k: float | None = None) -> RunRequest:
    return RunRequest(RunKey(1, candidate, 0), (), k, (1.0, 5.0))


def queued(storage: Storage, name: str, requests: list[RunRequest]) -> int:
    study_id = records.create_stage(storage, name, 1)
    queue.enqueue(storage, study_id, requests)
    return study_id
