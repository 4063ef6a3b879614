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
from kdecay_search.schedules.baselines import Sgdr
from kdecay_search.schedules.export import kdecay_python_source, schedule_csv
from kdecay_search.schedules.kdecay import FAMILIES, KDecaySchedule

SCHEDULES = st.builds(
    KDecaySchedule,
    family=st.sampled_from(FAMILIES),
    ks=st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=4, unique=True).map(sorted),
    lr_max=st.floats(0.1, 10.0),
    lr_min=st.floats(0.0, 0.1),
    warmup_steps=st.integers(0, 20),
)


def executed(source: str) -> Any:
    names: dict[str, Any] = {}
    exec(source, names)
    return names["learning_rate"]


@settings(max_examples=50)
@given(SCHEDULES, st.integers(21, 10**7), st.data())
def test_the_source_gives_the_same_bits_as_the_schedule(
    schedule: KDecaySchedule, total: int, data: st.DataObject
) -> None:
    learning_rate = executed(kdecay_python_source(schedule))
    inside = data.draw(st.lists(st.integers(0, total), max_size=20))
    for step in (*range(22), *inside, total - 1, total):
        assert learning_rate(step, total) == schedule(step, total)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_source_has_the_power_of_the_polynomial(power: float) -> None:
    schedule = KDecaySchedule(ks=(1.0, 2.5), power=power)
    learning_rate = executed(kdecay_python_source(schedule))
    assert all(learning_rate(t, 100) == schedule(t, 100) for t in range(101))


def test_the_source_is_short_cites_the_paper_and_runs_alone() -> None:
    source = kdecay_python_source(KDecaySchedule("cosine", (1.0, 3.5), warmup_steps=5))
    widest, most_lines = 100, 17
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
