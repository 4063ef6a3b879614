"""Python source and CSV: executed or read back, they give the same bits as the schedule."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules import export
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import Sgdr
from kdecay_search.schedules.export import kdecay_python_source, schedule_csv
from kdecay_search.schedules.kdecay import KDecaySchedule
from tests.support.exports import MOST_WARMUP, all_rates, executed, schedules

EVERY_SOURCE = [value for name, value in vars(export).items() if name.endswith("_source")]


@settings(max_examples=100)
@given(schedules(), st.integers(MOST_WARMUP + 1, 300), st.booleans())
def test_the_source_gives_the_same_bits_as_the_schedule_at_every_step(
    schedule: Schedule, total: int, filled_in: bool
) -> None:
    source = kdecay_python_source(schedule, total if filled_in else None)
    learning_rate = executed(source)["learning_rate"]
    length = () if filled_in else (total,)
    wanted = all_rates(schedule, total)
    assert [learning_rate(step, *length) for step in range(total + 1)] == wanted
    assert {learning_rate(step, *length) for step in (-total, -1)} == {wanted[0]}
    beyond = {learning_rate(step, *length) for step in (total + 1, 3 * total, 10**9)}
    assert beyond == {wanted[-1]}, "the last rate stays"


@settings(max_examples=30)
@given(schedules(), st.integers(10**5, 10**7), st.data())
def test_the_source_gives_the_same_bits_in_a_long_training(
    schedule: Schedule, total: int, data: st.DataObject
) -> None:
    learning_rate = executed(kdecay_python_source(schedule))["learning_rate"]
    inside = data.draw(st.lists(st.integers(0, total), max_size=20))
    for step in (*range(22), *inside, total - 1, total):
        assert learning_rate(step, total) == schedule(step, total)


def test_no_rate_is_negative_beyond_the_last_step() -> None:
    learning_rate = executed(kdecay_python_source(KDecaySchedule(ks=(6.0,), lr_min=0.0)))
    assert [learning_rate["learning_rate"](step, 100) for step in (100, 101, 150)] == [0.0] * 3


@pytest.mark.parametrize(
    ("total", "reason"),
    [
        (0, "total_steps=0 must be 1 or more"),
        (2.5, r"total_steps=2\.5 must be a whole number; count optimizer updates"),
        (True, "total_steps=True must be a whole number"),
        (5, "warmup_steps=5 must be below total_steps=5; shorten the warm-up"),
    ],
)
def test_a_number_of_updates_that_does_not_fit_is_refused_in_one_line(
    total: Any, reason: str
) -> None:
    schedule = KDecaySchedule(ks=(2.0,), warmup_steps=5)
    for source in EVERY_SOURCE:
        with pytest.raises(InvalidSchedule, match=reason) as refused:
            source(schedule, total)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_source_has_the_power_of_the_polynomial(power: float) -> None:
    schedule = KDecaySchedule(ks=(1.0, 2.5), power=power)
    learning_rate = executed(kdecay_python_source(schedule))["learning_rate"]
    assert all(learning_rate(t, 100) == schedule(t, 100) for t in range(101))


def test_the_source_is_short_cites_the_paper_and_runs_alone() -> None:
    source = kdecay_python_source(KDecaySchedule("cosine", (1.0, 3.5), warmup_steps=5))
    widest, most_lines = 100, 18
    assert len(source.splitlines()) <= most_lines
    assert "arXiv:2004.05909" in source
    assert "Cosine schedule with k = 1, 3.5, from 0.1 to 0.001" in source
    assert max(len(line) for line in source.splitlines()) <= widest
    run = [sys.executable, "-I", "-c", source + "print(learning_rate(105, 105))"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "0.001\n"


@pytest.mark.parametrize("schedule", [KDecaySchedule(ks=(2.0,), warmup_steps=3), Sgdr()])
def test_the_table_has_every_step_to_the_bit(schedule: Any) -> None:
    text = schedule_csv(schedule, 70)
    assert text.startswith("step,learning_rate\n0,")
    assert text.endswith("\n70,0.001\n")
    rows = [(int(r["step"]), float(r["learning_rate"])) for r in csv.DictReader(io.StringIO(text))]
    assert rows == [(step, schedule(step, 70)) for step in range(71)]


def test_a_table_of_no_steps_is_refused() -> None:
    with pytest.raises(InvalidSchedule, match="total_steps=-1"):
        schedule_csv(KDecaySchedule(), -1)
