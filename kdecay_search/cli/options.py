"""Options that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search import credentials
from kdecay_search.cli.output import echo
from kdecay_search.errors import KDecayError

if TYPE_CHECKING:
    from kdecay_search.storage import Storage
    from kdecay_search.tasks.checkpoint import CheckpointFolder
    from kdecay_search.user_code.allowance import Allowance


def _or_from_file(url: str | None) -> str | None:
    """Return the URL, or else what the file that ``KDECAY_STORAGE_FILE`` names holds.

    Raises:
        KDecayError: The file is not readable, or does not hold one line.
    """
    file = os.environ.get(credentials.STORAGE_FILE)
    if url or not file:
        return url
    where = f"{credentials.STORAGE_FILE}={file}"
    try:
        lines = Path(file).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise KDecayError(
            f"{where}: {error.strerror}; it must be a file that this user can read"
        ) from error
    except ValueError:  # not UTF-8; the error would show the content
        lines = []
    given = [line.strip() for line in lines if line.strip()]
    if len(given) != 1:
        raise KDecayError(f"{where}: must hold one line, the URL of the database")
    credentials.keep_secret(*given, *credentials.passwords_of(*given))
    return given[0]


StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="KDECAY_STORAGE",
        callback=_or_from_file,
        help="The database: postgresql://user:password@host/database, or any other form that libpq "
        "accepts. Default: the content of the file that KDECAY_STORAGE_FILE names, or else your "
        "own embedded server.",
    ),
]
StudyFile = Annotated[str, typer.Argument(metavar="FILE", help="The study file (TOML).")]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the study file by its dotted key; repeatable.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Devices to train on: auto, cpu, cuda, cuda:N, cuda:N,M or all.",
    ),
]
DevicesPerRun = Annotated[
    int,
    typer.Option(
        "--devices-per-run",
        metavar="N",
        min=1,
        max=64,
        help="Devices on which one run is trained, by a process each; on the CPU, the processes.",
    ),
]
Fuse = Annotated[
    int,
    typer.Option(
        "--fuse",
        metavar="N",
        min=1,
        max=64,
        help="Runs of one seed that a worker trains at once, as one network; for the built-in task "
        "on one device.",
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints",
        envvar="KDECAY_CHECKPOINTS",
        metavar="DIR",
        help="Folder for the state of unfinished runs; on a cluster, one that all workers share. "
        "Default: checkpoints in KDECAY_HOME.",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="MODULE:FUNCTION",
        help="Allow studies to call this function of yours; repeatable. Default: none is imported.",
    ),
]
AllowCommand = Annotated[
    bool,
    typer.Option(
        "--allow-command",
        help="Allow studies to run any program. Everybody who can write to the database can then "
        "run programs on this machine.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def refuse_fused_devices(fuse: int, devices_per_run: int) -> None:
    """Refuse to train runs together that have several devices each.

    Raises:
        KDecayError: Both numbers are above 1.
    """
    if fuse > 1 and devices_per_run > 1:
        raise KDecayError(
            f"--fuse {fuse} with --devices-per-run {devices_per_run}: runs that are trained "
            "together share one device; leave out one of the two"
        )


def repeated_devices(device: str, devices_per_run: int, fuse: int) -> list[str]:
    """Options on which results depend, so that a command that resumes a study repeats them."""
    options = []
    if devices_per_run > 1:
        options += ["--device", device, "--devices-per-run", str(devices_per_run)]
    if fuse > 1:
        options += ["--fuse", str(fuse)]
    return options


@contextlib.contextmanager
def opened(url: str | None, patience_seconds: float = 0.0, trials: int = 1) -> Iterator[Storage]:
    """Connect to the storage, and close it at the end.

    Args:
        url: The database; None or an empty text stands for the embedded one.
        patience_seconds: How long to retry, since the server may still be starting.
        trials: How many trials this process holds at once, each with a connection.
    """
    from kdecay_search.storage import Storage, embedded
    from kdecay_search.storage.connect import retried_for

    def connect() -> Storage:
        if url:
            return Storage(url, connections=1 + trials)
        return Storage(embedded.embedded_url(), embedded.revive, connections=1 + trials)

    def log(text: str) -> None:
        echo(f"{text}; retrying for {patience_seconds:g} s", err=True)

    storage = retried_for(patience_seconds, connect, log)() if patience_seconds else connect()
    try:
        yield storage
    finally:
        storage.close()


def allowance(entries: list[str] | None, commands: bool) -> Allowance:
    """Return the training code that ``--allow`` and ``--allow-command`` let studies run.

    Raises:
        KDecayError: An entry is not of the form ``module:function``.
    """
    from kdecay_search.study.user_tasks import is_entry
    from kdecay_search.user_code.allowance import Allowance

    for entry in entries or []:
        if not is_entry(entry):
            raise KDecayError(
                f"--allow {entry}: must be MODULE:FUNCTION, as task.entry in the study file"
            )
    return Allowance(frozenset(entries or []), commands)


def checkpoint_folder(option: str | None) -> CheckpointFolder:
    """Return the folder for checkpoints, created if needed.

    Raises:
        KDecayError: It cannot be created.
    """
    from kdecay_search.paths import home
    from kdecay_search.tasks.checkpoint import CheckpointFolder

    root = Path(option).expanduser().resolve() if option else home() / "checkpoints"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KDecayError(
            f"--checkpoints {root}: {error.strerror}; use a folder that this user can write to"
        ) from error
    return CheckpointFolder(root)


def worker_environment(url: str | None, checkpoints: str | None) -> dict[str, str]:
    """Return the variables by which worker processes get the URL, which a command line would show
    to every user of the machine, and the folder for checkpoints."""
    given = {"KDECAY_STORAGE": url, "KDECAY_CHECKPOINTS": checkpoints}
    return {name: value for name, value in given.items() if value}
