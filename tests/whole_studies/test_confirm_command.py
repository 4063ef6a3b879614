"""Confirming a study with the real command, workers and database."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import optuna_dashboard
from optuna.trial import TrialState
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import CONFIRMATION, State
from tests.support.kdecay_command import Kdecay, simulated_study

FILE = {"search__k_step": 1.0, "task__epochs": 2}
CURVED = {"task__surface": {"best_ks": [3.0], "curvature": 60.0, "run_noise": 0.05}}


def study_file(folder: Path, name: str, **settings: object) -> str:
    return simulated_study(folder, name=name, **FILE, **settings)


def test_a_study_file_s_confirmation_runs_by_itself_and_is_told_in_json_text_and_optuna(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    file = study_file(tmp_path, "confirmed", confirm__seeds=3, confirm__baselines=["cosine"])
    found = kdecay.json("launch", file, "--workers", "2")
    assert found["state"] == "done"
    said = found["confirm"]
    assert [row["schedule"] for row in said["rows"]] == [
        "found",
        "original",
        "area-matched",
        "cosine",
    ]
    assert said["verdict"] in ("better", "no detectable difference", "worse")
    assert said["n"] == 3
    assert said["interval"][0] < said["difference"] < said["interval"][1]
    assert said["seeds"] == [1000, 1001, 1002]
    assert all(len(row["errors"]) == 3 for row in said["rows"])
    logs = "".join(log.read_text() for log in (kdecay.home / "logs" / "confirmed").iterdir())
    assert logs.count("confirmation, area-matched, seed 1000: ") == 1
    text = kdecay.run("status", "confirmed").stdout
    assert "confirmation: test set, seeds 1000 to 1002" in text
    assert "on the test set, 3 fresh seeds," in " ".join(text.split())
    last = optuna.load_study(study_name="confirmed/confirm", storage=storage.rdb)
    trials = last.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
    assert {trial.params["schedule"] for trial in trials} == {
        row["schedule"] for row in said["rows"]
    }
    assert last.user_attrs["verdict"] == said["verdict"]
    kdecay.run("publish", "confirmed")
    note = optuna_dashboard.get_note(last)
    assert "### Confirmation of `confirmed`" in note
    assert "| found, k = " in note
    system = storage.rdb.get_study_system_attrs(last._study_id)
    assert list(get_plotly_graph_objects(system)) == ["differences"]
    page = Path(kdecay.run("report", "confirmed", "--out", str(tmp_path)).stdout.strip())
    html = page.read_text()
    assert "Confirmation on the test set" in html
    assert "the test set was not opened" not in html
    assert all(f"{row['mean']:.2f} ±" in html for row in said["rows"])


def test_a_study_that_is_done_can_be_confirmed_and_confirmed_again(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    file = study_file(tmp_path, "later")
    assert kdecay.json("launch", file, "--workers", "1")["confirm"] is None
    first = kdecay.json("confirm", "later", "--seeds", "3", "--workers", "1")["confirm"]
    assert first["seeds"] == [1000, 1001, 1002]
    assert kdecay.json("confirm", "later", "--workers", "1")["confirm"] == first
    refused = kdecay.run("confirm", "later", "--seeds", "5", code=2)
    assert "to add some after a look at the result is no test; --again" in refused.stderr
    assert kdecay.json("launch", file, "--workers", "1")["confirm"] == first
    again = kdecay.json("confirm", "later", "--again", "--seeds", "2", "--workers", "1")["confirm"]
    assert again["seeds"] == [1003, 1004]
    trials = [t for t in records.read_trials(storage, "later") if t.key.stage == CONFIRMATION]
    assert len(trials) == 3 * 3 + 3 * 2
    assert {t.state for t in trials} == {State.COMPLETE}


def test_wrong_confirmations_are_one_line(kdecay: Kdecay, tmp_path: Path) -> None:
    kdecay.run("launch", study_file(tmp_path, "wrong"), "--workers", "1")
    unknown = kdecay.run("confirm", "wrong", "--baseline", "cosin", code=2).stderr
    assert unknown.startswith("kdecay: study 'wrong': confirm.baselines")
    assert unknown.count("\n") == 1
    renamed = kdecay.run("confirm", "wrong", "--rival", "cosine", code=2).stderr
    assert renamed == "kdecay: --rival is now called --baseline\n"
    missing = kdecay.run("confirm", "nowhere", code=2).stderr
    assert "no study named 'nowhere'" in missing
    assert json.loads(kdecay.run("status", "wrong", "--json").stdout)["confirm"] is None


def test_check_counts_the_confirmation(kdecay: Kdecay, tmp_path: Path) -> None:
    said = kdecay.run("check", study_file(tmp_path, "counted", confirm__seeds=5)).stdout
    row = next(line for line in said.splitlines() if line.split()[:1] == ["confirm"])
    assert row.split() == ["confirm", "3", "5", "15", "30"]


def test_a_deleted_study_s_confirmation_is_deleted_with_it(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    kdecay.run("launch", study_file(tmp_path, "gone", confirm__seeds=2), "--workers", "1")
    kdecay.run("delete", "gone", "--yes")
    names = optuna.get_all_study_names(storage.optuna)
    assert not [name for name in names if name.startswith("gone/")]
