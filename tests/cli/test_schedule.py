"""``kdecay schedule``."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli.commands import Run, refusal


@pytest.mark.parametrize("total", [1, 1000])
def test_csv_has_a_row_for_every_update_and_the_end(run_kdecay: Run, total: int) -> None:
    result = run_kdecay("schedule", "--ks", "2", "--total", str(total), "--as", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [int(row["step"]) for row in rows] == list(range(total + 1))
    assert float(rows[0]["learning_rate"]) == 0.1
    assert float(rows[-1]["learning_rate"]) == 0.001


@pytest.mark.parametrize("family", ["polynomial", "cosine", "exponential"])
def test_json_has_exact_ends_and_its_parameters(run_kdecay: Run, family: str) -> None:
    arguments = ["--family", family, "--ks", "1.5,4", "--lr-max", "0.3", "--lr-min", "0.007"]
    result = run_kdecay("schedule", *arguments, "--total", "50", "--as", "json")
    printed = json.loads(result.stdout)
    rates = printed.pop("learning_rates")
    assert (len(rates), rates[0], rates[-1]) == (51, 0.3, 0.007)
    assert rates == sorted(rates, reverse=True)
    assert printed == {
        "family": family,
        "ks": [1.5, 4.0],
        "power": 1.0,
        "lr_max": 0.3,
        "lr_min": 0.007,
        "warmup": 0,
        "total": 50,
    }


def test_values_of_the_paper(run_kdecay: Run) -> None:
    result = run_kdecay("schedule", "--ks", "2", "--total", "10", "--as", "json")
    rates = json.loads(result.stdout)["learning_rates"]
    assert [round(rate, 5) for rate in rates[:4]] == [0.1, 0.09901, 0.09604, 0.09109]


def test_warm_up_rises_to_the_maximum(run_kdecay: Run) -> None:
    result = run_kdecay("schedule", "--warmup", "4", "--total", "10", "--as", "json")
    rates = json.loads(result.stdout)["learning_rates"]
    assert rates[:5] == sorted(rates[:5])
    assert (max(rates), rates.index(max(rates)), rates[-1]) == (0.1, 4, 0.001)


@pytest.mark.parametrize(("total", "rows"), [(5, 6), (5000, 21)])
def test_table_draws_the_decay(run_kdecay: Run, total: int, rows: int) -> None:
    result = run_kdecay("schedule", "--ks", "3", "--total", str(total))
    lines = result.stdout.splitlines()[1:]
    assert len(lines) == rows
    assert lines[0].split()[:2] == ["0", "0.1"]
    assert lines[-1].split() == [f"{total:,}", "0.001"]
    lengths = [line.count("█") for line in lines]
    assert (lengths[0], lengths[-1]) == (40, 0)
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ks", "two"], "--ks two: must be numbers"),
        (["--ks", "2,1"], "must strictly increase"),
        (["--ks", "nan"], "must be a finite number"),
        (["--lr-min", "1"], "must not be above lr_max=0.1"),
        (["--family", "cosine", "--power", "2"], "power=2.0 must be 1 in the cosine family"),
        (["--warmup", "9", "--total", "9"], "must be below total_steps=9"),
    ],
)
def test_impossible_schedule(run_kdecay: Run, arguments: list[str], message: str) -> None:
    assert message in refusal(run_kdecay("schedule", *arguments))
