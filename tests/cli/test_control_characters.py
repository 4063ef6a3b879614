"""Nothing that a terminal would act upon is printed, wherever a text comes from."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
import sqlalchemy
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kdecay_search.cli import main as command_line
from kdecay_search.cli.output import Safe, SafeFormatter, echo, print_result, safe
from kdecay_search.storage import Storage
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay, simulated_study, warm

EVIL = "a\x1b]0;title\x07b\x1b[2Jc\r\x9b31m\u202e\x00"
SHOWN = r"a\x1b]0;title\x07b\x1b[2Jc\r\x9b31m\u202e\x00"


def is_clean(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_an_unexpected_error_is_one_clean_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    def app(arguments: list[str], prog_name: str) -> None:
        raise RuntimeError(f"{EVIL}\n=1+1")

    monkeypatch.setattr(command_line, "app", app)
    monkeypatch.setattr(sys, "argv", ["kdecay", "list", *options])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    err = capsys.readouterr().err
    assert ended.value.code == 1
    assert is_clean(err)
    assert r"a\x1b]0;title\x07b\x1b[2Jc" in err
    if not options:
        assert err.startswith("kdecay: unexpected RuntimeError: a")
        assert err.count("\n") == 1


def _table() -> Table:
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    return table


@pytest.mark.parametrize(
    "result",
    [EVIL, Text(EVIL, "red"), _table(), Group(Padding(Text(EVIL), (1, 0)), _table(), EVIL)],
    ids=["str", "text", "table", "group"],
)
def test_results_are_clean(
    capsys: pytest.CaptureFixture[str], result: RenderableType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    print_result(result)
    out = capsys.readouterr().out
    assert is_clean(out)
    assert "title" in out


def test_colours_of_our_own_stay() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=60)
    console.print(Safe(Panel(Text(EVIL, "red"))))
    assert "\x1b[31m" in file.getvalue()
    for sequence in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e", "\x07"):
        assert sequence not in file.getvalue()


def test_lines_and_log_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    echo(EVIL)
    echo(f"two\n{EVIL}\tx", err=True)
    record = logging.LogRecord("x", logging.INFO, "", 1, "%s", (f"{EVIL}\nb",), None)
    assert SafeFormatter("%(message)s").format(record) == f"{SHOWN}\nb"
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\n"
    assert err.startswith(f"two\n{SHOWN}")
    assert is_clean(err)
    assert safe("schräg ⣿ ▁ ✓ \udcff") == "schräg ⣿ ▁ ✓ \udcff"


def test_names_in_the_database_are_clean(alone: Kdecay, tmp_path: Path) -> None:
    """Who can write to the database can name a study."""
    alone.run("launch", simulated_study(tmp_path, name="plain"), "--workers", "1")
    evil = EVIL.replace("\x00", "")
    assert alone.url is not None
    storage = Storage(alone.url)
    with storage.engine.begin() as connection:
        for table, column in (
            ("studies", "study_name"),
            ("study_user_attributes", "value_json"),
            ("trial_user_attributes", "value_json"),
            ("study_system_attributes", "value_json"),
        ):
            statement = f"UPDATE {table} SET {column} = replace({column}, 'plain', :evil)"
            connection.execute(sqlalchemy.text(statement), {"evil": evil})
    storage.close()
    for arguments in (["list"], ["status"], ["status", evil], ["publish"], ["best", evil],
                      ["delete", evil, "--yes"]):  # fmt: skip
        done = warm().run(arguments, alone.environment | {"NO_COLOR": "1"}, TIMEOUT_SECONDS)
        assert is_clean(done.stdout + done.stderr), arguments
        assert "Traceback" not in done.stderr
