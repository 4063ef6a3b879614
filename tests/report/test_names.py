"""Small texts: names, numbers, bars and curves of characters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.report import names
from kdecay_search.report.blocks import BLOCKS, bar, curve
from kdecay_search.report.cost import duration
from kdecay_search.schedules.kdecay import FAMILIES, KDecaySchedule
from kdecay_search.search import make_plan
from kdecay_search.statistics import describe
from kdecay_search.study.candidate import schedule_name
from kdecay_search.study.metric import VALIDATION_ERROR, MetricFormat
from tests.support.memory_studies import left_by_a_race, study


@pytest.mark.parametrize(
    ("ks", "text"), [((2.0,), "k = 2"), ((2.0, 6.5), "k = 2, 6.5"), ((1.23456,), "k = 1.235")]
)
def test_terms_are_listed(ks: tuple[float, ...], text: str) -> None:
    assert schedule_name(ks) == text


@pytest.mark.parametrize(
    ("errors", "text"), [([], "–"), ([3.214], "3.21 %"), ([1.0, 3.0], "2.00 ± 1.41 %")]
)
def test_a_sample_has_a_spread_from_two_values_on(errors: list[float], text: str) -> None:
    assert MetricFormat.of(VALIDATION_ERROR, None).sample(describe(errors)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (3000.0, "50 min"), (12600.0, "3.5 h")],
)
def test_duration_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(share=st.floats(0, 1), width=st.integers(0, 80))
def test_bar_fills_its_share_of_the_width(share: float, width: int) -> None:
    assert abs(len(bar(share, width)) - share * width) <= 0.5
    assert set(bar(share, width)) <= {"█"}


@given(
    family=st.sampled_from(FAMILIES),
    k=st.floats(0.05, 1000),
    lr_min=st.floats(0, 0.1),
    warmup=st.integers(0, 50),
)
def test_curve_falls_from_the_highest_block(
    family: Any, k: float, lr_min: float, warmup: int
) -> None:
    drawn = curve(KDecaySchedule(family, (k,), 1.0, 0.1, lr_min, warmup), width=20)
    heights = [BLOCKS.index(block) for block in drawn]
    assert len(heights) == 20
    assert heights[0] == len(BLOCKS) - 1
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == round(lr_min / 0.1 * 7)


def test_errors_stand_in_the_column_of_their_seed() -> None:
    runs = {1.0: [12.5, 12.6, None], 3.0: [8.0, None, 8.5], 2.0: [None, 9.25, None]}
    spec = study(
        search={"ks": sorted(runs), "k_max": 3.0, "k_cap": 3.0, "seeds": 3},
        pruning={"enabled": True},
    )
    plan = make_plan(spec, left_by_a_race(runs))
    stage = plan.stages[0]
    texts = names.errors_by_seed(stage, plan.format, {})
    rows = {c.k: texts[c.index] for c in stage.candidates}
    assert rows == {1.0: "12.50  12.60", 2.0: "    –   9.25", 3.0: " 8.00      –   8.50"}
