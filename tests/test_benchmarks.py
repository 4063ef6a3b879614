"""The recorder and the replayer of recorded curves, small."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy

from benchmarks import curves as curve_files
from benchmarks import history, honesty, levels, past, pruning, record
from benchmarks.curves import Curves
from benchmarks.policies import POLICIES
from benchmarks.replay import Replay, study_spec
from kdecay_search.errors import DataError
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.file import load
from kdecay_search.tasks.simulated import curve
from kdecay_search.worker.trial import ClaimedTrial
from tests.support.memory_studies import study

KS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
EPOCHS = 12
KEYS = {"name", "workers", "near_best", "winner_kept", "epochs_share", "regret"}
NAMES = {"none", "ours"} | {
    f"{pruner}-{signal}"
    for pruner in ("median", "halving", "hyperband")
    for signal in ("raw", "averaged")
}


def table(seeds: int = 4, noise: float = 0.1, gain: float = 4.0) -> dict[str, Any]:
    """Curves on which large k wins clearly, and looks worse until the end on raw error."""
    random = np.random.default_rng(0)
    share = (np.arange(EPOCHS) + 1)[:, None] / EPOCHS
    good = gain * np.log(KS) / np.log(KS[-1])
    recorded = {}
    for seed in range(seeds):
        draws = random.normal(0, noise, (2, EPOCHS, len(KS)))
        averaged = 30 - good * share + draws[0]
        raw = averaged + 8 * (1 - share ** np.array(KS)) + draws[1]
        recorded[str(seed)] = {"averaged_1": averaged.tolist(), "raw": raw.tolist()}
    return {"seeds": recorded, "epochs": EPOCHS, "ks": list(KS), "source": "generated"}


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_table(**keys: Any) -> Path:
        file = tmp_path / "curves.json"
        file.write_text(json.dumps(table() | keys))
        return file

    return write_table


@pytest.fixture
def curves(write: Write) -> Curves:
    return curve_files.read(write())


def replayed(file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    options = ["--replays", "4", "--json", "--workers", "1,4", *more]
    assert pruning.main([str(file), *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["file"] == str(file)
    assert set(printed) == {"file", "policies"}
    rows: list[dict[str, Any]] = printed["policies"]
    return rows


@pytest.mark.parametrize("labels", ["recorded", "reversed"])
def test_the_replay_finds_the_winner_at_both_ends_and_saves_epochs(
    labels: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = replayed(write(), capsys, "--labels", labels)
    assert all(set(row) == KEYS for row in rows)
    assert {row["name"] for row in rows} == NAMES
    assert [row["workers"] for row in rows if row["name"] == "ours"] == [1, 4]
    for row in rows:
        assert 0 < row["epochs_share"] <= 1
        assert row["regret"] >= 0
        if row["name"] == "none":
            assert (row["epochs_share"], row["winner_kept"]) == (1, 1)
        if row["name"] in ("none", "ours"):
            assert (row["near_best"], row["regret"]) == (1, 0)
        if row["name"] == "ours":
            assert row["winner_kept"] == 1
            assert row["epochs_share"] < 0.65


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_run_is_accounted_for(policy: pruning.Policy, curves: Curves) -> None:
    scenario = pruning.draw_scenario(4, 3, (0, 0), np.random.default_rng(0))
    spec = study_spec(curves, len(scenario.seeds), policy.prunes)
    outcome = Replay(curves, scenario, spec, policy.judge(spec, "replay")).run()
    assert outcome.runs == len(KS) * len(scenario.seeds)
    assert outcome.complete * EPOCHS <= outcome.epochs <= outcome.runs * EPOCHS
    if policy.name == "none":
        assert outcome.complete == outcome.runs
    assert bool(outcome.skipped) == policy.prunes


def test_the_same_seed_gives_the_same_figures(curves: Curves) -> None:
    ours = POLICIES[-1]
    first, again, other = (pruning.measure(curves, ours, 4, 3, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_few_recorded_seeds_are_all_used(seeds: int, write: Write) -> None:
    few = curve_files.read(write(**table(seeds)))
    scenario = pruning.draw_scenario(seeds, 1, (0,), np.random.default_rng(0))
    assert sorted(scenario.seeds) == list(range(seeds))
    row = pruning.measure(few, POLICIES[0], 2, 2, 0)
    assert row.epochs_share == 1


def test_files_in_another_order_and_without_k_1_are_read(curves: Curves, write: Write) -> None:
    mixed = table()
    mixed["ks"] = [4 * k for k in KS[::-1]]
    for seed in mixed["seeds"].values():
        for name in ("raw", "averaged_1"):
            seed[name] = np.array(seed[name])[:, ::-1].tolist()
    turned = curve_files.read(write(**mixed))
    assert turned.ks == tuple(4 * k for k in KS)
    assert (turned.raw == curves.raw).all()
    ours = POLICIES[-1]
    assert pruning.measure(turned, ours, 4, 3, 0) == pruning.measure(curves, ours, 4, 3, 0)


def test_the_window_nearest_to_the_package_s_own_is_used_unless_another_is_asked_for(
    write: Write,
) -> None:
    several = table(2)
    for seed in several["seeds"].values():
        for name in ("averaged_0.25", "averaged_8", "averaged_T30"):
            seed[name] = seed["averaged_1"]
        seed["averaged_1.5"] = seed.pop("averaged_1")
    file = write(**several)
    assert curve_files.read(file).window == "1.5"
    assert curve_files.read(file, "T30").window == "T30"
    with pytest.raises(DataError, match=r"no averaged_3 in every seed; there are \["):
        curve_files.read(file, "3")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ks": None}, "is not a file of recorded curves"),
        ({"ks": [1, 1, 2, 3, 4, 5]}, "must be two different candidates or more"),
        ({"ks": [0, 1, 2, 3, 4, 5]}, "must lie between 0.001 and 1000"),
        ({"ks": [1, 2]}, "must be 12 rows (epochs) of 2 (ks), not of shape (12, 6)"),
        ({"epochs": 0}, "epochs = 0 must be a whole number from 1 on"),
        ({"epochs": 13}, "must be 13 rows"),
        ({"seeds": {}}, "seeds must be an object with one entry a seed"),
        ({"seeds": {"0": {"raw": [[1.0] * 6] * 12}}}, "'averaged_1' is missing"),
        ({"seeds": {"0": {"averaged_1": [[1.0] * 6] * 12}}}, "'raw' is missing"),
        (
            {"seeds": {"0": {"averaged_1": [[1.0] * 6] * 12, "raw": [[None] * 6] * 12}}},
            "seed 0, raw: holds values that are missing or not finite",
        ),
        ({"seeds": [1]}, "seeds must be an object"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(
    keys: dict[str, Any], message: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pruning.main([str(write(**keys))]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "no JSON", "[1, 2]", "\x00"])
def test_a_file_of_something_else_is_one_line_and_exit_code_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    assert pruning.main([str(file)]) == 2
    assert pruning.main([str(tmp_path / "none.json")]) == 2
    assert pruning.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_the_table_names_every_policy(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert pruning.main([str(write()), "--replays", "1", "--workers", "2"]) == 0
    printed = capsys.readouterr()
    assert all(name in printed.out for name in NAMES)
    assert "ours, 2 workers" in printed.err


SIMULATED = """
name = "tiny"
[task]
kind = "simulated"
epochs = 6
[search]
k_max = 3.0
k_step = 1.0
"""


def test_recorded_curves_of_a_simulated_study_are_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_toml, out = tmp_path / "tiny.toml", tmp_path / "curves.json"
    study_toml.write_text(SIMULATED)
    assert record.main([str(study_toml), "--out", str(out), "--seeds", "2"]) == 0
    spec = load(study_toml)
    assert isinstance(spec.task, SimulatedTask)
    written = json.loads(out.read_text())
    assert written["ks"] == [1, 2, 3]
    assert written["epochs"] == 6
    assert written["source"]["study"] == "tiny"
    for seed in (0, 1):
        for column, k in enumerate(written["ks"]):
            epochs = curve(spec.task, [k], seed)
            of_run = written["seeds"][str(seed)]
            for name, attribute in (
                ("raw", "validation_error"),
                ("averaged_1", "averaged_error"),
                ("train_loss", "training_loss"),
            ):
                recorded = [row[column] for row in of_run[name]]
                assert recorded == [getattr(epoch, attribute) for epoch in epochs]
    capsys.readouterr()
    assert {row["name"] for row in replayed(out, capsys)} == NAMES


def test_a_recording_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_toml, out = tmp_path / "tiny.toml", tmp_path / "curves.json"
    study_toml.write_text(SIMULATED)
    command = [str(study_toml), "--out", str(out), "--seeds", "2"]
    assert record.main([*command, "--ks", "1,3"]) == 0
    assert capsys.readouterr().err.count("seed") == 4
    assert record.main(command) == 0
    assert capsys.readouterr().err.count("seed") == 2, "k = 2 alone was missing"
    whole = json.loads(out.read_text())
    for curves in whole["seeds"].values():
        for row in curves["raw"]:
            row[1] = None
    out.write_text(json.dumps(whole))
    assert pruning.main([str(out)]) == 2
    assert "missing or not finite" in capsys.readouterr().err
    assert record.main(command) == 0
    assert capsys.readouterr().err.count("seed") == 2, "those that the file had as null"
    assert record.main([*command, "--set", "task.epochs=7"]) == 2
    assert "was recorded with another task; give another --out" in capsys.readouterr().err


def test_a_recorded_training_is_the_workers_to_the_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from benchmarks.recording import BareRun
    from kdecay_search.training import trainer

    task = {
        "kind": "images",
        "epochs": 2,
        "batch_size": 32,
        "model": {"width": 4},
        "averaging_share": 0.5,
    }
    task["data"] = {"name": "digits", "subset": 320, "validation": 0.5}
    lines = [
        'name = "tiny"',
        "[task]",
        'kind = "images"',
        "epochs = 2",
        "batch_size = 32",
        "averaging_share = 0.5",
    ]
    lines += ["[task.model]", "width = 4", "[task.data]", 'name = "digits"']
    lines += ["subset = 320", "validation = 0.5"]
    study_toml, out = tmp_path / "tiny.toml", tmp_path / "curves.json"
    study_toml.write_text("\n".join(lines))
    command = [str(study_toml), "--out", str(out), "--ks", "1,3", "--seeds", "1"]
    assert record.main([*command, "--windows", "0.5,1", "--device", "cpu"]) == 0
    curves = json.loads(out.read_text())["seeds"]["0"]
    for column, k in enumerate((1.0, 3.0)):
        run = BareRun(study("tiny", task=task), (k,), 0, "cpu")
        trainer.train(run)
        for name, attribute in (
            ("raw", "validation_error"),
            ("averaged_1", "averaged_error"),
            ("train_loss", "training_loss"),
        ):
            recorded = [row[column] for row in curves[name]]
            assert recorded == [getattr(epoch, attribute) for epoch in run.epochs]
    assert curves["averaged_0.5"] != curves["averaged_1"]


def test_the_history_benchmark_measures_every_operation_in_both_sizes(storage: Storage) -> None:
    operations = history.measure(storage, [20, 40], repeats=2, epochs=4, fresh=1)
    names = {operation.name for operation in operations}
    assert {
        f"{name}, {kind}"
        for name in ("claim", "report", "finish", "reconcile", "first reconcile of a process")
        for kind in ("full grid", "allocated", "first seed")
    } <= names
    assert "report, pruner asked, first seed" in names
    told = json.loads(history.as_json([20, 40], operations))
    assert {"sizes", "operations", "machine", "versions"} <= told.keys()
    assert all(len(each["ms"]) == 2 and each["ratio"] > 0 for each in told["operations"])


def test_a_history_written_in_bulk_has_the_rows_that_a_worker_leaves(storage: Storage) -> None:
    spec, finished = past.full_grid(60, 1, EPOCHS)
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


def training_measured(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """The training benchmark's report of one turn of one update."""
    import torch

    from benchmarks import training

    threads = torch.get_num_threads()
    try:
        assert training.main(["--device=cpu", "--steps=1", "--turns=1", "--json", *options]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_training_benchmark_may_take_more_updates_than_an_epoch_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = training_measured(capsys, "--batch-size=1024", "--size=8")
    assert min(report["plain_images_per_second"], report["ours_images_per_second"]) > 0


def test_the_training_benchmark_measures_both_loops_and_the_device_s_limits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = training_measured(capsys, "--batch-size=8")
    assert (report["model"], report["batch_size"]) == ("resnet20", 8)
    plain, ours = report["plain_images_per_second"], report["ours_images_per_second"]
    assert report["ratio"] == pytest.approx(ours / plain)
    assert report["fp32_ratio"] <= report["ratio"]
    # 40.6 million multiply-adds forward (He et al. 2016), as much again for each of both gradients
    assert report["limits"]["flops_per_image"] == pytest.approx(3 * 2 * 40.6e6, rel=0.02)
    assert report["limits"]["bytes_per_image"] > 4 * 3 * 32 * 32


def test_the_honesty_benchmark_shows_that_the_search_flatters_and_fresh_seeds_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert honesty.main(["--studies", "20", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["studies"] == 20
    rows = {(row["search"], row["truth"], row["n"]): row for row in told["rows"]}
    assert rows.keys() == {
        (search, truth, n)
        for search in ("grid", "allocated")
        for truth in (0.0, 0.2, 0.5)
        for n in (5, 10)
    }
    for (search, truth, _), row in rows.items():
        assert row["search_bias"] > 0.1 > abs(row["bias"])
        assert row["coverage"] >= 0.8
        assert row["falsely_better"] <= 0.1
        assert 0.8 < row["noise_ratio"] < 1.2
        assert (row["found_truth"] > 0) == (truth > 0)
        assert (row["lowest_bias"] is None) == (search == "allocated")
    assert all(rows[s, 0.5, 10]["found_better"] > 0.6 for s in ("grid", "allocated"))
    assert rows["grid", 0.0, 5]["search_falsely_better"] == rows["grid", 0.0, 5]["search_better"]


def test_the_levels_benchmark_compares_the_search_with_the_full_grid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(levels, "TRUTHS", dict([next(iter(levels.TRUTHS.items()))]))
    assert levels.main(["--studies", "3", "--workers", "2", "--json"]) == 0
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
