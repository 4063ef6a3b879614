"""The packages that are laid out for OptunaHub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

import kdecay_search.optuna as ours

PACKAGE = Path(__file__).parents[2] / "docs" / "optunahub" / "package"
FOLDERS = sorted(path.parent for path in PACKAGE.glob("*/*/__init__.py"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_package_has_what_the_hub_asks_for(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__all__
    assert all(getattr(module, name) is getattr(ours, name) for name in module.__all__)
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    keys = yaml.safe_load(front)
    wanted = {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert keys.keys() == wanted
    for heading in ("Abstract", "APIs", "Installation", "Example"):
        assert f"\n## {heading}\n" in text
    place = f"{folder.parent.name}/{folder.name}"
    example = (folder / "example.py").read_text()
    assert f'load_module("{place}")' in example
    compile(example, folder.name, "exec")
