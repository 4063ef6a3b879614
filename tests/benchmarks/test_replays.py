"""Replays of recorded curves, small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import curves as curve_files
from benchmarks import pruning
from benchmarks.curves import Curves
from benchmarks.policies import POLICIES
from benchmarks.replay import Replay, study_spec
from kdecay_search.errors import DataError
from kdecay_search.search.policy import POLICY
from tests.benchmarks.replays import NAMES, replayed

KS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
EPOCHS = 12
KEYS = {"name", "workers", "near_best", "winner_kept", "epochs_share", "regret"}


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
    outcome = Replay(curves, scenario, spec, policy.judge(spec, "replay", POLICY)).run()
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
