"""The recipes of docs/recipes/README.md whose libraries the tests install, in one process."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent.parent / "docs" / "recipes" / "run.py"


@pytest.fixture(scope="module")
def script() -> Any:
    found = importlib.util.spec_from_file_location("recipes_run", FILE)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["pytorch", "timm", "huggingface", "lightning"])
def test_a_recipe_trains_by_the_schedule(
    script: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script.prepare(script.recipes()[name], tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "schedule", raising=False)
    if name == "pytorch":
        alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
        for key, value in alone.items():
            monkeypatch.setenv(key, value)
    script.inside(name, str(program))
    sys.modules.pop("schedule")
    rates = json.loads((tmp_path / "rates.0.json").read_text())
    updates = 9 if name == "timm" else 15
    assert len(rates) == updates, "ten or twenty batches of an epoch, four for each update"
    assert script.difference(rates) < 1e-12


def test_every_recipe_imports_a_form_of_kdecay_best(script: Any) -> None:
    from kdecay_search.schedules.export import Form

    found = script.recipes()
    assert {recipe.form for recipe in found.values()} <= {form.value for form in Form}
    assert all("from schedule import" in recipe.program for recipe in found.values())
    assert set(script.PACKAGES) <= set(found)
