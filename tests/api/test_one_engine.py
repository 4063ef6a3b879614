"""In this process or on Postgres: the same results lead to the same runs and the same answer."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kdecay_search as kd
from kdecay_search import reconcile
from kdecay_search.api.in_process import WORKER
from kdecay_search.api.memory import MemoryStore
from kdecay_search.search import Plan, make_plan
from kdecay_search.search.store import carry_out, wants_changes
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, pausing, queue, records
from kdecay_search.study.file import to_toml
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext
from tests.search.test_any_study import WEATHER, Weather
from tests.support.joint_studies import LATE, joint_spec, landscape
from tests.support.memory_studies import Outcome, study

MOST_STEPS = 200


def own_name() -> str:
    return f"engine-{uuid.uuid4().hex}"


class InMemory:
    """A study whose trials are in memory."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec, self.store = spec, MemoryStore()

    def planned(self) -> Plan:
        while wants_changes(plan := make_plan(self.spec, self.store.trials)):
            carry_out(plan, self.store)
        return plan

    def claimed(self) -> Trial | None:
        waiting = self.store.next_waiting()
        if waiting is None:
            return None
        running = replace(waiting, state=State.RUNNING, worker=WORKER)
        self.store.put(running)
        return running

    def end(self, trial: Trial) -> None:
        self.store.put(trial)


class OnPostgres:
    """The same study in the database."""

    def __init__(self, spec: StudySpec, storage: Storage) -> None:
        self.spec, self.storage = spec, storage
        reconcile.launch(storage, spec)

    def planned(self) -> Plan:
        while True:
            before = len(records.read_trials(self.storage, self.spec.name))
            snapshot = reconcile.reconcile(self.storage, self.spec.name)
            assert snapshot is not None
            if len(snapshot.trials) == before and not wants_changes(snapshot.plan):
                return snapshot.plan

    def claimed(self) -> Trial | None:
        claim = queue.claim(self.storage, self.spec.name, WORKER)
        if claim is None:
            return None
        trials = records.read_trials(self.storage, self.spec.name)
        return next(trial for trial in trials if trial.trial_id == claim.trial_id)

    def end(self, trial: Trial) -> None:
        claim = queue.Claim(self.spec.name, 0, trial.trial_id, trial.request, WORKER)
        for number in range(1, trial.epochs + 1):
            queue.report(self.storage, claim, number, trial.averaged_error or 0.0)
        if trial.state == State.COMPLETE:
            queue.complete(self.storage, trial.trial_id, trial.error or 0.0)
        elif trial.state == State.PRUNED:
            pausing.pause(self.storage, claim, trial.epochs)
            pausing.close_paused(self.storage, [trial.trial_id])
        else:
            queue.fail(self.storage, trial.trial_id, trial.reason or "error", trial.message)


def _with_looks(spec: StudySpec, ended: Trial) -> Trial:
    """A trial whose averaged error was the same at each of its reports."""
    if ended.averaged_error is None:
        return ended
    at = [number for number in spec.looks if number <= ended.epochs]
    return replace(ended, looks=dict.fromkeys(at, ended.averaged_error))


def play_both(spec: StudySpec, storage: Storage, outcome: Outcome) -> int:
    """Play a study both ways, and compare every plan and every trial; return the trials' number."""
    memory, postgres = InMemory(spec), OnPostgres(spec, storage)
    for _ in range(MOST_STEPS):
        assert memory.planned() == postgres.planned()
        if (trial := memory.claimed()) is None:
            assert postgres.claimed() is None
            break
        while trial is not None:
            other = postgres.claimed()
            assert other == trial
            ended = _with_looks(spec, outcome(trial))
            memory.end(ended)
            postgres.end(replace(ended, trial_id=other.trial_id))
            trial = memory.claimed()
    stored = list(records.read_history(storage, spec.name, spec.looks))
    assert list(memory.store.trials) == stored
    return len(stored)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weather=WEATHER,
    seeds=st.integers(1, 3),
    max_terms=st.integers(1, 2),
    enabled=st.booleans(),
)
def test_a_grid_has_the_same_plans_in_memory_and_on_postgres(
    storage: Storage, weather: Weather, seeds: int, max_terms: int, enabled: bool
) -> None:
    part = {"k_max": 2.0, "k_cap": 3.0, "k_step": 0.5, "seeds": seeds, "max_terms": max_terms}
    pruning = {"enabled": enabled}
    spec = study(own_name(), search=part, pruning=pruning, workers={"max_attempts": 2})
    assert play_both(spec, storage, weather) >= 3


def test_a_joint_search_has_the_same_plans_in_memory_and_on_postgres(storage: Storage) -> None:
    confirm = {"seeds": 2}
    spec = joint_spec(own_name(), budget=9, search={"max_terms": 2}, confirm=confirm)
    assert play_both(spec, storage, landscape(spec, LATE)) >= 9


@pytest.mark.parametrize(
    "tables",
    [
        {"search": {"sampler": "joint", "budget": 8}, "confirm": {"seeds": 2}},
        {"search": {"sampler": "joint-tpe", "budget": 14, "seeds": 2, "max_terms": 1}},
        {"search": {"k_max": 2.0, "k_step": 0.5, "seeds": 2}},
        {"search": {"sampler": "tpe", "trials": 5, "seeds": 2, "max_terms": 1}},
    ],
    ids=["joint", "joint-tpe", "grid", "tpe"],
)
def test_a_worker_and_this_process_find_the_same(
    storage: Storage, tmp_path: Path, tables: dict[str, Any]
) -> None:
    spec = study(own_name(), {"run_noise": 0.3, "best_ks": [1.6]}, 8, **tables)
    reconcile.launch(storage, spec)
    context = WorkerContext("cpu", CheckpointFolder(tmp_path), threading.Event())
    Worker(storage, Options(spec.name, drain=True), context).serve()
    file = tmp_path / "study.toml"
    file.write_text(to_toml(spec))

    found = kd.find_schedule(study_file=file, progress=False)

    stored = read_snapshot(storage, spec.name)
    assert found.verdict == stored.verdict
    assert found.confirmed == stored.confirmed
    assert found.schedule == stored.schedule
    assert found.snapshot.plan == stored.plan
    assert [replace(t, worker=None) for t in found.snapshot.trials] == [
        replace(t, worker=None) for t in stored.trials
    ]
