"""The systems that :mod:`benchmarks.coordination` compares: the package and plain Optuna."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from sqlalchemy.engine import make_url

from kdecay_search import reconcile
from kdecay_search.storage import Storage, records
from kdecay_search.storage.deletion import delete_study
from kdecay_search.storage.queue import Claim
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext


@dataclass(frozen=True)
class Load:
    """The size of a study, and the number of workers that serve it."""

    workers: int
    """Number of workers."""
    trials: int
    """Number of trials of the study."""
    epochs: int
    """Number of epochs of a trial."""
    epoch_seconds: float
    """How long an epoch sleeps."""
    per_process: int = 1
    """Number of workers that are threads of one process; with more than one, more workers fit in
    the memory of the machine."""
    candidates: int | None = None
    """Number of candidates, each with as many seeds as it takes and without pruning; None gives
    every trial a candidate of its own."""


Serve = Callable[[str, Load, Callable[[], None]], None]
"""Works on the study at a URL until no trial is left, and calls back at the end of each trial."""


def spec_of(load: Load) -> StudySpec:
    """The study file of a load.

    If every trial is a candidate of its own, pruning is enabled and asked for, and ends no run.
    """
    candidates = load.candidates or load.trials
    step = 4.0 / max(1, candidates - 1)
    table = {
        "name": "coordination",
        "task": {"kind": "simulated", "epochs": load.epochs, "epoch_seconds": load.epoch_seconds},
        "search": {"ks": [round(1 + i * step, 9) for i in range(candidates)], "k_cap": 5.0}
        | {"seeds": math.ceil(load.trials / candidates), "max_terms": 1},
        "pruning": {"first_share": 1.0, "enabled": load.candidates is None},
    }
    return StudySpec.model_validate_json(json.dumps(table))


def serve_ours(url: str, load: Load, finished: Callable[[], None]) -> None:
    """Serve the study by a worker of the package."""
    folder = Path(os.environ["KDECAY_HOME"]) / "checkpoints"
    context = WorkerContext("cpu", CheckpointFolder(folder), threading.Event())
    storage = Storage(url)
    try:
        _CountingWorker(storage, context, finished).serve()
    finally:
        storage.close()


class _CountingWorker(Worker):
    def __init__(
        self, storage: Storage, context: WorkerContext, finished: Callable[[], None]
    ) -> None:
        super().__init__(storage, Options("coordination", drain=True), context)
        self._finished = finished

    def trial_ended(self, claim: Claim, outcome: str) -> None:
        super().trial_ended(claim, outcome)
        self._finished()


def serve_optuna(url: str, load: Load, finished: Callable[[], None]) -> None:
    """Serve the study by ``study.optimize`` until it has its trials."""

    def objective(trial: optuna.Trial) -> float:
        k = trial.suggest_float("k", 1.0, 5.0)
        for epoch in range(1, load.epochs + 1):
            time.sleep(load.epoch_seconds)
            trial.report(k / epoch, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return k

    def trial_ended(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        finished()

    study = optuna.load_study(
        study_name="coordination",
        storage=str(make_url(url).set(drivername="postgresql+psycopg2").render_as_string(False)),
        sampler=optuna.samplers.RandomSampler(seed=os.getpid()),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=10**6),  # asked, but prunes none
    )
    enough = optuna.study.MaxTrialsCallback(load.trials, states=None)
    study.optimize(objective, callbacks=[trial_ended, enough])


def create_ours(storage: Storage, load: Load) -> None:
    """Replace the package's study by a new one."""
    if "coordination" in records.study_names(storage):
        delete_study(storage, "coordination")
    reconcile.launch(storage, spec_of(load))
    reconcile.reconcile(storage, "coordination")


def create_optuna(storage: Storage, load: Load) -> None:
    """Replace the plain Optuna study by a new one."""
    if "coordination" in [s.study_name for s in storage.optuna.get_all_studies()]:
        optuna.delete_study(study_name="coordination", storage=storage.optuna)
    optuna.create_study(study_name="coordination", storage=storage.optuna)


SYSTEMS = {"kdecay": (serve_ours, create_ours), "optuna": (serve_optuna, create_optuna)}
"""How each system serves a study, and how it creates one."""
