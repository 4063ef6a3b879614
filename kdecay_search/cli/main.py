"""The entry point of ``kdecay``: an error becomes one line on stderr and an exit code."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, NoReturn

import typer

from kdecay_search import __version__, credentials
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
from kdecay_search.cli.output import discard_stdout, echo, prepare_streams
from kdecay_search.errors import KDecayError
from kdecay_search.paths import ensure_temporary_folder

HELP_WIDTH = 80

app = typer.Typer(
    name="kdecay",
    help="Find the learning-rate schedule that trains your network best, by k-decay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time that --help takes
    context_settings={"terminal_width": HELP_WIDTH},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        echo(f"kdecay-search {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")
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
    """Run the command line and exit.

    Exit codes: 0 success, 1 a failed study or an unexpected error, 2 bad input or an unusable
    database, 130 Ctrl-C.
    """
    prepare_streams()
    credentials.hide(sys.argv)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        ensure_temporary_folder()
        try:
            app(arguments, prog_name="kdecay")
        finally:
            sys.stdout.flush()  # an error shall be raised here, not at Python's exit
    except KDecayError as error:
        _print_error(error, str(error), debug)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as in `kdecay list | head`
        discard_stdout()
        sys.exit(1)
    except Exception as error:
        line = (
            f"unexpected {type(error).__name__}: {error}; please report it, with --debug's output"
        )
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            line = f"{error.filename or 'stdout'}: {error.strerror}"
            discard_stdout()
        _print_error(error, line, debug)
        sys.exit(1)
    sys.exit(0)


def _print_error(error: Exception, line: str, debug: bool) -> None:
    if debug:
        import traceback

        echo("".join(traceback.format_exception(error)).rstrip("\n"), err=True)
    else:
        echo(f"kdecay: {' '.join(line.splitlines())}", err=True)
