"""``init``: a study file and an example of training code to begin with."""

from __future__ import annotations

import shlex
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """For whom there is an example; each is a folder of ``kdecay_search/examples``."""

    PYTORCH = "pytorch"
    LIGHTNING = "lightning"
    HUGGINGFACE = "huggingface"
    COMMAND = "command"


NEEDS = {
    Kind.PYTORCH: {"torch": "torch", "sklearn": "scikit-learn"},
    Kind.LIGHTNING: {"lightning": "lightning", "sklearn": "scikit-learn"},
    Kind.HUGGINGFACE: {
        "transformers": "transformers",
        "accelerate": "accelerate",
        "sklearn": "scikit-learn",
    },
    Kind.COMMAND: {"numpy": "numpy", "sklearn": "scikit-learn"},
}
"""What each example imports, and the package that has it."""
STUDY, CODE = "study.toml", "train.py"


def register(app: typer.Typer) -> None:
    app.command()(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to write; made if it is not there.")
    ] = Path(),
    for_: Annotated[
        Kind,
        typer.Option("--for", help="What your training is written with; command is any program."),
    ] = Kind.PYTORCH,
) -> None:
    """Write a study file and an example of training code to begin with.

    Both run as they are, in a minute, on a CPU. A file that exists is never overwritten.
    """
    _write(folder, _contents(for_))
    typer.echo(f"wrote {folder / STUDY} and {folder / CODE}\n")
    missing = _missing(for_)
    steps = [f"cd {shlex.quote(str(folder))}"] if folder != Path() else []
    steps += [f"pip install {' '.join(missing)}"] if missing else []
    steps += [f"kdecay try {STUDY}", f"kdecay launch {STUDY}"]
    notes = {
        "pip": "the example needs it",
        "kdecay try": "one short run, to see that it works",
        "kdecay launch": "the search",
    }
    for step in steps:
        note = next((note for start, note in notes.items() if step.startswith(start)), "")
        typer.echo(f"    {step:<28}{note}".rstrip())
    typer.echo(f"\nThen put your own training into {CODE}: docs/own-code.md says what it gets.")


def _contents(kind: Kind) -> dict[str, str]:
    source = files("kdecay_search") / "examples" / kind.value
    return {name: (source / name).read_text(encoding="utf-8") for name in (STUDY, CODE)}


def _missing(kind: Kind) -> list[str]:
    from importlib.util import find_spec

    return [package for module, package in NEEDS[kind].items() if find_spec(module) is None]


def _write(folder: Path, contents: dict[str, str]) -> None:
    """All of them, or none. Raises :class:`KDecayError`."""
    from kdecay_search.errors import KDecayError

    for name in contents:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise KDecayError(
                f"{folder / name}: exists and is left as it is; give another folder: "
                "kdecay init FOLDER"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise KDecayError(
            f"{error.filename or folder}: {error.strerror}; give a folder that can be written to"
        ) from error
