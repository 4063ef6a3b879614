"""Launching a study and reading its summary within the test's process."""

from __future__ import annotations

from typing import Any

from kdecay_search import reconcile
from kdecay_search.report.summary import summarise
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage
from kdecay_search.study.file import load


def launched(url: str, file: str) -> Storage:
    """Write the study of ``file`` into a database, as ``kdecay launch --detach`` does."""
    storage = Storage(url)
    spec = load(file)
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, spec.name)
    return storage


def summary_of(storage: Storage, name: str) -> dict[str, Any]:
    """What ``kdecay status --json`` prints."""
    return summarise(read_snapshot(storage, name))
