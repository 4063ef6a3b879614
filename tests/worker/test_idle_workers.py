"""Workers that wait: how often they reconcile meanwhile, on a clock of the test's."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kdecay_search import reconcile
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, queue
from kdecay_search.storage.queue import Claim
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.loop import MAX_IDLE_SECONDS, Options, Outlook, Worker
from kdecay_search.worker.train import WorkerContext
from tests.support.memory_studies import study

ONE_RUN = {"k_max": 1.0, "k_cap": 1.0, "seeds": 1, "max_terms": 1}
MINUTES = 10


class Watched(Worker):
    """A worker that counts what it does, and looks for work every half second of its clock."""

    def __init__(self, storage: Storage, folder: Path, **options: Any) -> None:
        self.now = 0.0
        context = WorkerContext("cpu", CheckpointFolder(folder), threading.Event())
        chosen = Options(**{"study": None, "drain": False} | options)
        super().__init__(storage, chosen, context, clock=lambda: self.now)
        self.reconciled: Counter[str] = Counter()
        self.trained: list[str] = []

    def look(self) -> None:
        self.now += 0.5
        self._look_for_work()

    def _reconcile(self, name: str) -> Outlook:
        self.reconciled[name] += 1
        return super()._reconcile(name)

    def trial_ended(self, claim: Claim, outcome: str) -> None:
        self.trained.append(claim.study)


def held(storage: Storage, *names: str) -> dict[str, Claim]:
    """Launch studies of one run each, which another worker holds."""
    claims = {}
    for name in names:
        spec = study(name, search=ONE_RUN, workers={"grace_seconds": 3600.0})
        reconcile.launch(storage, spec)
        reconcile.reconcile(storage, name)
        claim = queue.claim(storage, name, "another:1-abcdefgh:cpu")
        assert claim is not None
        claims[name] = claim
    return claims


def test_studies_with_nothing_to_do_are_reconciled_ever_less_often(
    own: Storage, tmp_path: Path
) -> None:
    claims = held(own, "one", "two")
    worker = Watched(own, tmp_path)
    for _ in range(120 * MINUTES):
        worker.look()
    at_most = 4 + 60 * MINUTES / MAX_IDLE_SECONDS
    assert all(MINUTES < count <= at_most for count in worker.reconciled.values())
    queue.release(own, claims["one"])
    worker.look()
    assert worker.trained == ["one"], "what is queued is claimed at once"
    worker.look()
    assert read_snapshot(own, "one").state == "done", "and reconciled at once"
    queue.complete(own, claims["two"].trial_id, 20.0)
    for _ in range(round(2 * MAX_IDLE_SECONDS)):
        worker.look()
    assert read_snapshot(own, "two").state == "done"


@pytest.mark.parametrize(
    ("names", "options"),
    [(["one", "two"], {"drain": True}), (["one", "two"], {"study": "one"}), (["one"], {})],
    ids=["drains", "serves one study", "sees one study"],
)
def test_a_worker_that_drains_or_has_one_study_reconciles_whenever_it_looks(
    own: Storage, tmp_path: Path, names: list[str], options: dict[str, Any]
) -> None:
    held(own, *names)
    worker = Watched(own, tmp_path, **options)
    for _ in range(20):
        worker.look()
    assert set(worker.reconciled.values()) == {20}
