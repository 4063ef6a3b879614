"""How often final errors lie in the intervals of their forecasts, on curves made for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import forecast
from benchmarks.forecast import Recorded
from kdecay_search.study.candidate import Candidate


def test_final_errors_lie_in_the_intervals_of_their_forecasts() -> None:
    """Averaged errors drift by up to ten times the noise of a run, and more the larger k is."""
    random, reports = np.random.default_rng(0), 12
    log_k = np.log(np.linspace(1.0, 5.0, 9))
    final = 3.0 * (log_k - 1.0) ** 2 + random.normal(0.0, 0.1, (3, 9))
    left = 1.0 - np.arange(1, reports + 1) / reports
    averaged = final[..., None] + log_k[:, None] * left + random.normal(0.0, 0.05, (3, 9, reports))
    recorded = Recorded(tuple(Candidate(float(k)) for k in np.exp(log_k)), final, averaged)
    row = forecast.measure("made", recorded, share=0.5, studies=8, seed=0)
    assert row.forecasts == 24
    assert row.inside >= 0.75
    assert row.width < 2.0


def test_a_file_that_is_neither_curves_nor_a_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"other": 1}))
    assert forecast.main([str(tmp_path / "other.json")]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.forecast: ")
