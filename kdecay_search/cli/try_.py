"""``try``: one short run in this process, to see that a task works."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import Overrides, StudyFile, stdout

if TYPE_CHECKING:
    from kdecay_search.study.spec import StudySpec
    from kdecay_search.user_code.tryout import Tried

FEW_EPOCHS = 2
SYMBOLS = {"good": ("✓", "green"), "missing": ("!", "yellow"), "wrong": ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    app.command("try")(try_)


def try_(
    file: StudyFile,
    epochs: Annotated[
        int, typer.Option(min=1, max=100_000, help="Train so many epochs at most.")
    ] = FEW_EPOCHS,
    k: Annotated[float, typer.Option("--k", help="The schedule's exponent.")] = 1.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    set_: Overrides = None,
) -> None:
    """Train one short run in this process, without a database, to see that the task works.

    Prints what the task did and when, and what it lacks. The schedule is squeezed into the few
    epochs. Code of your own is run: the file is yours. A function that keeps its state is
    interrupted once, as a worker may be, and called again.
    """
    from kdecay_search.cli.files import require_data
    from kdecay_search.study.file import load
    from kdecay_search.user_code.tryout import Tried, shortened
    from kdecay_search.worker.devices import expand

    spec = load(file, set_ or [])
    require_data(spec)
    device = expand(device)[0]
    tried = Tried(shortened(spec, epochs))
    _announce(spec, tried.spec.task.epochs, k, device)
    if not _run(tried, k, device):
        typer.echo("\nIt does not work yet: mend this, and try again.")
        raise typer.Exit(1)
    _conclude(tried, file)


def _announce(spec: StudySpec, epochs: int, k: float, device: str) -> None:
    total = spec.task.epochs
    many = "all" if epochs == total else f"{epochs} of"
    squeezed = "" if epochs == total else "; the schedule is squeezed into them"
    typer.echo(
        f"{spec.name}: one run in this process, without a database\n"
        f"{many} {total} epochs, k = {k:g}, seed 0, {device}{squeezed}\n"
    )


def _run(tried: Tried, k: float, device: str) -> bool:
    """Whether it came to its end; if not, why is printed."""
    from kdecay_search.errors import KDecayError, TaskError
    from kdecay_search.user_code.entry import Unfit
    from kdecay_search.user_code.failures import described, shown_traceback
    from kdecay_search.user_code.monitoring import RunFailed

    try:
        _train(tried, k, device)
    except Unfit as error:
        return _fails(str(error), "")
    except RunFailed as error:
        return _fails(str(error), error.output)
    except TaskError as error:
        return _fails(described(error), "")
    except KDecayError:
        raise
    except (Exception, SystemExit) as error:
        return _fails(described(error), shown_traceback(error))
    return True


def _train(tried: Tried, k: float, device: str) -> None:
    from kdecay_search.user_code.entry import imported
    from kdecay_search.user_code.tryout import try_function, try_task
    from kdecay_search.worker.train import load_task

    tell = _teller()
    task = tried.spec.task
    if task.kind == "python":
        tell(f"import {task.entry.partition(':')[0]}")
        sys.path.insert(0, os.getcwd())
        function = imported(task.entry)
        tell(f"{task.entry.partition(':')[2]}(run)")
        try_function(tried, function, k, device, tell)
    else:
        if task.kind != "command":
            tell(f"the {task.kind} task")
        try_task(tried, load_task(tried.spec), k, device, tell)
    tell("the end" if tried.result is None else f"the end: returned {tried.result:g} %")


def _teller() -> Callable[[str], None]:
    """Prints lines with the seconds since now. So it does what would stand in a worker's log."""
    import logging

    begin = time.monotonic()

    def tell(text: str) -> None:
        typer.echo(f"{time.monotonic() - begin:8.2f} s  {text}")

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record.getMessage())

    logger = logging.getLogger("kdecay_search")
    logger.addHandler(Told())
    logger.setLevel(logging.INFO)
    return tell


def _fails(line: str, output: str) -> bool:
    if output:
        typer.echo(f"\n{output.rstrip()}")
    typer.echo()
    _print("wrong", line)
    return False


def _conclude(tried: Tried, file: str) -> None:
    from kdecay_search.user_code.findings import Level, findings

    found = findings(tried)
    typer.echo()
    for finding in found:
        _print(finding.level, finding.text)
    wrong = sum(finding.level == Level.WRONG for finding in found)
    missing = sum(finding.level == Level.MISSING for finding in found)
    if wrong:
        typer.echo("\nIt does not work yet: mend what is marked ✗, and try again.")
        raise typer.Exit(1)
    lacks = f", but for what is marked ! ({missing})" if missing else ""
    typer.echo(f"\nIt works{lacks}. Search: kdecay launch {file}")


def _print(level: str, text: str) -> None:
    from rich.table import Table
    from rich.text import Text

    symbol, style = SYMBOLS[level]
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(symbol, style), Text(text))
    stdout().print(grid)
