"""Commands on databases that cannot be used: one line, and never a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdecay_search.errors import StorageError
from kdecay_search.storage import Storage
from tests.cli.commands import Run, closed_port, refusal

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("command", "by_environment"), [("launch", False), ("list", True), ("worker", False)]
)
def test_unreachable_database(
    run_kdecay: Run, study_file: Path, command: str, by_environment: bool
) -> None:
    port = closed_port()
    url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/kdecay"
    arguments = [command, *([study_file.name] if command == "launch" else [])]
    if by_environment:
        result = run_kdecay(*arguments, KDECAY_STORAGE=url)
    else:
        result = run_kdecay(*arguments, "--storage", url)
    refused = [line for line in result.stderr.splitlines() if line.startswith("kdecay: ")]
    assert len(refused) == 1
    assert f"127.0.0.1:{port}" in refused[0]
    assert "Connection refused" in refused[0]
    assert SECRET not in result.stderr
    if command != "worker":  # a worker logs its name first
        refusal(result)
    assert result.returncode == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///studies.db", "sqlite is not supported; it must start with postgresql://"),
        ("me:hunter2@127.0.0.1/kdecay", "malformed"),
        ("postgresql://me:hunter2@127.0.0.1:port/kdecay", "malformed"),
    ],
)
def test_unusable_url(run_kdecay: Run, url: str, message: str) -> None:
    line = refusal(run_kdecay("list", "--storage", url))
    assert message in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://127.0.0.1:{port}/kdecay?user=me&password=hunter2",
        "postgresql://127.0.0.1:{port}/kdecay?user=me&sslpassword=hunter2",
        "postgresql://me:pass@hunter2@127.0.0.1:{port}/kdecay",
        "postgresql://me:hunter2/x@127.0.0.1:{port}/kdecay",
        "postgresql://me:%68unter2@127.0.0.1:{port}/kdecay",
        "postgresql+asyncpg://me:hunter2@127.0.0.1:{port}/kdecay",
        "mysql://me:hunter2@127.0.0.1/kdecay",
        "mysql+nothing://me:hunter2@127.0.0.1/kdecay",
        "sqlite:///file?password=hunter2",
        "postgresql://me:hunter2@127.0.0.1:99999/kdecay",
        "postgresql://me:hunter2@127.0.0.1:{port}/kdecay?nonsense=1",
        "me:hunter2@127.0.0.1/kdecay",
        "hunter2",
    ],
)
def test_password_is_not_shown(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        Storage(url.format(port=closed_port()))
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert "hunter2" not in line
    assert "%68unter2" not in line


def test_password_is_not_in_a_traceback(run_kdecay: Run) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:{closed_port()}/kdecay"
    result = run_kdecay("--debug", "list", "--storage", url)
    assert "Traceback" in result.stderr
    assert "StorageUnavailable" in result.stderr
    assert SECRET not in result.stderr + result.stdout
