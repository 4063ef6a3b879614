"""The other benchmarks, small: history, training, honesty, levels, coordination."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy

from benchmarks import history, honesty, levels, own_runs, past
from kdecay_search.storage import Storage, queue, records
from kdecay_search.tasks.simulated import curve
from kdecay_search.worker.trial import ClaimedTrial


def test_the_history_benchmark_measures_every_operation_in_both_sizes(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = history.measure(storage, [20, 40], repeats=1, epochs=4, fresh=0)
    names = {operation.name for operation in operations}
    assert {
        f"{name}, {kind}"
        for name in ("claim", "report", "finish or pause", "reconcile")
        for kind in ("full grid", "allocated", "first seed")
    } <= names
    assert "report at a look, first seed" in names
    monkeypatch.setattr(history, "KINDS", {"full grid": history.full_grid})
    operations += history.measure(storage, [20, 40], repeats=1, epochs=4, fresh=1)
    assert "first reconcile of a process, full grid" in {each.name for each in operations}
    told = json.loads(history.as_json([20, 40], operations))
    assert {"sizes", "operations", "machine", "versions"} <= told.keys()
    assert all(len(each["ms"]) == 2 and each["ratio"] > 0 for each in told["operations"])


def test_a_history_written_in_bulk_has_the_rows_that_a_worker_leaves(storage: Storage) -> None:
    spec, finished = past.full_grid(60, 1, 12)
    past.write(storage, spec, finished)
    claim = queue.claim(storage, spec.name, "node-1:4242:cuda:0")
    assert claim is not None
    trial = ClaimedTrial(storage, spec, claim)
    epochs = curve(spec.task, (trial.candidate.k,), claim.request.key.seed)
    for epoch in epochs:
        trial.report(epoch)
    trial.complete(epochs)
    written = records.read_trials(storage, spec.name)[claim.request.key.candidate]
    assert written.key.candidate == claim.request.key.candidate
    assert rows_of(storage, written.trial_id) == rows_of(storage, claim.trial_id)


def rows_of(storage: Storage, trial_id: int) -> dict[str, list[Any]]:
    """What there is of a trial, table by table: keys and steps; of numbers only that they are."""
    columns = {
        "trials": "state, datetime_start IS NULL, datetime_complete IS NULL",
        "trial_params": "param_name, param_value, distribution_json",
        "trial_user_attributes": "key, json_typeof(value_json::json), json_array_length(CASE "
        "WHEN left(value_json, 1) = '[' THEN value_json::json ELSE '[]' END)",
        "trial_system_attributes": "key, value_json",
        "trial_values": "objective, value IS NULL, value_type",
        "trial_intermediate_values": "step, intermediate_value IS NULL, intermediate_value_type",
        "trial_heartbeats": "heartbeat IS NULL",
    }
    with storage.engine.connect() as connection:
        return {
            table: sorted(
                map(
                    tuple,
                    connection.execute(
                        sqlalchemy.text(f"SELECT {shown} FROM {table} WHERE trial_id = :trial_id"),
                        {"trial_id": trial_id},
                    ),
                )
            )
            for table, shown in columns.items()
        }


@pytest.fixture
def one_core() -> Iterator[None]:
    """One core for this process and those that it starts: the threads of a loop on all cores wait
    for each other for long where other tests use them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(before))})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_core")
def test_the_training_benchmark_measures_both_loops_and_the_device_s_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes more updates, ten in two turns, than an epoch of four batches has."""
    import torch

    from benchmarks import limits, training

    monkeypatch.setattr(limits, "MATRIX", {"cpu": 64})
    monkeypatch.setattr(limits, "COPIED_BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(training, "has_bfloat16", lambda device: False)  # a process less
    threads = torch.get_num_threads()
    options = ["--device=cpu", "--batch-size=2", "--images=8", "--steps=1", "--turns=1", "--json"]
    try:
        assert training.main(options) == 0
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["batch_size"]) == ("resnet20", 2)
    plain, ours = report["plain_images_per_second"], report["ours_images_per_second"]
    assert min(plain, ours) > 0
    assert report["ratio"] == pytest.approx(ours / plain)
    assert report["fp32_ratio"] <= report["ratio"]
    # 40.6 million multiply-adds forward (He et al. 2016), as much again for each of both gradients
    assert report["limits"]["flops_per_image"] == pytest.approx(3 * 2 * 40.6e6, rel=0.02)
    assert report["limits"]["bytes_per_image"] > 4 * 3 * 32 * 32


def test_the_training_benchmark_compares_runs_together_with_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import training

    options = ["--fuse=2", "--model=quick-start", "--batch-size=4", "--images=8", "--size=8"]
    loop = training.setting_of(training.parser().parse_args([*options, "--device=cpu"])).fused(2)
    for _ in range(3):  # more updates than an epoch has
        loop.step()
    assert [member.step for member in loop._members] == [3, 3]
    times = {"fp32": 0.003, "2": 0.004}
    monkeypatch.setattr(training, "update_seconds", lambda names, _: {n: times[n] for n in names})
    assert training.main([*options, "--json"]) == 0
    [fused] = json.loads(capsys.readouterr().out)["fused"]
    assert fused == {"runs": 2, "ms_per_run": pytest.approx(2.0), "ratio": pytest.approx(1.5)}


def test_the_honesty_benchmark_shows_that_the_search_flatters_and_fresh_seeds_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(honesty, "WORLDS", honesty.WORLDS[:1])
    assert honesty.main(["--studies", "20", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["studies"] == 20
    rows = {(row["search"], row["truth"], row["n"]): row for row in told["rows"]}
    assert rows.keys() == {
        (search, truth, n)
        for search in ("grid", "allocated")
        for truth in honesty.TRUTHS
        for n in (5, 10)
    }
    for (search, truth, _), row in rows.items():
        assert row["search_bias"] > 0.5 > abs(row["bias"])
        assert row["coverage"] >= 0.8
        assert row["falsely_better"] <= 0.1
        assert 0.8 < row["noise_ratio"] < 1.2
        assert (row["found_truth"] > 0) == (truth > 0)
        assert (row["lowest_bias"] is None) == (search == "allocated")
    assert all(rows[s, honesty.TRUTHS[-1], 10]["found_better"] > 0.6 for s in ("grid", "allocated"))
    assert rows["grid", 0.0, 5]["search_falsely_better"] == rows["grid", 0.0, 5]["search_better"]


def test_the_levels_benchmark_compares_the_search_with_the_full_grid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(levels, "TRUTHS", dict([next(iter(levels.TRUTHS.items()))]))
    monkeypatch.setattr(levels, "KS", (1.0, 2.0, 3.0, 5.0, 10.0))
    assert levels.main(["--studies", "1", "--workers", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {(row["levels"], row["policy"]): row for row in told["rows"]}
    assert rows.keys() == {(s, p) for s in levels.SPACINGS for p in levels.POLICIES}
    for (_, policy), row in rows.items():
        assert (row["epochs"] == 1.0) == (policy == "none")
        assert row["near"] >= row["right"]
        assert 0 <= row["regret"] < 1
    assert rows["1 : 2 : 4", "none"]["baseline_runs"] == 9
    assert rows["1 : 2 : 4", "ours"]["baseline_runs"] < 9
    assert rows["1 : 2 : 4", "ours"]["epochs"] < 0.5
    assert rows["1 : 2 : 4", "ours"]["right_level"] == 1.0


def test_a_simulated_study_is_confirmed_on_seeds_that_the_search_did_not_use() -> None:
    used = []

    def error(k: float, seed: int) -> float:
        used.append(seed)
        return 8 - honesty.true_gain(0.5, k)

    spec = honesty.study_spec(prunes=False)
    assert honesty.search(spec, error).incumbent.ks == (2.0,)
    searched = set(used)
    used.clear()
    found = honesty.confirm(error, 2.0, 5)
    assert searched.isdisjoint(used)
    assert (found.n, found.difference) == (5, 0.5)


SMALL_COORDINATION = """
import sys
from benchmarks import coordination
coordination.FEWEST_TRIALS = 6
sys.exit(coordination.main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("own_folder")
def test_the_benchmark_of_own_runs_trains_them_both_ways(storage: Storage) -> None:
    rows = [own_runs.measure(storage, "csv", forked, 2, 0.0) for forked in (True, False)]
    assert [(row.forked, row.runs) for row in rows] == [(True, 2), (False, 2)]
    assert all(row.first > 0 < row.later for row in rows)


def test_the_coordination_benchmark_counts_statements_and_finishes_every_trial() -> None:
    arguments = ["--workers", "2", "--epochs", "4", "--epoch-seconds", "0.05", "--json"]
    command = [sys.executable, "-c", SMALL_COORDINATION, *arguments]
    said = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert said.returncode == 0, said.stderr
    rows = json.loads(said.stdout)["rows"]
    assert [(row["system"], row["workers"]) for row in rows] == [("kdecay", 2), ("optuna", 2)]
    for row in rows:
        assert 0 < row["lost_share"] < 1
        assert row["trials_per_second"] > 0
    ours, plain = (row["statements_per_epoch"] for row in rows)
    assert 1 < ours < plain
