"""The command's entry point: errors become one line and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from kdecay_search import __version__
from kdecay_search.cli import (
    confirm,
    dashboard,
    doctor,
    files,
    init,
    inspect,
    launch,
    models,
    plan,
    report,
    schedule,
    try_,
    worker,
)
from kdecay_search.errors import KDecayError

app = typer.Typer(
    name="kdecay",
    help="Find the learning-rate schedule that trains your network best, by k-decay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help takes as long again as all the rest of --help
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdecay-search {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with an error. May stand anywhere.")
    ] = False,
) -> None:
    pass


for register in (
    init.register,
    try_.register,
    launch.register,
    confirm.register,
    worker.register,
    inspect.register,
    report.register,
    dashboard.register,
    files.register,
    plan.register,
    doctor.register,
    schedule.register,
    models.register,
):
    register(app)


def main() -> NoReturn:
    """Run the command line.

    Exit codes: 0 well, 1 the study failed, 2 bad input or a database that cannot be used,
    130 Ctrl-C.
    """
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="kdecay")
    except KDecayError as error:
        _tell(error, str(error), debug)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `kdecay list | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        kind = type(error).__name__
        _tell(error, f"unforeseen {kind}: {error}; please report it with --debug's output", debug)
        sys.exit(1)
    sys.exit(0)


def _tell(error: Exception, line: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exception(error)
    else:
        print(f"kdecay: {' '.join(line.splitlines())}", file=sys.stderr)
