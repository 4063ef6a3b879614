"""Runs a search from Python, in one of its three ways."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdecay_search.api import keywords, progress
from kdecay_search.api.in_process import InProcessSearch, UserFunction
from kdecay_search.api.result import Result
from kdecay_search.errors import InvalidSpec, TaskError
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.user_tasks import is_entry
from kdecay_search.tasks.outcome import curves_of
from kdecay_search.user_code import carried

CURVES = ("validation_error", "averaged_error", "training_loss")
"""Curves that are kept of every run."""
NO_ENTRY = "__main__:train"
"""Stands in a study's settings for a function that has no importable name."""


def find(
    train: UserFunction | None,
    study_file: str | Path | None,
    workers: int | None,
    storage: str | None,
    device: str | None,
    catch: type[Exception] | tuple[type[Exception], ...],
    show_progress: bool | None,
    stated: Mapping[str, Any],
) -> Result:
    """As :func:`kdecay_search.find_schedule`, with the keys of a study file as a mapping."""
    if train is not None and not callable(train):
        raise TaskError(f"find_schedule: train = {train!r}: must be a function that trains a run")
    caught = catch if isinstance(catch, tuple) else (catch,)
    if not all(isinstance(each, type) and issubclass(each, Exception) for each in caught):
        raise InvalidSpec(f"find_schedule: catch = {catch!r}: must hold classes of exceptions")
    if workers is None and storage is None:
        spec = keywords.spec_of(stated, study_file, None if train is None else entry_of(train))
        return _in_process(spec, train, device, caught, show_progress)
    if caught:
        raise InvalidSpec("find_schedule: catch goes without workers: they try a run again")
    return _with_workers(train, study_file, (workers, storage, device), show_progress, stated)


def _with_workers(
    train: UserFunction | None,
    study_file: str | Path | None,
    helpers: tuple[int | None, str | None, str | None],
    show_progress: bool | None,
    stated: Mapping[str, Any],
) -> Result:
    from kdecay_search.api import with_workers  # noqa: PLC0415 - starts a server

    (workers, storage, device), entry = helpers, None
    if train is not None:
        is_shared = storage is not None and is_importable(train)
        entry = entry_of(train) if is_shared else carried.ENTRY
    spec = keywords.spec_of(stated, study_file, entry)
    if study_file is None and stated.get("name") is None:
        spec = spec.model_copy(update={"name": with_workers.new_name()})
    with progress.shown(show_progress) as listener:
        return with_workers.search(
            spec,
            train if entry == carried.ENTRY else None,
            with_workers.Helpers(with_workers.worker_count(workers), storage, device),
            CURVES,
            listener,
        )


def _in_process(
    spec: StudySpec,
    train: UserFunction | None,
    device: str | None,
    catch: tuple[type[Exception], ...],
    show_progress: bool | None,
) -> Result:
    with progress.shown(show_progress) as listener:
        search = InProcessSearch(spec, train, device, catch, listener)
        search.run()
    return Result(
        search.snapshot(),
        search.steps_per_epoch or 1,
        {number: curves_of(curve, CURVES) for number, curve in search.store.curves.items()},
        search.store.seconds,
    )


def entry_of(train: UserFunction) -> str:
    """The name of a function as ``module:function``; one that cannot be imported by its name has a
    name that stands for it."""
    function = train.func if isinstance(train, functools.partial) else train
    entry = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    return entry if is_entry(entry) else NO_ENTRY


def is_importable(train: UserFunction) -> bool:
    """Whether workers that are started in the present folder can import a function by its name:
    its module is there, or installed."""
    module, _, name = entry_of(train).partition(":")
    known = sys.modules.get(module)
    if module == "__main__" or getattr(known, name, None) is not train:
        return False
    file = Path(getattr(known, "__file__", None) or "")
    place = Path.cwd().joinpath(*module.split("."))
    is_here = file in (place.with_suffix(".py"), place / "__init__.py")
    return is_here or bool({"site-packages", "dist-packages"} & set(file.parts))
