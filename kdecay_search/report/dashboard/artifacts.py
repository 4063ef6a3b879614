"""The schedules that finished studies found, as files that the dashboard offers."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from kdecay_search.errors import InvalidSpec, KDecayError, StorageError, StudyError
from kdecay_search.report.winner import winner_as
from kdecay_search.schedules.export import Form
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, records

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
FORMS = {Form.PYTHON: ".py", Form.JSON: ".json"}


def artifact_store(folder: str) -> FileSystemArtifactStore:
    """Optuna's store in ``folder``, which is made. Raises :class:`KDecayError`."""
    path = Path(folder).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KDecayError(
            f"--artifacts {path}: {error.strerror}; give a folder that can be written to"
        ) from error
    return FileSystemArtifactStore(path)


def keep_winners(storage: Storage, store: FileSystemArtifactStore, stop: threading.Event) -> None:
    """Keep the winner of every study that is done, now and whenever one ends, until ``stop``."""
    kept: set[str] = set()
    while True:
        try:
            for name in records.study_names(storage):
                if name not in kept and keep_winner(storage, store, name):
                    kept.add(name)
        except (StorageError, OSError) as error:
            logger.warning("artifacts: %s", error)
        if stop.wait(LOOK_SECONDS):
            return


def keep_winner(storage: Storage, store: FileSystemArtifactStore, name: str) -> bool:
    """Upload the winner of one study as source and JSON, each once; whether the study is done."""
    try:
        snapshot = read_snapshot(storage, name)
    except (StudyError, InvalidSpec):
        return False
    if snapshot.state != "done":
        return False
    with storage.lock(f"artifacts/{name}") as held:
        if held is not None:
            _upload(storage, store, snapshot)
    return held is not None


def _upload(storage: Storage, store: FileSystemArtifactStore, snapshot: StudySnapshot) -> None:
    """As artifacts of the first stage, whose finished trials take none."""
    study_name = records.stage_name(snapshot.spec.name, 1)
    first = optuna.load_study(study_name=study_name, storage=storage.optuna)
    known = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(first)}
    for name, text in _files(snapshot):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_text(text)
            if name not in known:
                upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=first)
            elif not _holds(store, known[name]):  # somebody was killed over it, or a new folder
                with file.open("rb") as content:
                    store.write(known[name], content)


def _files(snapshot: StudySnapshot) -> Iterator[tuple[str, str]]:
    """Names, which tell the terms apart, and contents."""
    stem = "-".join([snapshot.spec.name, "k", *(f"{k:.4g}" for k in snapshot.plan.leader.ks)])
    for form, suffix in FORMS.items():
        with contextlib.suppress(KDecayError):  # a warm-up is counted in the user's own updates
            yield stem + suffix, winner_as(snapshot, form)


def _holds(store: FileSystemArtifactStore, artifact_id: str) -> bool:
    try:
        store.open_reader(artifact_id).close()
    except ArtifactNotFound:
        return False
    return True
