"""The notebook that is shipped, executed by a kernel as in Jupyter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "docs" / "examples" / "find_schedule.ipynb"
PATIENCE_SECONDS = 600


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def html(notebook: Any) -> list[str]:
    found = (output.get("data", {}).get("text/html", "") for output in outputs(notebook))
    return [text for text in found if text]


@pytest.mark.integration
@pytest.mark.filterwarnings("default")  # of the kernel's own parts
def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed here")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed here")
    shipped = nbformat.read(FILE, as_version=4)
    nbformat.validate(shipped)
    fresh = nbformat.read(FILE, as_version=4)
    client = nbclient.NotebookClient(
        fresh,
        timeout=PATIENCE_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises what a cell raises
    assert list(tmp_path.iterdir()) == []
    for notebook in (shipped, fresh):
        card = next(text for text in html(notebook) if "<svg" in text)
        assert "study: done, 14 runs complete" in card
        assert "nats" in card
        assert any("<table" in text for text in html(notebook))  # of pandas
        printed = "".join(output.get("text", "") for output in outputs(notebook))
        assert "def learning_rate(step, total_steps):" in printed
        assert "Warning" not in printed
