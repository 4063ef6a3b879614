"""The plots that ``kdecay status`` draws of characters."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kdecay_search.report.charts import NARROWEST, ROWS, TICKS, Chart, study_charts, ticks
from kdecay_search.snapshot import StudySnapshot
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.memory_studies import MemoryQueue, pruned, stated, study

DOTS = range(0x2801, 0x2900)
"""Braille characters that show something."""


def ended(*tables: dict[float, Any], **keys: Any) -> StudySnapshot:
    part = {"k_max": 4.0, "k_cap": 4.0, "k_step": 1.0, "max_terms": len(tables), "min_gain": 0.0}
    queue = MemoryQueue(study(search=part | keys), stated(*tables))
    queue.play()
    return StudySnapshot(queue.spec, tuple(queue.trials), stopped=False)


def drawn(snapshot: StudySnapshot, width: int) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    charts = study_charts(snapshot, width)
    assert charts is not None
    console.print(charts)
    return console.export_text(styles=False)


TWO_STAGES = (
    {1.0: [9.0, 9.5, 9.2], 2.0: [6.0, 6.2, 6.4], 3.0: [7.0, 7.2, 7.4], 4.0: [8.0, 8.1, 8.2]},
    {3.0: [5.0, 5.1, 5.2], 4.0: [6.0, 6.1, 6.2]},
)


@pytest.mark.parametrize("width", [40, 41, 79, 80, 84, 100, 120, 133, 250])
def test_plots_fit_the_width_and_lose_no_line_of_their_own(width: int) -> None:
    text = drawn(ended(*TWO_STAGES), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for title in ("learning rate over the training", "validation error against k1, %", "k2, %"):
        assert text.count(title) == 1
    assert text.count("└") == 3
    assert text.count("3 epochs") == 1


@pytest.mark.parametrize("width", [1, 20, NARROWEST - 1])
def test_output_that_is_too_narrow_has_no_plot(width: int) -> None:
    assert study_charts(ended(*TWO_STAGES), width) is None


def test_each_stage_marks_every_mean_and_its_best_without_colour() -> None:
    text = drawn(ended(*TWO_STAGES), 64)
    first, second = text.split("validation error against ")[1:]
    assert [first.count("o"), first.count("*")] == [3 + 1, 1 + 1], "marks, and the legend's"
    assert [second.count("o"), second.count("*")] == [1 + 1, 1 + 1]
    best = next(line for line in first.splitlines() if "*" in line)
    labels = next(line for line in first.splitlines() if line.split() == ["1", "2", "3", "4"])
    assert labels[best.index("*")] == "2"


def test_the_found_schedule_is_a_line_and_the_original_dotted() -> None:
    text = drawn(ended(*TWO_STAGES), 64)
    assert "── k = 2, 3   ··· k = 1" in text
    rows = [line for line in text.splitlines() if "│" in line or "┤" in line][:ROWS]
    columns = max(len(row) for row in rows) - rows[0].index("┤") - 1
    cells = sum(ord(character) in DOTS for row in rows for character in row)
    assert columns < cells < 2 * columns, "one cell in each column, and the dots between"


def test_an_original_that_is_best_is_drawn_once() -> None:
    text = drawn(ended({1.0: 5.0, 2.0: 6.0, 3.0: 7.0, 4.0: 8.0}), 64)
    assert "── k = 1" in text
    assert "···" not in text


def test_errors_far_above_the_others_are_told_and_not_drawn() -> None:
    table = {1.0: [9.0, 9.5, 9.2], 2.0: [6.0, 6.2, 6.4], 3.0: [7.0, 7.2, 7.4], 4.0: 100.0}
    text = drawn(ended(table), 64)
    assert "3 above" in text
    assert " 100 ┤" not in text


def test_a_study_without_results_shows_its_schedule_alone() -> None:
    queue = MemoryQueue(study(), pruned)
    queue.reconcile()
    text = drawn(StudySnapshot(queue.spec, tuple(queue.trials), stopped=False), 100)
    assert "learning rate" in text
    assert "validation error" not in text


def test_one_candidate_with_one_result_is_drawn() -> None:
    queue = MemoryQueue(study(), stated({1.0: 0.0}))
    queue.reconcile()
    queue.work(1)
    text = drawn(StudySnapshot(queue.spec, tuple(queue.trials), stopped=False), 64)
    assert "validation error against k1" in text


@given(st.floats(0, 100), st.floats(0, 100))
def test_ticks_are_few_even_and_enclose_the_values(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= TICKS + 2
    slack = 1e-6 * max(1.0, abs(low), span)
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack
    steps = [b - a for a, b in pairwise(found)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)


def test_a_point_at_each_edge_is_within_the_canvas() -> None:
    chart = Chart("t", 40, (0.0, 1.0), (0.0, 1.0), {0.0: "0", 1.0: "1"}, "")
    chart.dots([(0.0, 0.0), (1.0, 1.0)])
    rows = str(chart.__rich__()).splitlines()[1 : ROWS + 1]
    assert [len(row.rstrip()) for row in (rows[0], rows[-1])] == [40, rows[-1].index("┤") + 2]


def test_status_draws_them_below_the_tables(kdecay: Kdecay, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="drawn", search__seeds=1)
    kdecay.run("launch", file, "--workers", "1", "--json")
    out = kdecay.run("status", "drawn").stdout
    assert out.index("stage 1: term k1") < out.index("validation error against k1, %")
    assert "\x1b" not in out
