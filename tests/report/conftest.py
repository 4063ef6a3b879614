"""Fixtures of the tests of what is shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kdecay_search.storage import Storage
from tests.support.kdecay_command import Kdecay


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A study's name that no other test has."""
    return f"shown-{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def own(alone: Kdecay) -> Iterator[Storage]:
    """The database of ``alone``, which holds no other test's studies."""
    assert alone.url is not None
    connected = Storage(alone.url)
    yield connected
    connected.close()
