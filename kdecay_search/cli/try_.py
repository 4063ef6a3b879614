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

DEFAULT_REPORTS = 2
"""Reports of the run that is trained."""
SYMBOLS = {"good": ("✓", "green"), "missing": ("!", "yellow"), "wrong": ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    app.command("try")(try_)


def try_(
    file: StudyFile,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="The number of epochs to train; 2 by default."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000_000,
            help="The number of steps, in a study that counts steps; enough for 2 reports by "
            "default.",
        ),
    ] = None,
    k: Annotated[float, typer.Option("--k", help="The exponent of the schedule.")] = 1.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Device to train on: auto, cpu, cuda or cuda:N.")
    ] = "auto",
    set_: Overrides = None,
) -> None:
    """Check a task by one short training run.

    Trains in this process, without a database, and prints what the task did and what is missing.
    The schedule is compressed into these few epochs or steps. Training code of your own that the
    file names is run; if it saves its state, it is interrupted once, as it may be in a worker, and
    called again. Then it is run with another seed, until its reports differ.
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
    tryout = Tryout(shortened(spec, _total(spec, epochs, steps)))
    _announce(spec, tryout.spec, k, device)
    times: list[float] = []
    if not _run(tryout, k, device, times):
        echo("\nIt does not work yet: fix this, and try again.")
        raise typer.Exit(1)
    _conclude(tryout, file)
    _say_budget(spec, tryout, times)


def _total(spec: StudySpec, epochs: int | None, steps: int | None) -> int:
    """The epochs or steps to train, whichever the study counts."""
    from kdecay_search.errors import KDecayError

    length = spec.task.length
    wanted, other, option = (
        (steps, epochs, "--epochs") if length.counts_steps else (epochs, steps, "--steps")
    )
    if other is not None:
        raise KDecayError(f"{option}: the study has {length.setting}; use --{length.unit}s")
    return length.position(DEFAULT_REPORTS) if wanted is None else wanted


def _announce(spec: StudySpec, short: StudySpec, k: float, device: str) -> None:
    from kdecay_search.study.own_parameters import own_text

    length, trained = spec.task.length, spec.task.length == short.task.length
    how_many = "all" if trained else f"{short.task.length.total:,} of"
    compressed = "" if trained else "; the schedule is compressed into them"
    own = "".join(f", {name} = {own_text(value)}" for name, value in spec.original.args)
    echo(
        f"{spec.name}: one run in this process, without a database\n"
        f"{how_many} {length}, k = {k:g}{own}, seed 0, {device}{compressed}\n"
    )


def _run(tryout: Tryout, k: float, device: str, times: list[float]) -> bool:
    """Train; return whether it succeeded, and print the reason if it did not.

    Args:
        tryout: Takes down what is observed.
        k: The exponent of the schedule.
        device: Where to train.
        times: Takes the seconds of the first run.
    """
    from kdecay_search.errors import KDecayError, TaskError
    from kdecay_search.user_code.entry import InvalidEntry
    from kdecay_search.user_code.failures import describe, user_traceback
    from kdecay_search.user_code.monitoring import RunFailed

    try:
        _train(tryout, k, device, times)
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


def _train(tryout: Tryout, k: float, device: str, times: list[float]) -> None:
    from kdecay_search.training.decoder_processes import keep_sockets_short
    from kdecay_search.user_code.entry import import_function
    from kdecay_search.user_code.function import run_function
    from kdecay_search.user_code.tryout import try_another_seed, try_function, try_task
    from kdecay_search.worker.train import load_task

    log = _logger()
    task = tryout.spec.task
    begin = time.monotonic()
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
    times.append(time.monotonic() - begin)
    metric = tryout.spec.task.metric
    result = tryout.result
    returned = "" if result is None else f": returned {tryout.form.value(metric.error(result))}"
    log(f"the end{returned}")
    if task.kind == "python":
        try_another_seed(tryout, lambda run: run_function(function, run), k, device, log)
    elif task.kind == "command":
        try_another_seed(tryout, load_task(tryout.spec), k, device, log)


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


def _say_budget(spec: StudySpec, tryout: Tryout, times: list[float]) -> None:
    """Say what the budget of a search of whole schedules takes at the pace of the first run."""
    from kdecay_search.report.cost import budget_sentence

    if spec.search.is_joint:
        share = tryout.spec.task.length.total / spec.task.length.total
        echo(budget_sentence(spec, times[0] / share, "by this run, its start included"))


def _print(level: str, text: str) -> None:
    from rich.text import Text

    print_result(Text.assemble(SYMBOLS[level], f" {text}"))
