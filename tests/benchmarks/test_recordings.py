"""The recorder of curves, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import pruning, record
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.file import load
from kdecay_search.tasks.simulated import curve
from tests.benchmarks.replays import NAMES, replayed
from tests.support.memory_studies import study

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
