"""What a command prints does not depend on where it goes; only colours do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.cli import output
from kdecay_search.cli.main import app
from kdecay_search.cli.output import prepare_streams
from tests.cli.commands import DRIVER
from tests.support.kdecay_command import (
    KDECAY,
    TIMEOUT_SECONDS,
    Kdecay,
    simulated_study,
    warm,
)
from tests.support.terminal import STREAMS, run_in_terminal

COMMANDS = {
    "status": ["shown"],
    "list": [],
    "launch": ["study.toml", "--workers", "1"],
    "best": ["shown", "--as", "python"],
    "plan": ["shown"],
    "check": ["study.toml"],
    "schedule": ["--ks", "2,3", "--total", "10"],
    "models": [],
    "try": ["study.toml"],
    "report": ["shown"],
    "plot": ["shown"],
    "init": [".", "--for", "command"],
    "stop": ["nowhere"],
    "confirm": ["nowhere"],
    "delete": ["nowhere"],
}
"""Arguments by command. The last commands and init fail, in one line on stderr."""
NOT_HERE = {"worker", "dashboard", "publish", "doctor"}
"""The first three print nothing to stdout; doctor has a test of its own."""
STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
CHANGING = re.compile(r"\d+(\.\d+)?")
"""Numbers: try prints seconds."""
PLAIN = ("TERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LC_ALL", "LANG", "PYTHONIOENCODING")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def environment(home: Path, storage_url: str, folder: Path) -> dict[str, str]:
    """The environment of a user who has run a study, in whose folder init fails."""
    kdecay = Kdecay(home)
    kdecay.run("launch", simulated_study(folder, name="shown", search__seeds=3), "--workers", "1")
    (folder / "train.py").touch()
    return {k: v for k, v in kdecay.environment.items() if k not in PLAIN} | {"TERM": "xterm"}


def printed(
    environment: Mapping[str, str],
    folder: Path,
    encoding: str = "utf-8",
    names: Iterable[str] = COMMANDS,
    **streams: Any,
) -> dict[str, tuple[str, str]]:
    """Exit code and stdout without colours, by command."""
    arguments = json.dumps([[name, *COMMANDS[name]] for name in names])
    command = ["env", "-C", str(folder), sys.executable, "-c", DRIVER, arguments]
    code, out, err = run_in_terminal(command, environment, **streams)
    assert code == 0, err
    text = STYLE.sub("", out.decode(encoding).replace("\r\n", "\n"))
    parts = re.split(r"^== (\w+) (\d+)\n", text, flags=re.MULTILINE)
    found = {name: (code, text) for text, name, code in zip(*[iter(parts[:-1])] * 3, strict=True)}
    if "try" in found:
        found["try"] = found["try"][0], CHANGING.sub("N", found["try"][1])
    return found


@pytest.fixture(scope="module")
def expected(environment: dict[str, str], folder: Path) -> dict[str, tuple[str, str]]:
    """What is printed into a pipe."""
    return printed(environment, folder, terminals=())


def test_every_command_is_covered(expected: dict[str, tuple[str, str]]) -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names == COMMANDS.keys() | NOT_HERE == expected.keys() | NOT_HERE
    failed = {name for name, (code, _) in expected.items() if code != "0"}
    assert failed == {"init", "stop", "confirm", "delete"}
    assert "Use it:" in expected["launch"][1]
    assert expected["status"][1].splitlines()[0] in expected["launch"][1]
    assert not re.search(r"[ \t]$", "".join(out for _, out in expected.values()), re.MULTILINE)


@pytest.mark.parametrize(
    ("variables", "streams"),
    [
        ({}, {"columns": 200}),
        ({"NO_COLOR": "1"}, {"columns": 20, "terminals": ("stdout",), "closed": ("stdin",)}),
        ({"FORCE_COLOR": "1", "COLUMNS": "20"}, {"terminals": (), "closed": ("stdin", "stderr")}),
    ],
    ids=str,
)
def test_same_text_everywhere(
    environment: dict[str, str],
    folder: Path,
    expected: dict[str, tuple[str, str]],
    variables: dict[str, str],
    streams: dict[str, Any],
) -> None:
    assert printed(environment | variables, folder, **streams) == expected


@pytest.mark.parametrize(
    ("encoding", "variables"),
    [
        ("ascii", {"PYTHONIOENCODING": "ascii"}),
        ("latin-1", {"PYTHONIOENCODING": "latin-1"}),
        ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("utf-8", {"LC_ALL": "C"}),
    ],
    ids=str,
)
def test_characters_that_an_encoding_lacks_are_replaced(
    environment: dict[str, str],
    folder: Path,
    expected: dict[str, tuple[str, str]],
    encoding: str,
    variables: dict[str, str],
) -> None:
    prepare_streams()
    replaced = {
        name: (code, out.encode(encoding, "kdecay").decode(encoding))
        for name, (code, out) in expected.items()
        if not out.isascii()
    }
    assert len(replaced) > 4
    found = printed(environment | variables, folder, encoding, replaced, terminals=())
    assert found == replaced


@pytest.mark.parametrize("closed", [("stdout",), STREAMS], ids=str)
def test_closed_stdout(environment: dict[str, str], closed: tuple[str, ...]) -> None:
    code, out, err = run_in_terminal([*KDECAY, "list"], environment, (), closed)
    assert (code, out, err) == (0, b"", b"")


def test_doctor(environment: dict[str, str]) -> None:
    """Its lines, without the checks, which take long and find something else each time."""
    program = """
from kdecay_search.cli.doctor import _print
from kdecay_search.doctor.check import error, ok, warning
_print(ok("disk", "good"))
_print(warning("disk", "little", "free some"))
_print(error("disk", "x" * 200, "y"))
"""
    command = [sys.executable, "-c", program]
    found = {
        STYLE.sub("", out.decode().replace("\r\n", "\n"))
        for variables, terminals in (
            ({}, STREAMS),
            ({"TERM": "dumb", "COLUMNS": "20"}, STREAMS),
            ({"FORCE_COLOR": "1"}, ()),
        )
        for _, out, _ in [run_in_terminal(command, environment | variables, terminals)]
    }
    lines = [
        "ok       disk         good",
        "warning  disk         little",
        "                      free some",
        f"error    disk         {'x' * 200}",
        "                      y",
    ]
    assert found == {"".join(f"{line}\n" for line in lines)}


def test_result_of_a_running_study(environment: dict[str, str], tmp_path: Path) -> None:
    """The live display on stderr does not replace the result on stdout."""
    file = simulated_study(tmp_path, name="watched", search__k_max=1.0)
    launch = [*KDECAY, "launch", file, "--workers", "1"]
    code, out, err = run_in_terminal(launch, environment, columns=20)
    assert (code, b"\x1b[" in err) == (0, True)
    again = warm().run(launch[len(KDECAY) :], environment, TIMEOUT_SECONDS)
    assert STYLE.sub("", out.decode().replace("\r\n", "\n")) == again.stdout
    watched = run_in_terminal([*KDECAY, "status", "watched", "--watch"], environment)
    assert STYLE.sub("", watched[1].decode()).startswith("watched  done")


def test_reader_that_has_gone(environment: dict[str, str]) -> None:
    script = '"$@" | true; exit ${PIPESTATUS[0]}'
    code, _, err = run_in_terminal(["bash", "-c", script, "-", *KDECAY, "list"], environment, ())
    assert (code, err) == (1, b"")


def test_full_disk(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*KDECAY, "list"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "kdecay: stdout: No space left on device\n")


def test_question_without_stdin(environment: dict[str, str]) -> None:
    delete = [*KDECAY, "delete", "shown"]
    code, out, err = run_in_terminal(delete, environment, (), ("stdin",))
    assert (code, out.strip(), b"Traceback" in err) == (1, b"", False)
    assert warm().run(["best", "shown"], environment, TIMEOUT_SECONDS).returncode == 0


def test_commands_print_by_one_function() -> None:
    """click's would encode text in its own way."""
    for module in Path(output.__file__).parent.glob("*.py"):
        assert "typer.echo(" not in module.read_text(), module.name
