"""``try``: check a task by one short run in this process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import Overrides, StudyFile
from kdecay_search.cli.output import echo, print_result

if TYPE_CHECKING:
    from kdecay_search.study.spec import StudySpec
    from kdecay_search.user_code.tryout import Tryout

DEFAULT_EPOCHS = 2
SYMBOLS = {"good": ("✓", "green"), "missing": ("!", "yellow"), "wrong": ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    app.command("try")(try_)


def try_(
    file: StudyFile,
    epochs: Annotated[
        int, typer.Option(min=1, max=100_000, help="The number of epochs to train.")
    ] = DEFAULT_EPOCHS,
    k: Annotated[float, typer.Option("--k", help="The exponent of the schedule.")] = 1.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Device to train on: auto, cpu, cuda or cuda:N.")
    ] = "auto",
    set_: Overrides = None,
) -> None:
    """Check a task by one short training run.

    Trains in this process, without a database, and prints what the task did and what is missing.
    The schedule is compressed into these few epochs. Training code of your own that the file names
    is run; if it saves its state, it is interrupted once, as it may be in a worker, and called
    again.
    """
    from kdecay_search.cli.files import require_data
    from kdecay_search.paths import temporary_folder
    from kdecay_search.study.file import load
    from kdecay_search.user_code.environment import withhold_from_this_process
    from kdecay_search.user_code.tryout import Tryout, shortened
    from kdecay_search.worker.devices import expand

    spec = load(file, set_ or [])
    require_data(spec)
    temporary_folder()
    withhold_from_this_process()
    device = expand(device)[0]
    tryout = Tryout(shortened(spec, epochs))
    _announce(spec, tryout.spec.task.length.reports, k, device)
    if not _run(tryout, k, device):
        echo("\nIt does not work yet: fix this, and try again.")
        raise typer.Exit(1)
    _conclude(tryout, file)


def _announce(spec: StudySpec, epochs: int, k: float, device: str) -> None:
    total = spec.task.length.reports
    trained = "all" if epochs == total else f"{epochs} of"
    compressed = "" if epochs == total else "; the schedule is compressed into them"
    echo(
        f"{spec.name}: one run in this process, without a database\n"
        f"{trained} {total} epochs, k = {k:g}, seed 0, {device}{compressed}\n"
    )


def _run(tryout: Tryout, k: float, device: str) -> bool:
    """Train; return whether it succeeded, and print the reason if it did not."""
    from kdecay_search.errors import KDecayError, TaskError
    from kdecay_search.user_code.entry import InvalidEntry
    from kdecay_search.user_code.failures import describe, user_traceback
    from kdecay_search.user_code.monitoring import RunFailed

    try:
        _train(tryout, k, device)
    except InvalidEntry as error:
        return _print_failure(str(error), "")
    except RunFailed as error:
        return _print_failure(str(error), error.output)
    except TaskError as error:
        return _print_failure(describe(error), "")
    except KDecayError:
        raise
    except (Exception, SystemExit) as error:
        return _print_failure(describe(error), user_traceback(error))
    return True


def _train(tryout: Tryout, k: float, device: str) -> None:
    from kdecay_search.training.decoder_processes import keep_sockets_short
    from kdecay_search.user_code.entry import import_function
    from kdecay_search.user_code.tryout import try_function, try_task
    from kdecay_search.worker.train import load_task

    log = _logger()
    task = tryout.spec.task
    if task.kind == "python":
        log(f"import {task.entry.partition(':')[0]}")
        keep_sockets_short()
        sys.path.insert(0, os.getcwd())
        function = import_function(task.entry)
        log(f"{task.entry.partition(':')[2]}(run)")
        try_function(tryout, function, k, device, log)
    else:
        if task.kind != "command":
            log(f"the {task.kind} task")
        try_task(tryout, load_task(tryout.spec), k, device, log)
    log("the end" if tryout.result is None else f"the end: returned {tryout.result:g} %")


def _logger() -> Callable[[str], None]:
    """Return a function that prints lines with the seconds since now; log records of this package
    are printed by it, too."""
    import logging

    begin = time.monotonic()

    def log(text: str) -> None:
        echo(f"{time.monotonic() - begin:8.2f} s  {text}")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log(record.getMessage())

    logger = logging.getLogger("kdecay_search")
    logger.addHandler(Handler())
    logger.setLevel(logging.INFO)
    return log


def _print_failure(line: str, output: str) -> bool:
    if output:
        echo(f"\n{output.rstrip()}")
    echo()
    _print("wrong", line)
    return False


def _conclude(tryout: Tryout, file: str) -> None:
    from kdecay_search.user_code.findings import Severity, findings

    found = findings(tryout)
    echo()
    for finding in found:
        _print(finding.severity, finding.text)
    wrong = sum(finding.severity == Severity.WRONG for finding in found)
    missing = sum(finding.severity == Severity.MISSING for finding in found)
    if wrong:
        echo("\nIt does not work yet: fix what is marked ✗, and try again.")
        raise typer.Exit(1)
    rest = f", except for what is marked ! ({missing})" if missing else ""
    echo(f"\nIt works{rest}. Search: kdecay launch {file}")


def _print(level: str, text: str) -> None:
    from rich.text import Text

    print_result(Text.assemble(SYMBOLS[level], f" {text}"))
