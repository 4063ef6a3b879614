"""A server over TCP and with a password, which the tests of a process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres_servers import Server, password_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with password_server() as started:
        yield started
