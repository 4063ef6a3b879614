"""``init``: write an example study, with its training code, to start from."""

from __future__ import annotations

import shlex
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from kdecay_search.cli.output import echo


class Kind(StrEnum):
    """The examples; each is a folder of ``kdecay_search/examples``."""

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
"""The modules that each example imports, and the packages that provide them."""
STUDY, CODE = "study.toml", "train.py"


def register(app: typer.Typer) -> None:
    app.command()(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to write; created if needed.")
    ] = Path(),
    for_: Annotated[
        Kind,
        typer.Option("--for", help="The library you train with; command is any program."),
    ] = Kind.PYTORCH,
) -> None:
    """Write an example study to start from.

    It consists of a study file and training code, and runs as it is in a minute on a CPU. Existing
    files are never overwritten.
    """
    from importlib.util import find_spec

    source = files("kdecay_search") / "examples" / for_.value
    contents = {name: (source / name).read_text(encoding="utf-8") for name in (STUDY, CODE)}
    _write(folder, contents)
    echo(f"wrote {folder / STUDY} and {folder / CODE}\n")
    missing = [package for module, package in NEEDS[for_].items() if find_spec(module) is None]
    steps = [f"cd {shlex.quote(str(folder))}"] if folder != Path() else []
    steps += [f"pip install {' '.join(missing)}"] if missing else []
    steps += [f"kdecay try {STUDY}", f"kdecay launch {STUDY}"]
    notes = {
        "pip": "the example needs it",
        "kdecay try": "one short run, to check that it works",
        "kdecay launch": "the search",
    }
    for step in steps:
        note = next((note for start, note in notes.items() if step.startswith(start)), "")
        echo(f"    {step:<28}{note}".rstrip())
    echo(f"\nThen put your own training into {CODE}: see docs/own-code.md.")


def _write(folder: Path, contents: dict[str, str]) -> None:
    """Write all files or none; raise :class:`KDecayError` if one exists or cannot be written."""
    from kdecay_search.errors import KDecayError

    for name in contents:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise KDecayError(
                f"{folder / name}: exists and is not overwritten; use another folder: "
                "kdecay init FOLDER"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        where = error.filename or folder
        raise KDecayError(
            f"{where}: {error.strerror}; use a folder that this user can write to"
        ) from error
