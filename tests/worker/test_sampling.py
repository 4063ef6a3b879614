"""A sampler chooses for a trial that is not this worker's any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kdecay_search import reconcile
from kdecay_search.storage import Storage, queue
from kdecay_search.storage.deletion import delete_study
from kdecay_search.storage.queue import Claim
from kdecay_search.study.trials import LOST
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.train import WorkerContext, train_trial
from tests.support.memory_studies import study

SEARCH = {"sampler": "random", "trials": 2, "seeds": 1, "max_terms": 1}


def ended(storage: Storage, claim: Claim) -> None:
    queue.fail(storage, claim.trial_id, LOST, "no heartbeat")


def deleted(storage: Storage, claim: Claim) -> None:
    delete_study(storage, claim.study)


@pytest.mark.parametrize("takes_away", [ended, deleted])
def test_its_run_is_lost_and_has_not_failed(
    takes_away: Callable[[Storage, Claim], None],
    storage: Storage,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = study(f"sampled-{takes_away.__name__}", search=SEARCH)
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, spec.name)
    _baseline, claim = (queue.claim(storage, spec.name, "me") for _ in range(2))
    assert claim is not None
    assert claim.request.k is None
    takes_away(storage, claim)
    context = WorkerContext("cpu", CheckpointFolder(tmp_path), threading.Event())
    assert train_trial(storage, spec, claim, context) == "lost"
    assert not caplog.records
