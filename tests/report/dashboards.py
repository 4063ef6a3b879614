"""Small studies, and what Optuna's dashboard shows of them."""

from __future__ import annotations

import json
from typing import Any

import optuna
import optuna_dashboard
import sqlalchemy
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from kdecay_search import reconcile
from kdecay_search.storage import Storage, queue, records
from tests.support.memory_studies import study

FIGURES = {"error-by-k", "schedules", "validation-error", "training-loss"}


def seen(storage: Storage, name: str, stage: int = 1) -> optuna.Study:
    """One stage as the dashboard reads it."""
    study_name = records.stage_name(name, stage)
    return optuna.load_study(study_name=study_name, storage=storage.rdb)


def attributes(storage: Storage, study_id: int) -> dict[str, Any]:
    return dict(storage.rdb.get_study_system_attrs(study_id))


def note(storage: Storage, name: str, stage: int = 1) -> str:
    return str(optuna_dashboard.get_note(seen(storage, name, stage)))


def figures(storage: Storage, name: str, stage: int = 1) -> dict[str, Any]:
    texts = get_plotly_graph_objects(attributes(storage, seen(storage, name, stage)._study_id))
    return {key: json.loads(text) for key, text in texts.items()}


def rows(storage: Storage) -> set[tuple[int, str, str]]:
    """Every attribute of every study, with what changes whenever it is written."""
    query = "SELECT study_id, key, xmin::text FROM study_system_attributes"
    with storage.engine.connect() as connection:
        return {(row[0], row[1], row[2]) for row in connection.execute(sqlalchemy.text(query))}


def launched(storage: Storage, name: str, **search: Any) -> None:
    """Five candidates, one seed, one term: five runs."""
    part = {"k_max": 3.0, "k_cap": 3.0, "max_terms": 1, "seeds": 1, "min_gain": 0.0} | search
    reconcile.launch(storage, study(name, search=part))
    reconcile.reconcile(storage, name)


def work(storage: Storage, name: str, runs: int) -> None:
    """Finish so many runs: the best k is 2."""
    for _ in range(runs):
        claim = queue.claim(storage, name, "tests")
        assert claim is not None
        assert claim.request.k is not None
        queue.complete(storage, claim.trial_id, 5.0 + abs(claim.request.k - 2.0))
