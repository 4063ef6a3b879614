"""The studies of a scenario: shipped study files with overrides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

Task = Literal["simulated", "digits"]
FILES = Path(__file__).parents[2] / "studies"


def grace_seconds(short: bool) -> float:
    """The grace period, which freezes, cuts and outages exceed."""
    return 1.5 if short else 2.5


def _workers(short: bool) -> dict[str, Any]:
    return {
        "workers.heartbeat_seconds": 0.2 if short else 0.3,
        "workers.grace_seconds": grace_seconds(short),
        "workers.max_attempts": 20,  # five kills cost a run one of its attempts
    }


def disturbed(task: Task, pruning: bool, short: bool) -> dict[str, Any]:
    """Settings of the disturbed study, by dotted key.

    With pruning, the search has one term and its grid does not grow, so that the undisturbed study,
    which is never pruned, holds the curve of every run that the disturbed study may train. It then
    has more seeds, few of which are trained.
    """
    few, many = (
        ((2, 6) if short else (3, 8)) if task == "simulated" else ((3, 6) if short else (6, 8))
    )
    return {
        "name": "disturbed",
        "pruning.enabled": pruning,
        "search.max_terms": 1 if pruning or task == "digits" else 2,
        "search.seeds": many if pruning else few,
        **(_digits(short) if task == "digits" else _simulated(short)),
        "search.sampler": "grid",
        **_workers(short),
    }


def undisturbed(task: Task, pruning: bool, short: bool) -> dict[str, Any]:
    """Settings of the undisturbed study: it trains all runs; simulated epochs take no time."""
    values = disturbed(task, pruning, short)
    instant = {"task.epoch_seconds": 0.0} if task == "simulated" else {}
    return values | instant | {"name": "undisturbed", "pruning.enabled": False}


def launch_arguments(task: Task, values: dict[str, Any]) -> list[str]:
    """The arguments of ``kdecay launch``."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    file = str(FILES / f"{task}.toml")
    return [file, *(part for override in overrides for part in ("--set", override))]


def _simulated(short: bool) -> dict[str, Any]:
    """A surface on which each of two terms helps; a run takes 1.5 (short) or 3 seconds."""
    return {
        "task.epochs": 6 if short else 12,
        "task.epoch_seconds": 0.25,
        "task.surface.best_ks": [1.0, 6.0],
        "task.surface.best_lr_max": 0.1,  # that of the file's schedule
        "task.surface.curvature": 2000.0,
        "task.surface.run_noise": 0.05,
        "search.k_cap": 5.0,
        "search.k_step": 1.0 if short else 0.5,
    }


def _digits(short: bool) -> dict[str, Any]:
    """The quick start's network and data."""
    grid = {"search.k_max": 4.0, "search.k_cap": 4.0, "search.k_step": 1.0}
    return {"task.epochs": 12 if short else 30, "confirm.seeds": 0} | grid
