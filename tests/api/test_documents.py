"""What the documents show of Python works as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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
