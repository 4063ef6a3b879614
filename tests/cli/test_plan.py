"""``kdecay plan``: how many seeds a difference takes, and how long a study."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.statistics import pooled_noise, seeds_needed
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.file import load
from tests.support.kdecay_command import Kdecay, simulated_study

ROOT = Path(__file__).parents[2]
LOSSES = """
name = "losses"
[task]
kind = "python"
entry = "mine:train"
steps = 2000
report_every = 500
metric = { name = "validation loss", unit = "nats" }
"""
DIGITS = str(ROOT / "studies" / "digits.toml")


def launched(storage: Storage, folder: Path, name: str, runs: int) -> str:
    """Launch a study and complete its first ``runs`` runs with random errors; return its file."""
    generator = random.Random(name)
    file = simulated_study(folder, name=name, search__seeds=4)
    reconcile.launch(storage, load(file))
    reconcile.reconcile(storage, name)
    for _ in range(runs):
        claim = queue.claim(storage, name, "me")
        assert claim is not None
        queue.complete(storage, claim.trial_id, 8 + generator.gauss(0, 0.3))
    return file


def test_noise_of_a_study_and_the_seeds_it_takes(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    file = launched(storage, tmp_path, "planned", runs=18)
    printed = kdecay.json("plan", "planned", "--difference", "0.3")
    stage = kdecay.json("status", "planned")["stages"][0]
    errors = [dict(zip(c["seeds"], c["errors"], strict=True)) for c in stage["candidates"]]
    expected = pooled_noise(errors)
    assert printed["noise"]["sd"] == pytest.approx(expected.sd)
    assert printed["noise"]["interval"] == pytest.approx(expected.interval)
    assert printed["noise"]["degrees_of_freedom"] == 10, (
        "18 runs minus 5 schedules, minus 4 seeds, plus 1"
    )
    assert [row["difference"] for row in printed["rows"]] == [0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    wanted = next(row for row in printed["rows"] if row["wanted"])
    low, high = expected.interval
    assert wanted == {
        "difference": 0.3,
        "wanted": True,
        "seeds": seeds_needed(expected.sd, 0.3),
        "seeds_interval": [seeds_needed(low, 0.3), seeds_needed(high, 0.3)],
        "runs": wanted["seeds"],
        "epochs": 4 * wanted["seeds"],
    }
    assert kdecay.json("plan", file, "--difference", "0.3") == printed
    text = kdecay.run("plan", "planned").stdout
    assert f"{expected.sd:.3g} points (sd; 95 % interval" in text
    assert f"{seeds_needed(expected.sd, 0.2)}" in text


def test_given_noise_with_a_file(kdecay: Kdecay) -> None:
    printed = kdecay.json("plan", DIGITS, "--noise", "1", "--difference", "0.8")
    assert printed["noise"] == {
        "sd": 1.0,
        "interval": None,
        "degrees_of_freedom": None,
        "measured": False,
    }
    wanted = next(row for row in printed["rows"] if row["wanted"])
    assert (wanted["seeds"], wanted["epochs"]) == (15, 15 * printed["epochs_per_run"])
    assert wanted["seeds_interval"] is None


def test_differences_of_any_other_metric_follow_its_noise(kdecay: Kdecay, tmp_path: Path) -> None:
    file = tmp_path / "losses.toml"
    file.write_text(LOSSES)
    printed = kdecay.json("plan", str(file), "--noise", "0.0041")
    assert printed["metric"] == {
        "name": "validation loss", "direction": "min", "unit": "nats", "decimals": 4,
    }  # fmt: skip
    assert [row["difference"] for row in printed["rows"]] == [0.0008, 0.002, 0.004, 0.008, 0.02]
    (wanted,) = [row for row in printed["rows"] if row["wanted"]]
    assert wanted["difference"] == 0.004
    assert printed["steps_per_run"] == 2000
    assert wanted["steps"] == 2000 * wanted["seeds"]
    text = kdecay.run("plan", str(file), "--noise", "0.0041", "--difference", "0.003").stdout
    assert "differ by noise of 0.0041 nats (sd, as given)" in text
    assert "points" not in text
    assert "epochs" not in text
    (line,) = [line for line in text.splitlines() if line.rstrip().endswith("wanted")]
    assert line.split()[0] == "0.003"


def test_one_seed_needs_a_given_noise(kdecay: Kdecay, storage: Storage, tmp_path: Path) -> None:
    launched(storage, tmp_path, "one-seed", runs=5)
    line = kdecay.run("plan", "one-seed", code=2).stderr
    assert line == (
        "kdecay: study 'one-seed' has too few complete runs to measure its noise: it takes "
        "two schedules that share two seeds; give it by --noise SD\n"
    )
    rows = kdecay.json("plan", "one-seed", "--noise", "0.5")["rows"]
    assert [row["seeds"] for row in rows] == [seeds_needed(0.5, row["difference"]) for row in rows]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nobody"], "no study named 'nobody'"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
        ([DIGITS, "--noise", "0"], "--noise 0: must be above 0, and finite"),
        ([DIGITS, "--noise", "nan"], "--noise nan: must be above 0"),
        ([DIGITS, "--difference", "-1"], "--difference -1: must be above 0"),
        ([DIGITS, "--difference", str(math.inf)], "--difference inf: must be above 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(kdecay: Kdecay, arguments: list[str], line: str) -> None:
    done = kdecay.run("plan", *arguments, code=2)
    assert done.stdout == ""
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_file_that_was_not_launched_needs_a_given_noise(kdecay: Kdecay, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="unlaunched")
    assert "'unlaunched' has not been launched" in kdecay.run("plan", file, code=2).stderr


def test_how_long_a_study_takes_on_some_workers(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    """5 exponents on 4 seeds without pruning: 20 runs, of which 1 has ended."""
    file = launched(storage, tmp_path, "forecast", runs=1)
    name = "forecast"
    before = kdecay.json("plan", str(ROOT / "studies" / "digits.toml"), "--workers", "4")
    assert before["forecast"]["seconds"] is None
    assert before["forecast"]["runs"] == before["budget"]["runs"]
    assert before["forecast"]["confirmation_runs"] == 5 * 12, "five schedules on twelve seeds"
    timed = records.read_stages(storage, name)[1].study_id
    with storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE trials SET datetime_start = datetime_complete - interval '3600 s' "
                "WHERE study_id = :study_id AND state = 'COMPLETE'"
            ),
            {"study_id": timed},
        )
        connection.execute(
            sqlalchemy.text(
                "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, "
                "intermediate_value_type) SELECT trial_id, step, 8, 'FINITE' "
                "FROM trials, generate_series(1, 4) AS step "
                "WHERE study_id = :study_id AND state = 'COMPLETE'"
            ),
            {"study_id": timed},
        )
    found = kdecay.json("plan", file, "--workers", "5")["forecast"]
    assert (found["runs"], found["confirmation_runs"]) == (19, 0)
    assert found["seconds_per_run"] == pytest.approx(3600)
    assert found["seconds"] == pytest.approx(4 * 3600)
    shown = kdecay.run("plan", name, "--workers", "19").stdout
    assert "noise is not known yet" in shown
    assert "At most 19 trainings of the search are left: about 60 min on 19 workers" in shown
