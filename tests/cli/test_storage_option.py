"""Commands on databases that cannot be used: one line, and never a password."""

from __future__ import annotations

import inspect
import json
import re
from functools import partial
from pathlib import Path

import pytest

from kdecay_search.errors import StorageError
from kdecay_search.storage import Storage
from tests.cli.commands import DRIVER, Run, closed_port, refusal

SECRET = "hunter2"


@pytest.mark.parametrize(("command", "by_environment"), [("list", True), ("worker", False)])
def test_unreachable_database(
    run_python: Run, run_kdecay: Run, command: str, by_environment: bool
) -> None:
    """A worker tries again for a while; here for a shorter one."""
    program = "from kdecay_search.cli import main, worker; worker.START_SECONDS = 1.0; main.main()"
    run = partial(run_python, "-c", program) if command == "worker" else run_kdecay
    port = closed_port()
    url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/kdecay"
    result = run(command, KDECAY_STORAGE=url) if by_environment else run(command, "--storage", url)
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


COMMANDS = {
    "launch": ["small.toml", "--workers", "0"],
    "confirm": ["any"],
    "status": ["any"],
    "list": [],
    "best": ["any"],
    "stop": ["any"],
    "delete": ["any", "--yes"],
    "report": ["any"],
    "plot": ["any"],
    "dashboard": ["--port", "0"],
    "publish": ["any"],
    "plan": ["any"],
    "check": ["small.toml", "--timed"],
}
ONLY_MALFORMED = {"worker": ["--drain"]}
"""A worker retries for long to reach a server."""
NOT_HERE = {"doctor"}
"""It takes long, and has its own tests."""
URLS = [
    "postgresql://me:Abc123@Def456/@127.0.0.1:{}/db",
    "postgresql://me:123456/Def456@Ghi789?@127.0.0.1:{}/db",
    "postgresql://me:Abc123%23Def456%40@127.0.0.1:{}/db",
    "host=127.0.0.1 port={} user=me password='Abc123 Def456'",
]
"""The first two are malformed; nothing listens at the others."""


def test_no_command_shows_a_part_of_a_password(run_python: Run, study_file: Path) -> None:
    """One URL comes by the environment, the others by the option."""
    first, *others = (url.format(closed_port()) for url in URLS)
    calls = [[name, *rest] for name, rest in (COMMANDS | ONLY_MALFORMED).items()]
    calls += [[name, *rest, "--storage", url] for url in others for name, rest in COMMANDS.items()]
    calls += [[*call, "--debug"] for call in calls]
    result = run_python("-c", DRIVER, json.dumps(calls), KDECAY_STORAGE=first)
    assert result.returncode == 0, result
    ends = re.findall(r"^== (\w+) 2$", result.stdout, re.MULTILINE)
    assert sorted(ends) == sorted(call[0] for call in calls), result
    assert not re.search("Abc123|Def456|123456|Ghi789", result.stdout + result.stderr), result


def test_every_command_is_covered() -> None:
    from kdecay_search.cli.main import app

    with_storage = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if "storage" in inspect.signature(command.callback).parameters
    }
    assert with_storage == COMMANDS.keys() | ONLY_MALFORMED.keys() | NOT_HERE
