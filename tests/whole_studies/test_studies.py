"""Whole studies, through the command line, with real workers on a real Postgres."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.storage import Storage, records
from kdecay_search.storage.attributes import SPEC
from kdecay_search.study.trials import State
from tests.support.kdecay_command import (
    TIMEOUT_SECONDS,
    Kdecay,
    errors_by_run,
    simulated_study,
)
from tests.support.wait import wait_for


def outcomes(storage: Storage, name: str) -> Counter[tuple[int, int, int, State]]:
    trials = records.read_trials(storage, name)
    return Counter((t.key.stage, t.key.candidate, t.key.seed, t.state) for t in trials)


def running_trials(storage: Storage, name: str) -> list[Any]:
    return [t for t in records.read_trials(storage, name) if t.state == State.RUNNING]


def test_launching_twice_starts_no_trial_and_prints_the_same_result(
    kdecay: Kdecay, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, name="twice", search__max_terms=2)
    first = kdecay.run("launch", file, "--workers", "2", "--json")
    second = kdecay.run("launch", file, "--workers", "2", "--json")
    assert second.stdout == first.stdout
    summary = json.loads(first.stdout)
    assert summary["state"] == "done"
    assert summary["schedule"]["ks"][0] == 2.5
    assert summary["trials"] == {
        "waiting": 0,
        "running": 0,
        "paused": 0,
        "complete": summary["trials"]["complete"],
        "pruned": 0,
        "failed": 0,
        "skipped": 0,
    }
    assert summary["epochs"]["trained"] == 4 * summary["trials"]["complete"]


@pytest.fixture(scope="module")
def done(
    home: Path, storage_url: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """The file of a study that is done, named so, and what launching it printed."""
    file = simulated_study(tmp_path_factory.mktemp("done"), name="done")
    return file, Kdecay(home).json("launch", file, "--workers", "1")


def test_the_json_has_every_key_of_the_contract(
    kdecay: Kdecay, done: tuple[str, dict[str, Any]]
) -> None:
    _, summary = done
    assert summary == kdecay.json("status", "done")
    assert {"study", "state", "schedule", "error", "baseline", "stages", "trials", "epochs"} <= set(
        summary
    )
    assert {"family", "ks", "power", "lr_max", "lr_min"} <= set(summary["schedule"])
    assert summary["baseline"]["ks"] == [1.0]
    for sample in (summary["error"], summary["baseline"]):
        assert sample["n"] == 2
        assert sample["mean"] > 0 < sample["sd"]
    stage = summary["stages"][0]
    assert {"n", "state", "k", "kept", "candidates"} <= set(stage)
    assert [c["k"] for c in stage["candidates"]] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert all(
        {"k", "errors", "mean", "pruned", "failed"} <= set(c) and len(c["errors"]) == 2
        for c in stage["candidates"]
    )


def test_results_do_not_depend_on_the_study_s_name_or_the_number_of_workers(
    kdecay: Kdecay, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, search__max_terms=2)
    one = kdecay.json("launch", file, "--set", "name=one", "--workers", "1")
    three = kdecay.json("launch", file, "--set", "name=three", "--workers", "3")
    assert errors_by_run(one) == errors_by_run(three)
    assert one["schedule"] == three["schedule"]


def test_six_draining_workers_finish_every_one_of_sixty_runs_exactly_once(
    kdecay: Kdecay, tmp_path: Path, storage: Storage
) -> None:
    file = simulated_study(tmp_path, name="sixty", search__k_max=10.5, search__k_cap=10.5,
                           search__seeds=3, task__epochs=2)  # fmt: skip
    kdecay.run("launch", file, "--workers", "6")
    expected = {(1, i, seed, State.COMPLETE): 1 for i in range(20) for seed in range(3)}
    assert outcomes(storage, "sixty") == expected


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_samplers_run_exactly_their_number_of_trials_for_every_seed(
    kdecay: Kdecay, tmp_path: Path, storage: Storage, sampler: str
) -> None:
    file = simulated_study(tmp_path, name=sampler, search__sampler=sampler, search__trials=5)
    summary = kdecay.json("launch", file, "--workers", "2")
    assert summary["trials"]["complete"] == 5 * 2
    assert len(records.read_trials(storage, sampler)) == 5 * 2
    ks = [candidate["k"] for candidate in summary["stages"][0]["candidates"]]
    assert ks[0] == 1.0
    assert all(1.0 <= k <= 3.0 for k in ks)
    assert all(len(c["errors"]) == 2 for c in summary["stages"][0]["candidates"])


def test_a_random_search_draws_the_same_ks_however_many_workers_there_are(
    kdecay: Kdecay, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, search__sampler="random", search__trials=6)
    one = kdecay.json("launch", file, "--set", "name=r1", "--workers", "1")
    four = kdecay.json("launch", file, "--set", "name=r4", "--workers", "3")
    assert errors_by_run(one) == errors_by_run(four)
    assert len({k for _, k, _ in errors_by_run(one)}) == 6


def test_a_detached_study_goes_on_stage_after_stage_with_draining_workers_alone(
    kdecay: Kdecay, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, name="detached", search__max_terms=2)
    kdecay.run("launch", file, "--detach", "--workers", "0")
    assert kdecay.json("status", "detached")["state"] == "running"
    kdecay.run("worker", "--drain", "--study", "detached")
    summary = kdecay.json("status", "detached")
    assert summary["state"] == "done"
    assert [stage["n"] for stage in summary["stages"]] == [1, 2]


def test_detached_workers_outlive_the_session_that_launched_them(
    kdecay: Kdecay, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, name="outlived", task__epoch_seconds=0.2)
    launch = kdecay.start("launch", file, "--detach", "--workers", "2", start_new_session=True)
    launch.communicate(timeout=TIMEOUT_SECONDS)
    with pytest.raises(ProcessLookupError):
        os.killpg(launch.pid, signal.SIGHUP)  # nobody of that session is left to hang up on
    wait_for(lambda: kdecay.json("status", "outlived")["state"] == "done", "the end of the study")


def test_a_terminated_worker_puts_its_trial_back_without_using_up_an_attempt(
    kdecay: Kdecay, tmp_path: Path, storage: Storage
) -> None:
    file = simulated_study(tmp_path, name="put-back", task__epoch_seconds=0.5, task__epochs=100)
    kdecay.run("launch", file, "--detach", "--workers", "0")
    worker = kdecay.start("worker", "--drain", "--study", "put-back")
    wait_for(lambda: running_trials(storage, "put-back"), "a claim")
    worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=TIMEOUT_SECONDS)
    assert worker.returncode == 0, log
    states = Counter(trial.state for trial in records.read_trials(storage, "put-back"))
    assert set(states) == {State.WAITING}


def test_a_killed_worker_s_run_is_given_to_another_and_the_result_is_the_same(
    kdecay: Kdecay, tmp_path: Path, storage: Storage
) -> None:
    undisturbed = simulated_study(tmp_path, name="undisturbed")
    expected = errors_by_run(kdecay.json("launch", undisturbed, "--workers", "2"))
    file = simulated_study(
        tmp_path, name="killed", task__epoch_seconds=0.1, workers__grace_seconds=4.0
    )
    kdecay.run("launch", file, "--detach", "--workers", "0")
    victim = kdecay.start("worker", "--drain", "--study", "killed")
    held = wait_for(lambda: running_trials(storage, "killed"), "a claim")[0]
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    kdecay.run("worker", "--drain", "--study", "killed")
    summary = kdecay.json("status", "killed")
    assert errors_by_run(summary) == expected
    lost = [t for t in records.read_trials(storage, "killed") if t.state == State.FAILED]
    assert [(t.trial_id, t.reason) for t in lost] == [(held.trial_id, "lost")]


def test_ctrl_c_stops_launch_cleanly_and_the_same_command_goes_on(
    kdecay: Kdecay, tmp_path: Path, storage: Storage
) -> None:
    file = simulated_study(tmp_path, name="interrupted", task__epoch_seconds=0.4)
    launch = kdecay.start("launch", file, "--workers", "2", start_new_session=True)
    wait_for(lambda: running_trials(storage, "interrupted"), "a claim")
    os.killpg(launch.pid, signal.SIGINT)  # as a terminal does
    _, shown = launch.communicate(timeout=TIMEOUT_SECONDS)
    assert launch.returncode == 130
    assert f"Resume by: kdecay launch {file}" in shown
    assert "Traceback" not in shown
    states = {trial.state for trial in records.read_trials(storage, "interrupted")}
    assert states <= {State.WAITING, State.COMPLETE}
    summary = kdecay.json("launch", file, "--workers", "2", "--set", "workers.max_attempts=1")
    assert summary["state"] == "done"
    assert summary["trials"]["failed"] == 0


def test_a_stopped_study_releases_its_trials_and_launch_goes_on_with_it(
    kdecay: Kdecay, tmp_path: Path, storage: Storage
) -> None:
    file = simulated_study(tmp_path, name="stopped", task__epoch_seconds=0.2, task__epochs=6)
    kdecay.run("launch", file, "--detach", "--workers", "0")
    worker = kdecay.start("worker", "--drain", "--study", "stopped")
    wait_for(lambda: running_trials(storage, "stopped"), "a claim")
    kdecay.run("stop", "stopped")
    worker.communicate(timeout=TIMEOUT_SECONDS)
    assert worker.returncode == 0
    summary = kdecay.json("status", "stopped")
    assert summary["state"] == "stopped"
    assert summary["trials"]["running"] == summary["trials"]["failed"] == 0
    assert kdecay.json("launch", file, "--workers", "2")["state"] == "done"


def test_launching_a_changed_file_is_refused_and_says_what_differs(
    kdecay: Kdecay, done: tuple[str, dict[str, Any]]
) -> None:
    file, before = done
    refused = kdecay.run("launch", file, "--set", "task.epochs=5", code=2)
    assert "task.epochs: 4 -> 5" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert kdecay.json("status", "done") == before


def test_raising_max_terms_goes_on_where_the_study_ended(kdecay: Kdecay, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="longer")
    before = kdecay.json("launch", file, "--workers", "2")
    after = kdecay.json("launch", file, "--workers", "2", "--set", "search.max_terms=2")
    assert len(after["stages"]) == 2
    assert after["stages"][0] == before["stages"][0]


def test_studies_are_listed_printed_and_deleted(kdecay: Kdecay, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="listed")
    found = kdecay.json("launch", file, "--workers", "1")
    assert "listed" in kdecay.run("list").stdout
    best = json.loads(kdecay.run("best", "listed").stdout)
    assert best["schedule"] == found["schedule"]
    rows = kdecay.run("best", "listed", "--as", "csv", "--total-steps", "10").stdout.splitlines()
    assert rows[0] == "step,learning_rate"
    assert len(rows) == 12
    source = kdecay.run("best", "listed", "--as", "python").stdout
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    rates = [namespace["learning_rate"](step, 10) for step in range(11)]
    assert rates == [float(row.split(",")[1]) for row in rows[1:]]
    kdecay.run("delete", "listed", "--yes")
    assert "no study named 'listed'" in kdecay.run("status", "listed", code=2).stderr
    assert kdecay.run("delete", "listed", "--yes", code=2).stderr.count("\n") == 1


def test_a_study_of_another_version_is_listed_left_alone_and_can_be_deleted(
    alone: Kdecay, tmp_path: Path
) -> None:
    assert alone.url is not None
    storage = Storage(alone.url)
    study_id = records.create_stage(storage, "foreign", 1)
    records.write_attributes(storage, {study_id: {SPEC: '{"name": "foreign", "x": 1}'}})
    storage.close()
    assert "foreign: stored study: task: is missing" in alone.run("list").stderr
    file = simulated_study(tmp_path, name="native")
    alone.run("launch", file, "--detach", "--workers", "0")
    alone.run("worker", "--drain")
    assert alone.json("status", "native")["state"] == "done"
    assert "another version" in alone.run("worker", "--study", "foreign", code=2).stderr
    alone.run("delete", "foreign", "--yes")
    assert "foreign" not in alone.run("list").stderr


def test_a_worker_of_all_studies_leaves_one_that_it_cannot_serve_and_serves_the_others(
    alone: Kdecay, tmp_path: Path
) -> None:
    unfit = tmp_path / "unfit.toml"
    unfit.write_text(
        'name = "unfit"\n[task]\nkind = "images"\nepochs = 1\n'
        '[task.data]\nname = "digits"\nsubset = 100000\n'
    )
    alone.run("launch", str(unfit), "--detach", "--workers", "0")
    file = simulated_study(tmp_path, name="fit")
    alone.run("launch", file, "--detach", "--workers", "0")
    log = alone.run("worker", "--drain").stderr
    assert "unfit cannot be served here: task.data.subset = 100000" in log
    assert alone.json("status", "fit")["state"] == "done"
    assert alone.json("status", "unfit")["trials"]["failed"] == 0


def test_pruning_ends_runs_early_but_never_the_baseline(kdecay: Kdecay, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="pruned", pruning__enabled=True, task__epochs=10,
                           search__k_max=6.0, search__k_cap=6.0)  # fmt: skip
    summary = kdecay.json("launch", file, "--workers", "1")
    baseline = summary["stages"][0]["candidates"][0]
    assert (baseline["k"], len(baseline["errors"]), baseline["pruned"]) == (1.0, 2, 0)
    assert summary["trials"]["pruned"] > 0
    assert summary["epochs"]["trained"] < summary["epochs"]["planned"]


def test_launch_reports_the_reason_when_no_worker_can_do_the_work(
    kdecay: Kdecay, tmp_path: Path
) -> None:
    empty = tmp_path / "no-classes"
    empty.mkdir()
    file = tmp_path / "images.toml"
    file.write_text(
        'name = "hopeless"\n[task]\nkind = "images"\nepochs = 1\n'
        f'[task.data]\nname = "image-folder"\nroot = "{empty}"\n'
    )
    failed = kdecay.run("launch", str(file), "--workers", "1", code=2)
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("kdecay: no local worker is left: ")
    assert str(empty) in last


def test_the_embedded_server_stops_when_its_last_user_ends(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("kd")
    own = Kdecay(home)
    assert "no studies yet" in own.run("list").stdout
    wait_for(lambda: not (home / "postgres" / "postmaster.pid").exists(), "the server's end")
    worker = own.start("worker")
    wait_for((home / "postgres" / "postmaster.pid").exists, "the server's start")
    own.run("list")
    assert (home / "postgres" / "postmaster.pid").exists()
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=TIMEOUT_SECONDS)
    wait_for(lambda: not (home / "postgres" / "postmaster.pid").exists(), "the server's end")


def test_launch_leaves_no_process_behind(kdecay: Kdecay, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="tidy")
    launch = kdecay.start("launch", file, "--workers", "3", "--json", start_new_session=True)
    launch.communicate(timeout=TIMEOUT_SECONDS)
    listed = subprocess.run(["ps", "-s", str(launch.pid), "-o", "pid="], capture_output=True,
                            text=True, check=False)  # fmt: skip
    assert listed.stdout.strip() == ""
