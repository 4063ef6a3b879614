"""What the documents show of Python works as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdecay_search.api.result import Result

ROOT = Path(__file__).parents[2]


def examples(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S)


def test_the_readme_s_example_is_the_page_s_and_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = (text for text in examples("README.md") if "find_schedule" in text)
    assert example == examples("docs/python.md")[0]
    scope: dict[str, Any] = {}
    exec(example.replace("budget=16", "budget=4"), scope)  # a quarter of the time
    result = scope["result"]
    assert isinstance(result, Result)
    assert result.state == "done"
    assert len(result.runs) == 4
    assert all(run.value is not None and run.value < 95 for run in result.runs)
    assert " ".join(result.verdict.sentence.split()[:4]) in capsys.readouterr().out


def test_the_page_on_optuna_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (example,) = examples("docs/optuna.md")
    scope: dict[str, Any] = {}
    exec(example.replace("n_trials=24", "n_trials=12"), scope)  # half of the time
    assert len(scope["study"].trials) == 12
    assert (tmp_path / "digits.db").exists()
    assert "weight_decay" in capsys.readouterr().out
