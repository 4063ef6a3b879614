"""Measure what studies that have ended cost: ``python -m benchmarks.finished``.

A worker that serves all studies trains a study of simulated runs, alone and behind many finished
studies, on the same server in one run. Also measured are ``kdecay list`` and a look for work of an
idle worker. The finished studies are copies of one that was really run.
"""

from __future__ import annotations

import argparse
import platform
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy

from kdecay_search import __version__, reconcile
from kdecay_search.storage import Storage, attributes, embedded_url, queue, records
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.search_spec import SearchSpec
from kdecay_search.study.spec import PruningSpec, StudySpec
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext

TEMPLATE = "finished-0"
RUNS_OF_TEMPLATE = 10
SETTLING_SECONDS = 45.0
"""How long a worker has been idle before its use of a core is measured."""
IDLE_SECONDS = 60.0
"""Time over which the use of a core by an idle worker is measured."""
COPIES = (
    """
    INSERT INTO studies (study_name)
    SELECT replace(study_name, :template, 'finished-' || n)
    FROM studies, generate_series(1, :last) n
    WHERE starts_with(study_name, :template || '/')
    """,
    """
    CREATE TEMPORARY TABLE copied ON COMMIT DROP AS
    SELECT t.study_id AS old, c.study_id AS new, split_part(c.study_name, '/', 1) AS name
    FROM studies t JOIN studies c ON c.study_name ~ '^finished-[1-9]'
      AND split_part(c.study_name, '/', 2) = split_part(t.study_name, '/', 2)
    WHERE starts_with(t.study_name, :template || '/')
    """,
    """
    INSERT INTO study_directions (study_id, objective, direction)
    SELECT new, objective, direction FROM copied JOIN study_directions ON study_id = old
    """,
    """
    INSERT INTO study_user_attributes (study_id, key, value_json)
    SELECT new, key, replace(value_json, :template, name)
    FROM copied JOIN study_user_attributes ON study_id = old
    """,
    """
    CREATE TEMPORARY TABLE copied_trials ON COMMIT DROP AS
    SELECT trial_id AS old, nextval('trials_trial_id_seq') AS new, copied.new AS study_id
    FROM copied JOIN trials ON study_id = copied.old
    """,
    """
    INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete)
    SELECT new, number, c.study_id, state, datetime_start, datetime_complete
    FROM copied_trials c JOIN trials ON trial_id = old
    """,
    """
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT new, key, value_json FROM copied_trials JOIN trial_user_attributes ON trial_id = old
    """,
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT new, objective, value, value_type FROM copied_trials JOIN trial_values ON trial_id = old
    """,
)
"""Statements that copy a study with its trials, without what they reported epoch by epoch."""


def spec_of(name: str, runs: int) -> StudySpec:
    """A study of a number of simulated runs."""
    return StudySpec(
        name=name,
        task=SimulatedTask(kind="simulated", epochs=2),
        search=SearchSpec(k_max=1.0 + 0.25 * (runs - 1), k_cap=1.0 + 0.25 * (runs - 1),
                          k_step=0.25, seeds=1, max_terms=1),
        pruning=PruningSpec(enabled=False),
    )  # fmt: skip


def serve(storage: Storage) -> None:
    """Serve all studies until no work is left."""
    with TemporaryDirectory() as folder:
        context = WorkerContext("cpu", CheckpointFolder(Path(folder)), threading.Event())
        Worker(storage, Options(study=None, drain=True), context).serve()


def add_finished(storage: Storage, count: int) -> None:
    """Add finished studies: one is run, and copied."""
    reconcile.launch(storage, spec_of(TEMPLATE, RUNS_OF_TEMPLATE))
    serve(storage)
    with storage.engine.begin() as connection:
        for statement in COPIES:
            values = {"template": TEMPLATE, "last": count - 1}
            bound = sqlalchemy.text(statement)
            connection.execute(bound, {key: values[key] for key in bound.compile().params})
    with storage.engine.connect() as connection:  # the server would do it within a minute
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sqlalchemy.text("VACUUM ANALYZE"))
    if records.active_studies(storage):
        raise RuntimeError(f"studies that are not {attributes.ENDED}")


def claim_seconds(storage: Storage, name: str, runs: int) -> float:
    """Seconds that a worker of all studies takes for each run of a new study."""
    reconcile.launch(storage, spec_of(name, runs))
    reconcile.reconcile(storage, name)
    started = time.perf_counter()
    serve(storage)
    return (time.perf_counter() - started) / runs


def idle_share(storage: Storage, held: int) -> float:
    """Share of a core that an idle worker uses beside studies whose runs other workers hold."""
    for number in range(held):
        name = f"held-{number}"
        spec = spec_of(name, RUNS_OF_TEMPLATE)
        patient = spec.workers.model_copy(update={"grace_seconds": 3600.0})
        reconcile.launch(storage, spec.model_copy(update={"workers": patient}))
        reconcile.reconcile(storage, name)
        while queue.claim(storage, name, "another worker") is not None:
            continue
    stop = threading.Event()
    with TemporaryDirectory() as folder:
        context = WorkerContext("cpu", CheckpointFolder(Path(folder)), stop)
        worker = Worker(storage, Options(study=None, drain=False), context)
        thread = threading.Thread(target=worker.serve)
        thread.start()
        try:
            time.sleep(SETTLING_SECONDS)
            clock = time.pthread_getcpuclockid(thread.ident or 0)
            before = time.clock_gettime(clock)
            time.sleep(IDLE_SECONDS)
            return (time.clock_gettime(clock) - before) / IDLE_SECONDS
        finally:
            stop.set()
            thread.join()


def main() -> None:
    """Measure, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500, help="finished studies")
    parser.add_argument("--runs", type=int, default=100, help="runs that are timed")
    parser.add_argument("--held", type=int, default=40, help="studies that others train")
    parser.add_argument("--storage", help="default: the embedded server; its studies stay")
    arguments = parser.parse_args()
    storage = Storage(arguments.storage or embedded_url())
    if records.study_names(storage):
        raise SystemExit("the database holds studies: give an empty one, or another KDECAY_HOME")
    print(f"kdecay-search {__version__}, Python {platform.python_version()}, {platform.machine()}")
    claim_seconds(storage, "warm-up", 20)
    alone = claim_seconds(storage, "alone", arguments.runs)
    add_finished(storage, arguments.studies)
    behind = claim_seconds(storage, "behind", arguments.runs)
    print(f"a run, no finished study:           {1000 * alone:6.2f} ms")
    print(f"a run, {arguments.studies} finished studies:       {1000 * behind:6.2f} ms")
    print(f"ratio:                              {behind / alone:6.2f}")
    for what, act in (("a list", records.read_overviews), ("a look for work", serve)):
        started = time.perf_counter()
        act(storage)
        print(f"{what + ':':35} {1000 * (time.perf_counter() - started):6.2f} ms")
    share = idle_share(storage, arguments.held)
    print(f"idle beside {arguments.held} held studies:       {100 * share:6.2f} % of a core")
    storage.close()


if __name__ == "__main__":
    main()
