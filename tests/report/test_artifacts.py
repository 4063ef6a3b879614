"""The schedules that finished studies found, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optuna.artifacts import get_all_artifact_meta

from kdecay_search.report.dashboard import artifacts
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage
from tests.report.dashboards import launched, seen, work


def test_what_a_study_found_is_kept_once_as_source_and_json(
    storage: Storage, name: str, tmp_path: Path
) -> None:
    launched(storage, name)
    store = artifacts.artifact_store(str(tmp_path / "new" / "folder"))
    work(storage, name, 5)
    snapshot = read_snapshot(storage, name)
    for _ in range(2):
        assert artifacts.keep_winner(storage, store, snapshot)
    kept = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(seen(storage, name))}
    assert set(kept) == {f"{name}-k-2.py", f"{name}-k-2.json"}
    names: dict[str, Any] = {}
    with store.open_reader(kept[f"{name}-k-2.py"]) as source:
        exec(source.read(), names)
    assert names["learning_rate"](5, 10) == snapshot.spec.schedule_for((2.0,))(5, 10)
    store.remove(kept[f"{name}-k-2.json"])  # as if the process had been killed before it
    artifacts.keep_winner(storage, store, snapshot)
    with store.open_reader(kept[f"{name}-k-2.json"]) as found:
        assert json.load(found)["schedule"]["ks"] == [2.0]
    assert len(get_all_artifact_meta(seen(storage, name))) == 2
    other = Storage(storage.secret_url)
    with other.lock(f"artifacts/{name}") as held:
        assert held is not None
        assert not artifacts.keep_winner(storage, store, snapshot)
    other.close()
