"""Whole studies that really train networks, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.storage import Storage, records
from kdecay_search.storage.attributes import CURVES
from kdecay_search.study.trials import State
from tests.support.kdecay_command import Kdecay, errors_by_run

DIGITS = str(Path(__file__).parents[2] / "studies" / "digits.toml")
TINY = ["task.epochs=2", "search.k_min=1", "search.k_max=2", "search.k_step=1", "search.k_cap=2",
        "search.seeds=2", "search.max_terms=1", "pruning.enabled=false",
        "confirm.seeds=0"]  # fmt: skip


def settings(*values: str) -> list[str]:
    return [part for value in (*TINY, *values) for part in ("--set", value)]


@pytest.fixture(scope="module")
def by_one(home: Path, storage_url: str) -> dict[str, Any]:
    """What a study named by-one found, whose networks one worker has trained."""
    return Kdecay(home).json("launch", DIGITS, "--workers", "1", *settings("name=by-one"))


def test_networks_trained_by_one_worker_or_two_have_identical_errors_run_by_run(
    kdecay: Kdecay, by_one: dict[str, Any]
) -> None:
    two = kdecay.json("launch", DIGITS, "--workers", "2", *settings("name=by-two"))
    assert errors_by_run(by_one) == errors_by_run(two)
    assert len(errors_by_run(by_one)) == 2 * 2
    assert len(set(errors_by_run(by_one).values())) > 1


def test_the_curves_are_kept_with_the_trial(by_one: dict[str, Any], storage: Storage) -> None:
    study_id = records.stage_ids(storage, by_one["study"])[1]
    trials = storage.optuna.get_all_trials(study_id)
    assert len(trials) == 2 * 2
    for trial in trials:
        curves = {name: trial.user_attrs[name] for name in CURVES}
        assert {len(values) for values in curves.values()} == {2}
        assert trial.value == curves["validation_error"][-1]
        assert trial.intermediate_values == dict(enumerate(curves["averaged_error"], start=1))
        assert all(0 <= error <= 100 for error in curves["validation_error"])


def test_a_shipped_study_runs_on_an_image_folder_by_set_alone(
    kdecay: Kdecay, tmp_path: Path
) -> None:
    root = tmp_path / "pictures"
    _write_pictures(root / "train")
    summary = kdecay.json(
        "launch", DIGITS, "--workers", "1",
        *settings("name=folder", "task.data.name=image-folder", f"task.data.root={root}",
                  "task.data.subset=60", "task.batch_size=16", "search.seeds=1"),
    )  # fmt: skip
    assert summary["state"] == "done"
    assert summary["trials"]["complete"] == 2


def test_a_diverged_run_is_a_result_and_not_a_failure(kdecay: Kdecay, storage: Storage) -> None:
    wild = ("name=wild", "schedule.lr_max=1e30", "search.seeds=1")
    launched = kdecay.run("launch", DIGITS, "--workers", "1", *settings(*wild), "--json", code=1)
    summary = json.loads(launched.stdout)
    assert (summary["failures"], errors_by_run(summary)) == ([], {})
    assert [c["diverged"] for c in summary["stages"][0]["candidates"]] == [1, 1]
    assert summary["verdict"]["sentence"] == "All complete runs have diverged."
    assert {t.state for t in records.read_trials(storage, "wild")} == {State.COMPLETE}


@pytest.mark.parametrize("trouble", ["subset=100000", "image_size=5000"])
def test_a_data_setting_that_cannot_be_met_is_one_line(kdecay: Kdecay, trouble: str) -> None:
    name = f"name=trouble-{trouble.partition('=')[0]}"
    failed = kdecay.run(
        "launch", DIGITS, "--workers", "1", *settings(name, f"task.data.{trouble}"), code=2
    )
    assert failed.stderr.strip().splitlines()[-1].startswith("kdecay: ")
    assert trouble.partition("=")[2] in failed.stderr
    assert "Traceback" not in failed.stderr


def _write_pictures(train: Path) -> None:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for label, brightness in (("dark", 60), ("light", 190)):
        folder = train / label
        folder.mkdir(parents=True)
        for index in range(40):
            pixels = random.integers(brightness - 50, brightness + 50, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
