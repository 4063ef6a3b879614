"""Every command, argument and option explains itself in ``--help``, and stands in docs/cli.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from kdecay_search.cli.main import app

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]
DOCUMENT = (Path(__file__).parents[2] / "docs/cli.md").read_text()
SHORT = 45
"""Characters of a command's summary in docs/cli.md, where a longer one is cut off."""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str) -> None:
    command = COMMANDS[name]
    summary, _, _ = command.help.partition("\n\n")
    assert summary.endswith(".")
    assert len(summary) <= SHORT, summary
    section = DOCUMENT.partition(f"## `kdecay {name}`\n")[2].partition("\n## ")[0]
    assert summary in section
    assert f"* `{name}`: {summary}\n" in DOCUMENT
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            assert parameter.help, f"{parameter.name} has no help"
            assert parameter.help.endswith((".", "...")), parameter.help
            assert parameter.help.partition(".")[0] in section, parameter.name


def test_help_is_ascii() -> None:
    """Any terminal can show it."""
    for name, command in COMMANDS.items():
        context = typer.Context(command, info_name=name)
        assert command.get_help(context).isascii(), name
