"""The schedules that finished studies found, as files that the dashboard offers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from kdecay_search.errors import KDecayError
from kdecay_search.report.winner import winner_as
from kdecay_search.schedules.forms import Form
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage, records

FORMS = {Form.PYTHON: ".py", Form.JSON: ".json"}
"""Endings of the files by the form of the schedule."""


def artifact_store(folder: str) -> FileSystemArtifactStore:
    """Optuna's artifact store in ``folder``, which is created if it is missing.

    Raises:
        KDecayError: The folder cannot be created.
    """
    path = Path(folder).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KDecayError(
            f"--artifacts {path}: {error.strerror}; give a folder that can be written to"
        ) from error
    return FileSystemArtifactStore(path)


def keep_winner(storage: Storage, store: FileSystemArtifactStore, snapshot: StudySnapshot) -> bool:
    """Upload the schedule that a finished study found, as Python source and as JSON, each once.

    Returns:
        False if another process is doing so at this moment.
    """
    with storage.lock(f"artifacts/{snapshot.spec.name}") as held:
        if held is not None:
            _upload(storage, store, snapshot)
    return held is not None


def _upload(storage: Storage, store: FileSystemArtifactStore, snapshot: StudySnapshot) -> None:
    """Upload to the first stage: finished trials take no artifacts."""
    study_name = records.stage_name(snapshot.spec.name, 1)
    first = optuna.load_study(study_name=study_name, storage=storage.optuna)
    known = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(first)}
    for name, text in _files(snapshot):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_text(text, encoding="utf-8")
            if name not in known:
                upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=first)
            elif not _holds(store, known[name]):  # an upload was killed, or the folder is new
                with file.open("rb") as content:
                    store.write(known[name], content)


def _files(snapshot: StudySnapshot) -> Iterator[tuple[str, str]]:
    """Names of files, which hold the terms, and their contents."""
    leader = snapshot.plan.leader
    shape = ["k", *(f"{k:.4g}" for k in leader.ks)]
    if leader.point is not None and not leader.ks:
        shape = [leader.point.family or "", f"{leader.point.decay_share:.4g}"]
    stem = "-".join([snapshot.spec.name, *shape])
    for form, suffix in FORMS.items():
        with contextlib.suppress(KDecayError):  # a warm-up counts the user's updates
            yield stem + suffix, winner_as(snapshot, form)


def _holds(store: FileSystemArtifactStore, artifact_id: str) -> bool:
    try:
        store.open_reader(artifact_id).close()
    except ArtifactNotFound:
        return False
    return True
