"""One launch, one study: deleting all of it, and adopting nothing that others have written."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from kdecay_search import __version__, reconcile
from kdecay_search.errors import StudyError
from kdecay_search.storage import Storage, attributes, queue, records
from kdecay_search.storage.deletion import delete_study
from kdecay_search.study.file import load
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.wait import wait_for

MOST_STEPS = 100
"""A study of these tests that takes more has nobody who could claim its runs."""


@pytest.fixture
def name() -> str:
    return f"l{uuid.uuid4().hex[:10]}"


def spec_of(tmp_path: Path, name: str, **settings: Any) -> StudySpec:
    return load(simulated_study(tmp_path, name=name, search__seeds=1, **settings))


def finish(storage: Storage, name: str, error: Callable[[float], float]) -> None:
    """Complete all runs of a study, stage after stage."""
    for _ in range(MOST_STEPS):
        snapshot = reconcile.reconcile(storage, name)
        if snapshot is None or snapshot.state != "running":
            return
        while (claim := queue.claim(storage, name, "me")) is not None:
            queue.complete(storage, claim.trial_id, error(claim.request.k or 1.0))
    pytest.fail(f"{name} has not ended after {MOST_STEPS} steps")


def execute(storage: Storage, statement: str, **values: Any) -> None:
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement), values)


def rows_of(storage: Storage, name: str) -> int:
    """Number of rows in all of Optuna's tables that belong to a study's stages."""
    of_study = "study_id IN (SELECT study_id FROM studies WHERE starts_with(study_name, :prefix))"
    with storage.engine.connect() as connection:
        return sum(
            connection.scalar(
                sqlalchemy.text(f"SELECT count(*) FROM {table} WHERE {of_study}"),
                {"prefix": f"{name}/"},
            )
            for table in ("studies", "study_user_attributes", "study_directions", "trials")
        )


def test_study_is_deleted_while_many_write_to_it(
    storage: Storage, storage_url: str, tmp_path: Path, name: str
) -> None:
    """Optuna's own deletion swallows the error of a row that is added meanwhile."""
    spec = spec_of(tmp_path, name, search__k_max=9.0)
    for _ in range(5):
        reconcile.launch(storage, spec)
        reconcile.reconcile(storage, name)
        stop, writers = threading.Event(), 4
        ready = threading.Barrier(writers + 1)

        def write(
            index: int, stop: threading.Event = stop, ready: threading.Barrier = ready
        ) -> int:
            own = Storage(storage_url)
            claim = queue.claim(own, name, f"writer {index}")
            assert claim is not None
            ready.wait()
            step = written = 0
            while not stop.is_set():
                step += 1
                written += queue.report(own, claim, step, 5.0)
                queue.beat(own, claim)
                queue.note(own, claim.trial_id, {"step": step})
                queue.enqueue(own, claim.study_id, [claim.request])
            own.close()
            return written

        with ThreadPoolExecutor(writers) as pool:
            running = [pool.submit(write, index) for index in range(writers)]
            ready.wait()
            try:
                threading.Event().wait(0.1)
                deleted = delete_study(storage, name)
                assert deleted.running == writers
                assert rows_of(storage, name) == 0
                threading.Event().wait(0.05)
            finally:  # the writers write until then
                stop.set()
            assert all(each.result() > 0 for each in running)
        assert rows_of(storage, name) == 0
        with pytest.raises(StudyError, match="no study named"):
            records.read_study(storage, name)


def test_deletion_that_is_refused_deletes_nothing(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    reconcile.launch(storage, spec_of(tmp_path, name))
    reconcile.reconcile(storage, name)
    before = rows_of(storage, name)
    execute(storage, "CREATE TABLE keeps (study_id integer REFERENCES studies)")
    try:
        execute(
            storage,
            "INSERT INTO keeps SELECT study_id FROM studies WHERE study_name = :name",
            name=f"{name}/k1",
        )
        with pytest.raises(Exception, match="keeps"):
            delete_study(storage, name)
        assert rows_of(storage, name) == before
    finally:
        execute(storage, "DROP TABLE keeps")
    delete_study(storage, name)
    assert rows_of(storage, name) == 0


def test_launch_adopts_no_records_of_another(storage: Storage, tmp_path: Path, name: str) -> None:
    """What an incomplete deletion has left must not enter the next study of the name."""
    spec = spec_of(tmp_path, name, search__max_terms=2)
    reconcile.launch(storage, spec)
    finish(storage, name, lambda k: 5 + abs(k - 2.5))
    assert set(records.stage_ids(storage, name)) == {1, 2}
    left = records.stage_ids(storage, name)[1]
    optuna.delete_study(study_name=f"{name}/k1", storage=storage.optuna)
    with pytest.raises(StudyError, match=f"deleted in part: '{name}/k2' is left"):
        reconcile.launch(storage, spec)
    assert left not in records.stage_ids(storage, name).values()
    with pytest.raises(StudyError, match="has lost its first stage"):
        records.read_study(storage, name)
    delete_study(storage, name)
    assert reconcile.launch(storage, spec)
    assert records.read_trials(storage, name) == []


def test_trials_of_another_launch_are_ignored(storage: Storage, tmp_path: Path, name: str) -> None:
    reconcile.launch(storage, spec_of(tmp_path, name))
    reconcile.reconcile(storage, name)
    runs = records.read_trials(storage, name)
    foreign, waiting = runs[0].trial_id, runs[1].trial_id
    for trial, launch in ((foreign, '"another"'), (waiting, None)):
        execute(
            storage,
            "UPDATE trial_user_attributes SET value_json = :launch "
            "WHERE trial_id = :trial AND key = 'kdecay_launch'",
            trial=trial,
            launch=launch,
        )
    other = Storage(storage.secret_url)
    seen = {trial.trial_id for trial in records.read_trials(other, name)}
    assert seen == {trial.trial_id for trial in runs[2:]}
    claimed = set()
    while (claim := queue.claim(other, name, "me")) is not None:
        claimed.add(claim.trial_id)
    assert claimed == seen
    reconcile.reconcile(other, name)  # their runs are queued again
    assert len(records.read_trials(other, name)) == len(runs)
    other.close()


def test_stage_that_is_deleted_by_other_means_is_run_again(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    spec = spec_of(tmp_path, name, search__max_terms=2)
    reconcile.launch(storage, spec)
    finish(storage, name, lambda k: 5 + abs(k - 2.5))
    assert name not in records.active_studies(storage)
    optuna.delete_study(study_name=f"{name}/k2", storage=storage.optuna)
    assert name in records.active_studies(storage)
    snapshot = reconcile.reconcile(storage, name)
    assert snapshot is not None
    assert snapshot.state == "running"
    assert {trial.key.stage for trial in snapshot.trials if trial.open} == {2}
    finish(storage, name, lambda k: 5 + abs(k - 2.5))
    assert name not in records.active_studies(storage)


def test_stage_whose_name_is_taken_is_refused(storage: Storage, tmp_path: Path, name: str) -> None:
    reconcile.launch(storage, spec_of(tmp_path, name, search__max_terms=2))
    optuna.create_study(study_name=f"{name}/k2", storage=storage.optuna).add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(StudyError, match=f"'{name}/k2' that this launch did not make"):
        finish(storage, name, lambda k: 5 + abs(k - 2.5))
    delete_study(storage, name)  # which is not the user's own
    assert list(records.stage_ids(storage, name)) == [2]


@pytest.mark.parametrize("is_marked", [False, True])
def test_optuna_study_of_the_same_name_is_left_alone(
    storage: Storage, kdecay: Kdecay, tmp_path: Path, name: str, is_marked: bool
) -> None:
    own = optuna.create_study(study_name=f"{name}/k1", storage=storage.optuna)
    own.add_trial(optuna.trial.create_trial(value=1.0))
    if is_marked:  # by chance
        own.set_user_attr("spec", {"mine": True})
    file = simulated_study(tmp_path, name=name)
    refused = kdecay.run("launch", file, "--workers", "0", "--detach", code=2)
    assert len(refused.stderr.splitlines()) == 1
    if not is_marked:
        assert f"the name {name!r} is taken: '{name}/k1' is an Optuna study" in refused.stderr
    refused = kdecay.run("delete", name, "--yes", code=2)
    assert "was not launched by kdecay" in refused.stderr
    refused = kdecay.run("stop", name, code=2) if not is_marked else refused
    assert len(refused.stderr.splitlines()) == 1
    assert [trial.value for trial in own.trials] == [1.0]


def test_of_two_files_launched_at_once_one_is_accepted(
    storage: Storage, storage_url: str, tmp_path: Path, name: str
) -> None:
    for attempt in range(6):
        specs = [
            spec_of(tmp_path, f"{name}{attempt}", search__k_max=k_max) for k_max in (3.0, 4.0) * 2
        ]
        stores = [Storage(storage_url) for _ in specs]
        ready = threading.Barrier(len(specs))

        def launch(store: Storage, spec: StudySpec, ready: threading.Barrier = ready) -> str:
            ready.wait()
            try:
                return "new" if reconcile.launch(store, spec) else "resumed"
            except StudyError as error:
                return str(error)

        with ThreadPoolExecutor(len(specs)) as pool:
            outcomes = list(pool.map(launch, stores, specs))
        stored = records.read_study(storage, f"{name}{attempt}").spec
        assert outcomes.count("new") == 1
        for spec, outcome in zip(specs, outcomes, strict=True):
            assert (outcome in ("new", "resumed")) == (spec == stored), outcomes
        for store in stores:
            store.close()


def test_two_files_launched_from_two_shells(kdecay: Kdecay, tmp_path: Path, name: str) -> None:
    files = []
    for k_max in (3.0, 4.0):
        folder = tmp_path / f"{k_max:g}"
        folder.mkdir()
        files.append(simulated_study(folder, name=name, search__k_max=k_max))
    shells = [kdecay.fork("launch", file, "--workers", "0", "--detach") for file in files]
    errors = [shell.communicate()[1] for shell in shells]
    assert sorted(shell.returncode for shell in shells) == [0, 2]
    assert sum("exists with other settings" in error for error in errors) == 1


def test_deleted_study_is_launched_again_from_nothing_while_workers_run(
    storage: Storage, kdecay: Kdecay, tmp_path: Path, name: str
) -> None:
    """Real workers, which claim, report and reconcile all the time."""
    file = simulated_study(
        tmp_path, name=name, task__epoch_seconds=0.05, task__epochs=40, search__seeds=3
    )
    kdecay.run("launch", file, "--workers", "2", "--detach")

    def has_running() -> bool:
        trials = records.read_trials(storage, name)
        return sum(trial.state == State.RUNNING and trial.epochs > 0 for trial in trials) >= 2

    wait_for(has_running, "training")
    done = kdecay.run("delete", name, "--yes")
    assert f"{name} is deleted" in done.stderr
    assert rows_of(storage, name) == 0
    few = {"task__epochs": 4, "search__seeds": 2, "search__k_max": 2.0, "search__k_cap": 2.0}
    fast = simulated_study(tmp_path, name=name, **few)
    result = kdecay.json("launch", fast, "--workers", "2")
    twin = simulated_study(tmp_path, name=f"{name}-twin", **few)
    expected = kdecay.json("launch", twin, "--workers", "1")
    assert result["stages"] == expected["stages"]
    assert result["schedule"] == expected["schedule"]
    assert result["trials"] == expected["trials"]


def test_study_of_a_version_without_launch_ids_stays_readable(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    spec = spec_of(tmp_path, name, search__max_terms=2)
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, name)
    study_id = records.stage_ids(storage, name)[1]
    for table in ("study_user_attributes", "trial_user_attributes"):
        where = "study_id = :id" if table.startswith("study") else (
            "trial_id IN (SELECT trial_id FROM trials WHERE study_id = :id)"
        )  # fmt: skip
        execute(storage, f"DELETE FROM {table} WHERE key LIKE 'kdecay%' AND {where}", id=study_id)
    assert records.read_study(storage, name).launch is None
    assert not reconcile.launch(storage, spec)
    finish(storage, name, lambda k: 5 + abs(k - 2.5))
    snapshot = reconcile.reconcile(storage, name)
    assert snapshot is not None
    assert snapshot.state == "done"
    assert set(records.stage_ids(storage, name)) == {1, 2}
    delete_study(storage, name)
    assert rows_of(storage, name) == 0


def test_version_is_kept_with_a_study(storage: Storage, tmp_path: Path, name: str) -> None:
    spec = spec_of(tmp_path, name)
    reconcile.launch(storage, spec)
    first = records.read_study(storage, name)
    assert first.attributes[1][attributes.VERSION] == __version__
    reconcile.launch(storage, spec)
    again = records.read_study(storage, name)
    assert again.launch == first.launch is not None


def test_stop_works_on_what_it_cannot_read(
    storage: Storage, kdecay: Kdecay, tmp_path: Path, name: str
) -> None:
    reconcile.launch(storage, spec_of(tmp_path, name))
    study_id = records.stage_ids(storage, name)[1]
    unknown = json.dumps(json.dumps({"name": name, "of": "a later version"}))
    execute(
        storage,
        "UPDATE study_user_attributes SET value_json = :text WHERE study_id = :id AND key = 'spec'",
        text=unknown,
        id=study_id,
    )
    assert "changed after it was launched" in kdecay.run("status", name, code=2).stderr
    assert f"{name} is stopped" in kdecay.run("stop", name).stderr
    assert records.read_stages(storage, name)[1].attributes[attributes.STOPPED] is True
    kdecay.run("delete", name, "--yes")
