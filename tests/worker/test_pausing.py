"""Workers pause runs at a look, and resume them from their checkpoints: on a real Postgres."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage, pausing, queue, records
from kdecay_search.storage.queue import Claim
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, RAW_ONLY, RunKey, RunRequest, State, Trial
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.tasks.protocol import Epoch, Lost, Paused
from kdecay_search.tasks.simulated import curve
from kdecay_search.worker import trial as worker_trial
from kdecay_search.worker.train import WorkerContext, checkpoint_of, keeps_state, train_trial
from kdecay_search.worker.trial import ClaimedTrial
from tests.support.memory_studies import study
from tests.support.queued_runs import queued, request

EPOCHS = 12
LOOK = 6
"""The first look of these studies; there is one after each later epoch, too."""

KEEPS = """
def train(run):
    total = run.resume() or 0
    for epoch in run.remaining_epochs():
        total += epoch
        run.report(epoch, 40.0 / total, 30.0 / total)
        run.save(total)
"""
KEEPS_NOTHING = """
def train(run):
    for epoch in range(1, run.epochs + 1):
        run.report(epoch, 40.0 / epoch, 30.0 / epoch)
"""


def spec_of(name: str, **tables: Any) -> StudySpec:
    return study(name, epochs=EPOCHS, pruning={"enabled": True}, **tables)


def decide(monkeypatch: pytest.MonkeyPatch, pauses_at: Collection[int]) -> list[int]:
    """Pause at these looks; return the list of all looks that are asked about."""
    asked: list[int] = []

    def goes_on(spec: StudySpec, trials: Collection[Trial], trial_id: int, memo: object) -> bool:
        (own,) = [trial for trial in trials if trial.trial_id == trial_id]
        asked.append(max(own.looks))
        return asked[-1] not in pauses_at

    monkeypatch.setattr(worker_trial, "goes_on", goes_on)
    return asked


def claimed(storage: Storage, name: str) -> Claim:
    claim = queue.claim(storage, name, "me")
    assert claim is not None
    return claim


def worked(storage: Storage, spec: StudySpec, folder: Path) -> str:
    """Claim a trial and train it as a worker does; return the outcome."""
    context = WorkerContext("cpu", CheckpointFolder(folder), threading.Event())
    return train_trial(storage, spec, claimed(storage, spec.name), context)


def only(storage: Storage, spec: StudySpec) -> Trial:
    (trial,) = records.read_history(storage, spec.name, spec.looks)
    return trial


def curves(storage: Storage, trial: Trial) -> dict[str, list[float]]:
    attributes = storage.optuna.get_trial(trial.trial_id).user_attrs
    return {name: attributes[name] for name in ("validation_error", "averaged_error")}


def test_a_run_that_has_made_its_last_report_is_not_paused(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision at the last look comes when the run makes its last report."""
    asked = decide(monkeypatch, {EPOCHS - 1})
    spec = spec_of("paused-late")
    queued(storage, spec.name, [request(0, 2.0)])
    worked(storage, spec, tmp_path)
    assert asked[-1] == EPOCHS - 1
    assert only(storage, spec).state == State.COMPLETE


def test_a_run_is_paused_and_resumed_to_the_bit(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("to-the-bit")
    queued(storage, spec.name, [request(0, 2.0)])
    asked = decide(monkeypatch, {LOOK, 9})
    for look in (LOOK, 9):
        assert worked(storage, spec, tmp_path).startswith("paused after ")
        trial = only(storage, spec)
        assert trial.state == State.PAUSED
        assert look <= trial.epochs <= look + 1, "it may have trained on during the decision"
        assert list(trial.looks) == list(range(LOOK, trial.epochs + 1))
        kept = checkpoint_of(CheckpointFolder(tmp_path), spec, None, trial.request, trial.point)
        assert kept.exists
        assert queue.claim(storage, spec.name, "other") is None
        assert len(curves(storage, trial)["validation_error"]) == trial.epochs
        pausing.resume(storage, [trial.trial_id])
    assert worked(storage, spec, tmp_path).endswith("%")
    trial = only(storage, spec)
    assert trial.state == State.COMPLETE
    assert (trial.resumed_epochs, trial.repeated_epochs) == (0, 0)
    whole = [astuple(epoch) for epoch in curve(spec.task, (2.0,), 0)]  # type: ignore[arg-type]
    assert curves(storage, trial)["validation_error"] == [epoch[2] for epoch in whole]
    assert curves(storage, trial)["averaged_error"] == [epoch[3] for epoch in whole]
    assert sorted(set(asked)) == asked, "no look is asked about twice"
    assert not kept.exists


def test_a_worker_without_the_checkpoint_begins_anew_and_the_trial_says_so(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("elsewhere")
    queued(storage, spec.name, [request(0, 2.0)])
    asked = decide(monkeypatch, {LOOK})
    worked(storage, spec, tmp_path / "here")
    first = only(storage, spec)
    pausing.resume(storage, [first.trial_id])
    worked(storage, spec, tmp_path / "there")
    trial = only(storage, spec)
    assert asked == [LOOK, *range(first.epochs + 1, EPOCHS)]
    assert (trial.state, trial.repeated_epochs) == (State.COMPLETE, first.epochs)
    snapshot = StudySnapshot(spec, [trial], stopped=False)
    assert snapshot.epochs_trained == EPOCHS + first.epochs


@pytest.mark.parametrize("source", [KEEPS, KEEPS_NOTHING])
def test_own_code_is_paused_only_if_it_keeps_its_state(
    storage: Storage, own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    keeps = source == KEEPS
    Path("mine.py").write_text(source)
    task = {"kind": "python", "epochs": EPOCHS, "entry": "mine:train"}
    spec = spec_of(f"own-code-{keeps}".lower(), task=task)
    queued(storage, spec.name, [request(0, 2.0)])
    asked = decide(monkeypatch, {LOOK})
    if keeps:
        assert worked(storage, spec, tmp_path).startswith("paused after ")
        pausing.resume(storage, [only(storage, spec).trial_id])
    assert worked(storage, spec, tmp_path).endswith("%")
    trial = only(storage, spec)
    assert (trial.state, trial.repeated_epochs, bool(asked)) == (State.COMPLETE, 0, keeps)
    total = sum(range(1, EPOCHS + 1)) if keeps else EPOCHS
    assert trial.error == pytest.approx(40.0 / total)


def test_what_cannot_be_kept_is_not_paused(tmp_path: Path) -> None:
    spec = spec_of("unwritable")
    trial = Trial(0, request(0, 2.0), State.RUNNING, 2.0)
    kept = checkpoint_of(CheckpointFolder(tmp_path / "file" / "in"), spec, None, trial.request,
                         trial.point)  # fmt: skip
    assert keeps_state(spec, kept)
    (tmp_path / "file").touch()
    kept.write(b"state")
    assert not keeps_state(spec, kept)


def at_look(storage: Storage, spec: StudySpec, **changes: Any) -> ClaimedTrial:
    asked = RunRequest(RunKey(1, 0, 0), (), 2.0, (1.0, 5.0), **changes)
    if asked.comparator:
        asked = RunRequest(RunKey(CONFIRMATION, 0, 30), (), 2.0, (1.0, 5.0), comparator="found")
    queued(storage, spec.name, [asked])
    trial = ClaimedTrial(storage, spec, claimed(storage, spec.name))
    trial.keeps_state = True
    return trial


def averaged(number: int, value: float | None = 30.0) -> Epoch:
    return Epoch(number, 1.0, 40.0, value)


def test_what_is_asked_about(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = decide(monkeypatch, set(range(EPOCHS + 1)))
    trial = at_look(storage, spec_of("asked"))
    assert trial.report(averaged(LOOK - 1)) is None
    assert trial.report(averaged(LOOK)) is Paused
    assert trial.report(averaged(EPOCHS)) is None
    assert trial.report(averaged(LOOK + 1, float("inf"))) is None
    restored = at_look(storage, spec_of("asked-restored"))
    restored.restore(LOOK + 2)
    assert restored.report(averaged(LOOK + 2)) is None
    restored.keeps_state = False
    assert restored.report(averaged(LOOK + 3)) is None
    assert asked == [LOOK]
    raw = at_look(storage, spec_of("asked-raw"))
    assert raw.report(averaged(LOOK, None)) is None
    confirmation = at_look(storage, spec_of("asked-confirmation"), comparator="found")
    assert confirmation.report(averaged(LOOK)) is None
    off = at_look(storage, study("asked-off", epochs=EPOCHS, pruning={"enabled": False}))
    assert off.report(averaged(LOOK)) is None
    assert asked == [LOOK]


def test_a_trial_that_others_failed_after_its_report_is_lost(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(monkeypatch, ())
    trial = at_look(storage, spec_of("reaped"))
    reported = queue.report

    def report_and_lose(store: Storage, held: Claim, *values: Any) -> bool:
        found = reported(store, held, *values)
        queue.fail(storage, held.trial_id, "lost", None)
        return found

    monkeypatch.setattr(queue, "report", report_and_lose)
    assert trial.report(averaged(LOOK)) is Lost


def test_raw_values_are_marked(storage: Storage) -> None:
    spec = spec_of("marked-raw")
    trial = at_look(storage, spec)
    trial.report(averaged(LOOK, None))
    stored = only(storage, spec)
    assert storage.optuna.get_trial(stored.trial_id).user_attrs[RAW_ONLY] is True
    assert (stored.looks, stored.raw_error) == ({}, 40.0)
