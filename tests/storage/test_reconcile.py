"""Bringing the storage in line with the plan: on a real Postgres."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.search import make_plan
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.file import load
from kdecay_search.study.trials import State
from tests.support.kdecay_command import simulated_study


def test_reconcile_is_idempotent_and_completes_half_a_stage(
    storage: Storage, tmp_path: Path
) -> None:
    spec = load(simulated_study(tmp_path, name="completed"))
    assert reconcile.launch(storage, spec)
    assert not reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "completed")
    runs = sorted(str(t.key) for t in records.read_trials(storage, "completed"))
    assert len(runs) == len(set(runs)) == 5 * 2
    with storage.engine.begin() as connection:  # as if the first one had been killed half-way
        for table in ("trial_user_attributes", "trial_system_attributes", "trials"):
            connection.execute(sqlalchemy.text(
                f"DELETE FROM {table} WHERE trial_id IN (SELECT trial_id FROM trials JOIN studies "
                "USING (study_id) WHERE study_name = 'completed/k1' AND number >= 3)"
            ))  # fmt: skip
    healer = Storage(storage.secret_url)
    reconcile.reconcile(healer, "completed")
    reconcile.reconcile(healer, "completed")
    assert sorted(str(t.key) for t in records.read_trials(healer, "completed")) == runs
    healer.close()


def test_duplicate_trial_is_withdrawn(storage: Storage, tmp_path: Path) -> None:
    spec = load(simulated_study(tmp_path, name="double"))
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "double")
    trial = records.read_trials(storage, "double")[0]
    queue.enqueue(storage, records.stage_ids(storage, "double")[1], [trial.request])
    reconcile.reconcile(storage, "double")
    twins = [t for t in records.read_trials(storage, "double") if t.key == trial.key]
    assert [(t.state, t.reason) for t in twins] == [
        (State.WAITING, None),
        (State.FAILED, "withdrawn"),
    ]


def test_trials_that_others_added_are_left_alone(storage: Storage, tmp_path: Path) -> None:
    spec = load(simulated_study(tmp_path, name="guest"))
    reconcile.launch(storage, spec)
    study = optuna.load_study(study_name="guest/k1", storage=storage.optuna)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    reconcile.reconcile(storage, "guest")
    assert len(records.read_trials(storage, "guest")) == 5 * 2


def test_reconcile_returns_the_study_after_its_own_changes(
    storage: Storage, tmp_path: Path
) -> None:
    reconcile.launch(storage, load(simulated_study(tmp_path, name="news", search__max_terms=2)))
    queued = reconcile.reconcile(storage, "news")
    assert queued is not None
    assert [trial.state for trial in queued.trials] == [State.WAITING] * 10
    assert queued.plan.enqueue == ()
    while (claim := queue.claim(storage, "news", "me")) is not None:
        queue.complete(storage, claim.trial_id, 5 + abs((claim.request.k or 0) - 2.5))
    opened = reconcile.reconcile(storage, "news")
    assert opened is not None
    assert list(opened.trials) == records.read_trials(storage, "news")
    assert {trial.key.stage for trial in opened.trials if trial.open} == {2}
    assert opened.plan == make_plan(opened.spec, list(opened.trials))
    again = reconcile.reconcile(storage, "news")
    assert again is not None
    assert (list(again.trials), again.plan) == (list(opened.trials), opened.plan)


def test_stages_are_described_where_optuna_s_dashboard_shows_it(
    storage: Storage, tmp_path: Path
) -> None:
    spec = load(simulated_study(tmp_path, name="described", search__seeds=1, search__max_terms=2))
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "described")
    running = records.read_study(storage, "described").attributes
    assert running[1].items() >= {"stage": 1, "state": "running", "kept": False}.items()
    while (claim := queue.claim(storage, "described", "me")) is not None:
        queue.complete(storage, claim.trial_id, 5 + abs((claim.request.k or 0) - 2.5))
    reconcile.reconcile(storage, "described")
    first, second = records.read_study(storage, "described").attributes.values()
    assert first.items() >= {"state": "done", "best_k": 2.5, "kept": True}.items()
    assert second.items() >= {"stage": 2, "earlier_ks": [2.5], "state": "running"}.items()


def test_reconcile_takes_few_statements(storage: Storage, tmp_path: Path) -> None:
    """However many runs are queued, and however many stages there are."""
    spec = load(simulated_study(tmp_path, name="few", search__seeds=3, search__max_terms=2))
    reconcile.launch(storage, spec)
    counts = [statements(storage, lambda: reconcile.reconcile(storage, "few"))]
    counts.append(statements(storage, lambda: reconcile.reconcile(storage, "few")))
    while (claim := queue.claim(storage, "few", "me")) is not None:
        queue.complete(storage, claim.trial_id, 5 + abs((claim.request.k or 0) - 2.5))
    reconcile.reconcile(storage, "few")
    assert len(records.stage_ids(storage, "few")) == 2
    counts.append(statements(storage, lambda: reconcile.reconcile(storage, "few")))
    assert counts == [10, 4, 4]


def test_end_of_a_race_takes_few_statements(storage: Storage, tmp_path: Path) -> None:
    """However many runs are not needed any more."""
    spec = load(simulated_study(tmp_path, name="raced", search__seeds=4, pruning__enabled=True))
    reconcile.launch(storage, spec)
    counts = []
    while not any(trial.state == State.PRUNED for trial in records.read_trials(storage, "raced")):
        counts.append(statements(storage, lambda: reconcile.reconcile(storage, "raced")))
        while (claim := queue.claim(storage, "raced", "me")) is not None:
            queue.complete(storage, claim.trial_id, 5 + abs((claim.request.k or 0) - 2))
    assert counts[-1] == 10


def statements(storage: Storage, act: Callable[[], object]) -> int:
    """How many statements ``act`` executes."""
    executed = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        executed.append(statement)

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        sqlalchemy.event.remove(storage.engine, "before_cursor_execute", note)
    return len(executed)
