"""Studies with a long history, written into Optuna's tables in bulk.

The rows are those that workers leave: the run request, the curves, a heartbeat, and one
intermediate value per epoch; a test compares them with a worker's own. The errors are those of the
simulated task.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy
from optuna.distributions import distribution_to_json

from kdecay_search import reconcile
from kdecay_search.search import make_plan
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.attributes import CURVES, LAUNCH, K, request_attributes
from kdecay_search.storage.parameters import k_range
from kdecay_search.storage.records import StoredStudy
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.spec import PruningSpec, StudySpec
from kdecay_search.study.trials import RunRequest
from kdecay_search.tasks.protocol import Epoch
from kdecay_search.tasks.simulated import curve

CANDIDATES = 20
"""Number of ks in a history; a longer history has more seeds of each."""
ALLOCATED = 4
"""Number of candidates that ran on every seed of an allocated study; the runs of the others were
skipped after the first seed."""
K_STEP = 0.5
"""Distance between neighbouring ks."""
NOISE = 0.4
"""Standard deviation between seeds, percentage points."""

WAITING = "WAITING"
NOW = "now"
"""Text that Postgres reads as the time of the transaction."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Past:
    """A trial to be written."""

    request: RunRequest
    """Its run."""
    epochs: Sequence[Epoch]
    """What it reported; empty if it is waiting or was skipped."""
    state: str
    """Name of its state in Optuna's tables."""


def full_grid(trials: int, more_seeds: int, epochs: int) -> tuple[StudySpec, list[Past]]:
    """A study without pruning.

    Args:
        trials: Number of complete trials, a multiple of ``CANDIDATES``.
        more_seeds: Number of further seeds that every candidate still has to run on.
        epochs: Number of epochs of a trial.
    """
    spec = _spec(f"full-{trials}", CANDIDATES, trials // CANDIDATES + more_seeds, epochs, False)
    return spec, _history(spec, trials)


def allocated(trials: int, more_seeds: int, epochs: int) -> tuple[StudySpec, list[Past]]:
    """A study with pruning: on each seed a few runs were trained and the rest were skipped.

    Args:
        trials: Number of ended trials, a multiple of ``CANDIDATES``.
        more_seeds: Number of further seeds on which the same few candidates are queued.
        epochs: Number of epochs of a trial.
    """
    seeds = trials // CANDIDATES
    spec = _spec(f"allocated-{trials}", CANDIDATES, seeds + more_seeds, epochs, True)
    history = _history(spec, trials)
    requests = [past.request for past in history[:ALLOCATED]]
    waiting = [
        Past(replace(request, key=replace(request.key, seed=seed)), (), WAITING)
        for seed in range(seeds, seeds + more_seeds)
        for request in requests
    ]
    return spec, history + waiting


def first_seed(trials: int, fresh: int, epochs: int) -> tuple[StudySpec, list[Past]]:
    """The same study just after its grid has grown.

    Args:
        trials: Number of ended trials, a multiple of ``CANDIDATES``.
        fresh: Number of new candidates, which run on the first seed, where runs may end early.
        epochs: Number of epochs of a trial.
    """
    spec = _spec(f"first-{trials}", CANDIDATES + fresh, trials // CANDIDATES, epochs, True)
    return spec, _history(spec, trials)


def _spec(name: str, candidates: int, seeds: int, epochs: int, prunes: bool) -> StudySpec:
    ks = [1.0 + K_STEP * index for index in range(candidates)]
    surface = {"best_ks": [4.0], "seed_noise": 0.0, "run_noise": NOISE}
    table = {
        "name": name,
        "task": {"kind": "simulated", "epochs": epochs, "surface": surface},
        "search": {"ks": ks, "k_max": ks[-1], "k_cap": ks[-1], "max_terms": 1, "seeds": seeds},
        "pruning": {"enabled": prunes},
    }
    return StudySpec.model_validate_json(json.dumps(table))


def _history(spec: StudySpec, trials: int) -> list[Past]:
    """The runs of the candidates, seed after seed. If the study has more than ``CANDIDATES``, some
    of those that it begins with are left out.

    A seed only shifts the curve of its candidate: simulating every curve would take longer than
    everything else here.
    """
    assert isinstance(spec.task, SimulatedTask)
    noise = random.Random(0)
    grid = spec.model_copy(update={"pruning": PruningSpec(enabled=False)})
    planned = {t.key.candidate: t for t in make_plan(grid, ()).enqueue if t.key.seed == 0}
    fresh = len(planned) - CANDIDATES
    requests = [planned[index] for index in sorted(planned) if not 1 <= index <= fresh]
    curves = [curve(spec.task, (request.k or 0.0,), seed=0) for request in requests]
    history = []
    for seed in range(trials // CANDIDATES):
        for index, request in enumerate(requests):
            run = replace(request, key=replace(request.key, seed=seed))
            if spec.pruning.enabled and seed > 0 and index >= ALLOCATED:
                history.append(Past(run, (), "PRUNED"))
            else:
                shifted = _shifted(curves[index], noise.gauss(0.0, NOISE))
                history.append(Past(run, shifted, "COMPLETE"))
    return history


def _shifted(epochs: Sequence[Epoch], points: float) -> list[Epoch]:
    """Epochs of a simulated task, which all have an averaged error, with their errors shifted."""
    return [
        replace(
            epoch,
            validation_error=epoch.validation_error + points,
            averaged_error=epoch.averaged_error + points,
        )
        for epoch in epochs
    ]


def write(storage: Storage, spec: StudySpec, past: Sequence[Past]) -> None:
    """Launch a study with this history, and queue what comes next."""
    reconcile.launch(storage, spec)
    study = records.read_study(storage, spec.name)
    study_id = study.stage_ids[1]
    ended = [trial for trial in past if trial.state != WAITING]
    with storage.engine.begin() as connection:
        reserve = "SELECT nextval('trials_trial_id_seq') FROM generate_series(1, :count)"
        ids = connection.scalars(sqlalchemy.text(reserve), {"count": len(ended)}).all()
        for table, columns, rows in _tables(study, ids, ended):
            _copy(connection, table, columns, rows)
    queue.enqueue(storage, study_id, [trial.request for trial in past if trial.state == WAITING])
    with storage.engine.connect() as connection:  # the server would do it within a minute
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sqlalchemy.text("VACUUM ANALYZE"))
    reconcile.reconcile(storage, spec.name)


def _tables(
    study: StoredStudy, ids: Sequence[int], past: Sequence[Past]
) -> Iterator[tuple[str, str, Iterator[Row]]]:
    """Yield the name, the columns without serial keys, and the rows of each of Optuna's tables."""
    study_id = study.stage_ids[1]
    trained = [(i, trial) for i, trial in zip(ids, past, strict=True) if trial.epochs]
    every = list(zip(ids, past, strict=True))
    yield (
        "trials",
        "trial_id, number, study_id, state, datetime_start, datetime_complete",
        ((i, number, study_id, trial.state, NOW, NOW) for number, (i, trial) in enumerate(every)),
    )
    yield (
        "trial_params",
        "trial_id, param_name, param_value, distribution_json",
        ((i, K, t.request.k, distribution_to_json(k_range(t.request))) for i, t in every),
    )
    yield (
        "trial_user_attributes",
        "trial_id, key, value_json",
        (
            (i, key, json.dumps(value))
            for i, trial in every
            for key, value in _attributes(trial, study).items()
        ),
    )
    yield (
        "trial_system_attributes",
        "trial_id, key, value_json",
        ((i, "fixed_params", json.dumps({"k": trial.request.k})) for i, trial in trained),
    )
    yield (
        "trial_values",
        "trial_id, objective, value, value_type",
        ((i, 0, trial.epochs[-1].validation_error, "FINITE") for i, trial in trained),
    )
    yield (
        "trial_intermediate_values",
        "trial_id, step, intermediate_value, intermediate_value_type",
        ((i, e.number, e.averaged_error, "FINITE") for i, trial in trained for e in trial.epochs),
    )
    yield "trial_heartbeats", "trial_id, heartbeat", ((i, NOW) for i, _ in trained)


def _attributes(trial: Past, study: StoredStudy) -> dict[str, Any]:
    request = request_attributes(trial.request) | {LAUNCH: study.launch}
    if not trial.epochs:
        return request
    curves = {name: [getattr(e, name) for e in trial.epochs] for name in CURVES}
    return {**request, "worker": "node-1:4242:cuda:0", **curves}


def _copy(connection: sqlalchemy.Connection, table: str, columns: str, rows: Iterator[Row]) -> None:
    """Write rows by COPY; backslashes, such as those of JSON's escapes, are doubled for its text
    format."""
    text = io.StringIO()
    for row in rows:
        fields = (str(value).replace("\\", "\\\\") for value in row)
        text.write("\t".join(fields) + "\n")
    text.seek(0)
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN", text)
