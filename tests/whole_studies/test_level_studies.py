"""Studies that search the level of the LR, with the real command, workers and database."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest

from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import State
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.wait import wait_for

LEVELS = [0.1, 0.135, 0.2]
SETTINGS = {
    "search__lr_max": LEVELS,
    "search__k_step": 1.0,
    "search__k_cap": 3.0,
    "task__surface__best_ks": [3.0],
    "task__surface__best_lr_max": 0.1,
}


def errors_by_pair(summary: dict[str, Any]) -> dict[tuple[int, float, float], list[float]]:
    return {
        (stage["n"], candidate["k"], candidate["lr_max"]): candidate["errors"]
        for stage in summary["stages"]
        for candidate in stage["candidates"]
    }


def test_a_search_over_levels_is_told_wherever_the_study_is_shown(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, name="levels", confirm__seeds=3, **SETTINGS)
    checked = kdecay.run("check", file).stdout
    assert "with the first term at each lr_max of 0.1, 0.135, 0.2" in " ".join(checked.split())
    row = next(line for line in checked.splitlines() if line.split()[:1] == ["1"])
    assert row.split() == ["1", "9", "2", "18", "72"]

    found = kdecay.json("launch", file, "--workers", "2")
    assert (found["schedule"]["ks"], found["schedule"]["lr_max"]) == ([3.0], 0.1)
    assert (found["baseline"]["ks"], found["baseline"]["lr_max"]) == ([1.0], 0.135)
    rows = {row["schedule"]: row["lr_max"] for row in found["confirm"]["rows"]}
    assert (rows["found"], rows["original"]) == (0.1, 0.135)
    assert rows["area-matched"] == pytest.approx(0.1495)

    text = " ".join(kdecay.run("status", "levels").stdout.split())
    assert "stage 1: k1 and lr_max keeps k = 3 at lr_max 0.1" in text
    assert "k = 1 was tried at the same levels as the others, lr_max 0.1, 0.135 and 0.2" in text
    assert "it is best at 0.135. For k = 3, 0.1 is the lowest level of all" in text
    assert "original, k = 1, lr_max 0.135" in text
    assert "k = 3 at lr_max" in kdecay.run("list").stdout

    best = json.loads(kdecay.run("best", "levels").stdout)
    assert best["schedule"]["lr_max"] == 0.1
    source: dict[str, Any] = {}
    exec(kdecay.run("best", "levels", "--as", "python", "--total-steps", "10").stdout, source)
    assert source["learning_rate"](0) == 0.1
    html = Path(kdecay.run("report", "levels", "--out", str(tmp_path)).stdout.strip()).read_text()
    assert "k\u00a0=\u00a01 was tried at the same levels" in html
    assert '<th class="right">lr_max</th>' in html
    assert "smooth curve at k = %{x:.3~g}, lr_max 0.135" in html
    plan = kdecay.json("plan", "levels", "--difference", "0.5")
    assert plan["noise"]["degrees_of_freedom"] == 8  # nine pairs on two seeds

    stage = optuna.load_study(study_name="levels/k1", storage=storage.rdb)
    shown = Counter((t.params["k"], t.params["lr_max"]) for t in stage.get_trials())
    assert shown == {(k, level): 2 for k in (1.0, 2.0, 3.0) for level in LEVELS}
    assert stage.user_attrs["best_lr_max"] == 0.1
    kdecay.run("publish", "levels")
    assert "| k1 | lr_max | mean error, % |" in optuna_dashboard.get_note(stage)


def test_a_study_without_levels_is_told_as_ever(kdecay: Kdecay, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="no-levels", confirm__seeds=2, search__k_step=1.0)
    found = kdecay.json("launch", file, "--workers", "1")
    assert found["schedule"]["lr_max"] == 0.1
    rest = json.dumps({key: value for key, value in found.items() if key != "schedule"})
    assert "lr_max" not in rest
    assert "lr_max" not in kdecay.run("status", "no-levels").stdout


def test_a_study_over_levels_that_is_killed_and_resumed_has_the_same_results(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "pruning__enabled": True, "search__max_terms": 2, "task__epochs": 6}
    undisturbed = simulated_study(tmp_path, name="whole", **settings)
    expected = kdecay.json("launch", undisturbed, "--workers", "1")
    file = simulated_study(
        tmp_path, name="torn", task__epoch_seconds=0.05, workers__grace_seconds=3.0, **settings
    )
    kdecay.run("launch", file, "--detach", "--workers", "0")
    for number in (signal.SIGKILL, signal.SIGTERM):
        worker = kdecay.start("worker", "--drain", "--study", "torn")
        before = ended(storage, "torn")
        wait_for(
            lambda before=before: ended(storage, "torn") >= before + 3,
            "the end of three runs",
        )
        worker.send_signal(number)
        worker.communicate(timeout=240)
    kdecay.run("worker", "--drain", "--study", "torn")
    found = kdecay.json("status", "torn")
    assert found["state"] == "done"
    assert found["schedule"] == expected["schedule"]
    assert found["baseline"] == expected["baseline"]
    torn, whole = errors_by_pair(found), errors_by_pair(expected)
    assert torn.keys() == whole.keys()
    shared = [key for key in whole if torn[key] and whole[key]]
    assert all(torn[key][0] == whole[key][0] for key in shared)
    served = Counter(t.key for t in records.read_trials(storage, "torn") if t.state != State.FAILED)
    assert set(served.values()) == {1}


def ended(storage: Storage, name: str) -> int:
    return sum(
        t.state in (State.COMPLETE, State.PRUNED) for t in records.read_trials(storage, name)
    )


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_chooses_k_and_level(
    kdecay: Kdecay, storage: Storage, tmp_path: Path, sampler: str
) -> None:
    name = f"levels-{sampler}"
    file = simulated_study(tmp_path, name=name, search__sampler=sampler, search__trials=7,
                           search__max_terms=2, **SETTINGS)  # fmt: skip
    found = kdecay.json("launch", file, "--workers", "2")
    first = found["stages"][0]["candidates"]
    assert sorted(c["lr_max"] for c in first if c["k"] == 1.0) == LEVELS
    assert len(first) == 7
    assert {c["lr_max"] for c in first} == set(LEVELS)
    assert all(len(c["errors"]) == 2 for c in first)
    later = [c for stage in found["stages"][1:] for c in stage["candidates"]]
    assert {c["lr_max"] for c in later} <= {found["schedule"]["lr_max"]}
    stage = optuna.load_study(study_name=f"{name}/k1", storage=storage.rdb)
    assert {t.params["lr_max"] for t in stage.get_trials()} == set(LEVELS)
