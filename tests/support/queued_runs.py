"""Runs that wait in a real storage."""

from __future__ import annotations

from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.trials import RunKey, Token


def token(candidate: int, k: float | None = None) -> Token:
    return Token(RunKey(1, candidate, 0), (), k, (1.0, 5.0))


def queued(storage: Storage, name: str, tokens: list[Token]) -> int:
    study_id = records.create_stage(storage, name, 1)
    queue.enqueue(storage, study_id, tokens)
    return study_id
