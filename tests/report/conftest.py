"""Fixtures of the tests of what is shown."""

from __future__ import annotations

import pytest


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A study's name that no other test has."""
    return f"shown-{abs(hash(request.node.nodeid)):x}"
