"""``check``: validate a study file and print its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import Overrides, StorageUrl, StudyFile, opened
from kdecay_search.cli.output import echo, print_result

if TYPE_CHECKING:
    from kdecay_search.study.spec import StudySpec


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    file: StudyFile,
    set_: Overrides = None,
    timed: Annotated[
        bool,
        typer.Option(
            "--timed",
            help="Also say how long the budget takes, by the runs of the study in the database.",
        ),
    ] = False,
    storage: StorageUrl = None,
) -> None:
    """Validate a study file and print its plan.

    The plan lists the stages, and how many runs and epochs (or steps) each of them takes at most.
    For a search of whole schedules, it lists what is searched, the usual schedules that are tuned
    within the budget, and what the budget means.
    For a folder of images, it also says which classes were found, how they are split, and whether
    images to train on and to measure errors on are copies of each other.
    """
    from kdecay_search.study.file import load
    from kdecay_search.training.data.description import describe_data

    spec = load(file, set_ or [])
    require_data(spec)
    task, found = spec.task, []
    if task.kind == "images" and task.data.name in ("image-folder", "imagenet"):
        found = list(describe_data(task.data))
    echo(f"{spec.name}: {file} is valid")
    for line in found:
        echo(f"data: {line}")
    if spec.search.is_joint:
        _print_budget(spec, _seconds_per_run(spec, storage) if timed else None)
    else:
        _print_plan(spec)


def require_data(spec: StudySpec) -> None:
    """Raise :class:`DataError` if the data of the study is not on this machine."""
    from pathlib import Path

    from kdecay_search.errors import DataError

    if spec.task.kind != "images" or spec.task.data.name not in ("image-folder", "imagenet"):
        return
    root = spec.task.data.root
    if root is None or not Path(root).is_dir():
        raise DataError(f"task.data.root = {root}: no such folder; it must be that of the data set")


def _print_plan(spec: StudySpec) -> None:
    from rich.table import Table

    from kdecay_search.search import runs_at_most
    from kdecay_search.study.comparators import comparators_of

    search, length = spec.search, spec.task.length
    table = Table(box=None)
    for heading in ("stage", "candidates", "seeds", "runs", f"{length.unit}s"):
        table.add_column(heading, justify="right")
    counts = runs_at_most(spec)
    rows = [
        (str(stage), candidates, search.seeds, runs)
        for stage, (candidates, runs) in enumerate(counts, start=1)
    ]
    if spec.confirm.seeds:
        comparators, seeds = len(comparators_of(spec)), spec.confirm.seeds
        rows.append(("confirm", comparators, seeds, comparators * seeds))
    for stage, *numbers in rows:
        table.add_row(stage, *(f"{number:,}" for number in (*numbers, numbers[-1] * length.total)))
    total = sum(runs for *_, runs in rows)
    table.add_row("all", "", "", f"{total:,}", f"{total * length.total:,}", style="bold")
    where = f"k from {search.k_min:g} to {search.k_max:g}"
    if search.sampler == "grid":
        step, largest = search.k_step, search.ks[-1] if search.ks else search.k_max
        listed = ", ".join(f"{k:g}" for k in search.ks or ())
        where = f"k of {listed}" if listed else f"{where} by {step:g}"
        if largest + step <= search.cap:
            where += f", growing by {step:g} to {search.cap:g} if the best k is the largest"
    if search.lr_max:
        listed = ", ".join(f"{level:g}" for level in search.lr_max)
        where += f", with the first term at each lr_max of {listed}"
    echo(
        f"{search.sampler} search, {where}; up to {search.max_terms} terms; "
        f"{spec.schedule.family} schedule; {length} per run"
    )
    print_result(table)
    echo("At most: hopeless runs stop early, and a term that does not help ends the search.")


def _seconds_per_run(spec: StudySpec, storage: str | None) -> float:
    """Measure how long a run takes, by those of the study in the database.

    Raises:
        StudyError: None of its runs has been timed.
    """
    from kdecay_search.errors import StudyError
    from kdecay_search.report.cost import seconds_per_run
    from kdecay_search.snapshot import read_snapshot
    from kdecay_search.storage.durations import read_durations
    from kdecay_search.storage.records import study_names

    seconds = None
    with opened(storage) as store:
        if spec.name in study_names(store):
            snapshot = read_snapshot(store, spec.name)
            seconds = seconds_per_run(snapshot, read_durations(store, spec.name))
    if seconds is None:
        raise StudyError(
            f"--timed: no run of study {spec.name!r} has been timed yet; kdecay try estimates it"
        )
    return seconds


def _print_budget(spec: StudySpec, seconds: float | None) -> None:
    """Print what a search of whole schedules may try, and what its budget means."""
    from rich.table import Table
    from rich.text import Text

    from kdecay_search.report import whole
    from kdecay_search.report.cost import budget_sentence

    search, length, space = spec.search, spec.task.length, spec.schedule_space()
    families = ", ".join(family.family for family in space.families)
    echo(
        f"{search.sampler} search of whole schedules ({families}); the original is a "
        f"{spec.schedule.family} schedule; {length} per run"
    )
    table = Table(box=None)
    for heading in ("parameter", "searched", "of"):
        table.add_column(heading)
    for row in whole.space_rows(spec):
        table.add_row(*map(Text, row))
    print_result(table)
    echo(f"usual schedules, tuned within the budget: {whole.baseline_names(spec)}")
    table = Table(box=None)
    for heading in ("", "runs", f"{length.unit}s"):
        table.add_column(heading, justify="right")
    rows = [("search", search.budget)]
    if spec.confirm.seeds:
        rows.append(("confirm", (2 + len(space.baselines)) * spec.confirm.seeds))
        rows.append(("all", sum(runs for _, runs in rows)))
    for name, runs in rows:
        style = "bold" if name == "all" else ""
        table.add_row(name, f"{runs:,}", f"{runs * length.total:,}", style=style)
    print_result(table)
    echo(
        f"{budget_sentence(spec, seconds, 'by its runs so far')} It is the most: the search ends "
        "when no further run is worth it."
    )
