"""The public face of the package: what it offers, and what importing it leaves alone."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import kdecay_search

HEAVY = {"torch", "optuna", "sqlalchemy"}


@pytest.mark.parametrize("statement", ["import kdecay_search", "from kdecay_search import TaskRun"])
def test_an_import_is_light(statement: str) -> None:
    program = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert "kdecay_search" in modules
    assert not modules & HEAVY


def test_every_public_name_exists_and_is_documented() -> None:
    for name in set(kdecay_search.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(kdecay_search, name)), name
    assert kdecay_search.__version__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(kdecay_search, "Nothing")  # noqa: B009 - mypy knows that it is missing


def test_everything_that_a_task_run_offers_is_documented() -> None:
    for name, member in inspect.getmembers(kdecay_search.TaskRun):
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
