"""At which reports of a run it may be paused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.memory_studies import study


@pytest.mark.parametrize(
    ("pruning", "epochs", "expected"),
    [
        ({}, 12, (6, 7, 8, 9, 10, 11)),
        ({}, 90, (45, 53, 60, 68, 75, 83)),
        ({"looks": 4, "first_share": 0.25}, 12, (3, 6, 9)),
        ({"looks": 4, "first_share": 0.26}, 12, (6, 9)),
        ({"looks": 1000, "first_share": 0.5}, 5, (3, 4)),
        ({"looks": 1, "first_share": 0.1}, 12, ()),
        ({"first_share": 1.0}, 12, ()),
        ({"enabled": False}, 12, ()),
        ({}, 1, ()),
    ],
)
def test_looks_are_spread_evenly_from_the_first_share_on_and_never_at_the_end(
    pruning: dict[str, Any], epochs: int, expected: tuple[int, ...]
) -> None:
    assert study(epochs=epochs, pruning={"enabled": True} | pruning).looks == expected


def test_looks_are_reports_in_a_study_that_counts_steps() -> None:
    """Reports after 100, 200, … and 1,050 steps: 11 of them."""
    task = {"kind": "python", "entry": "a:b", "steps": 1050, "report_every": 100}
    spec = study(task=task, pruning={"enabled": True, "looks": 4, "first_share": 0.2})
    assert spec.looks == (3, 6, 9)
