"""A worker that trains several runs at once: each is reported, paused and ended on its own."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdecay_search import reconcile
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, pausing, queue, records
from kdecay_search.storage.durations import read_durations
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.tasks.protocol import Epoch, Interruption
from kdecay_search.training.fused.trainer import FusedTraining
from kdecay_search.worker import trial as worker_trial
from kdecay_search.worker.fused import train_trials
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.signals import DRAIN_SIGNALS, drain_on_signal
from kdecay_search.worker.train import WorkerContext, train_trial
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.memory_studies import study_table
from tests.support.wait import wait_for

KS = [1.0, 3.0, 5.0]
EPOCHS = 10


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """Restore what a training and a worker set for the whole process."""
    threads = torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in DRAIN_SIGNALS}
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def launched(storage: Storage, name: str, seeds: int = 1, **tables: Any) -> StudySpec:
    """Launch a study of small networks: a run for each of ``KS`` and each seed."""
    data = {"name": "digits", "subset": 240, "validation": 1 / 3}
    task = {"kind": "images", "epochs": EPOCHS, "batch_size": 20, "model": {"width": 4}}
    search = {"sampler": "grid", "ks": KS, "k_cap": KS[-1], "max_terms": 1, "seeds": seeds}
    table = {"task": task | {"data": data}, "search": search, "schedule": {"lr_max": 0.005}}
    spec = StudySpec.model_validate_json(json.dumps(study_table(name, **table | tables)))
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, name)
    return spec


def context_of(folder: Path, fuse: int = 1) -> WorkerContext:
    return WorkerContext("cpu", CheckpointFolder(folder), threading.Event(), fuse)


def trained(storage: Storage, spec: StudySpec, folder: Path) -> dict[float | None, str]:
    """Claim all trials of the first seed and train them together; the outcomes by k."""
    first = queue.claim(storage, spec.name, "me")
    assert first is not None
    claims = [first, *queue.claim_alike(storage, first, 8)]
    outcomes: dict[float | None, str] = {}
    returned = train_trials(
        storage, spec, claims, context_of(folder), lambda c, o: outcomes.update({c.request.k: o})
    )
    assert [outcomes[claim.request.k] for claim in claims] == returned
    return outcomes


def by_k(storage: Storage, spec: StudySpec) -> dict[float | None, Trial]:
    return {trial.k: trial for trial in records.read_history(storage, spec.name, spec.looks)}


def curves(storage: Storage, name: str) -> dict[tuple[float | None, int], list[float]]:
    """Training losses by k and seed: at low rates rounding changes their last digits alone."""
    trials = [t for t in records.read_trials(storage, name) if t.state == State.COMPLETE]
    found = {}
    for trial in trials:
        attributes = storage.optuna.get_trial(trial.trial_id).user_attrs
        found[trial.k, trial.key.seed] = attributes["training_loss"]
    assert len(found) == len(trials), "every run has one result"
    return found


def agree(storage: Storage, name: str, other: str) -> None:
    found, wanted = curves(storage, name), curves(storage, other)
    assert found.keys() == wanted.keys()
    for key, losses in wanted.items():
        np.testing.assert_allclose(found[key], losses, rtol=1e-3)


def test_a_run_is_paused_alone_and_resumed_without_the_others(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def goes_on(spec: StudySpec, trials: Collection[Trial], trial_id: int, memo: object) -> bool:
        return next(trial.k for trial in trials if trial.trial_id == trial_id) != 3.0

    monkeypatch.setattr(worker_trial, "goes_on", goes_on)
    spec = launched(storage, "fused-paused", pruning={"enabled": True})
    alone = launched(storage, "fused-not", pruning={"enabled": False})
    began = time.monotonic()
    outcomes = trained(storage, spec, tmp_path)
    times = read_durations(storage, spec.name)
    assert len(times) == len(KS)
    assert 0 < sum(times.values()) < 2 * (time.monotonic() - began), "they share the device"
    assert {k for k, outcome in outcomes.items() if outcome.endswith("%")} == {1.0, 5.0}
    assert outcomes[3.0].startswith("paused after ")
    paused = by_k(storage, spec)[3.0]
    assert (paused.state, paused.epochs < EPOCHS) == (State.PAUSED, True)
    pausing.resume(storage, [paused.trial_id])
    monkeypatch.undo()
    for each in (spec, *[alone] * len(KS)):
        claim = queue.claim(storage, each.name, "me")
        assert claim is not None
        assert train_trial(storage, each, claim, context_of(tmp_path)).endswith("%")
    assert by_k(storage, spec)[3.0].repeated_epochs == 0
    agree(storage, spec.name, alone.name)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_error_of_the_common_update_fails_every_run_and_one_of_a_run_that_run_alone(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = launched(storage, "fused-failed", workers={"max_attempts": 9})
    report = worker_trial.ClaimedTrial.report

    def refuse(self: worker_trial.ClaimedTrial, epoch: Epoch) -> type[Interruption] | None:
        if self.candidate.k == 3.0:
            raise ValueError("no report")
        return report(self, epoch)

    monkeypatch.setattr(worker_trial.ClaimedTrial, "report", refuse)
    outcomes = trained(storage, spec, tmp_path)
    assert outcomes[3.0] == "failed"
    assert {k for k, outcome in outcomes.items() if outcome.endswith("%")} == {1.0, 5.0}
    assert by_k(storage, spec)[3.0].message == "ValueError: no report"
    monkeypatch.undo()

    def fill(self: FusedTraining, images: object, labels: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(FusedTraining, "_train_step", fill)
    spec = launched(storage, "fused-full")
    assert set(trained(storage, spec, tmp_path).values()) == {"failed"}
    for trial in by_k(storage, spec).values():
        assert (trial.state, trial.reason) == (State.FAILED, "memory")
        assert "OutOfMemoryError: CUDA out of memory. (3 runs trained together)" in (
            trial.message or ""
        )
        assert "--fuse" in (trial.message or "")
        output = storage.optuna.get_trial(trial.trial_id).user_attrs["output"]
        assert output.count("Traceback") == 1
        assert output.rstrip().endswith("OutOfMemoryError: CUDA out of memory.")


def test_what_a_worker_lacks_puts_every_trial_back(storage: Storage, tmp_path: Path) -> None:
    data = {"name": "image-folder", "root": str(tmp_path / "missing")}
    task = {"kind": "images", "epochs": 2, "data": data}
    spec = launched(storage, "fused-missing", task=task)
    with pytest.raises(Exception, match="missing"):
        trained(storage, spec, tmp_path)
    assert {trial.state for trial in by_k(storage, spec).values()} == {State.WAITING}


def test_a_disturbed_study_has_the_results_of_an_undisturbed_one_that_trains_run_by_run(
    kdecay: Kdecay, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker is killed, the next is asked to end, another trains run by run until it is."""
    spec = launched(storage, "fused-disturbed", seeds=2)
    calm = launched(storage, "fused-calm", seeds=2)

    def trials(*states: State) -> list[Trial]:
        return [t for t in records.read_trials(storage, spec.name) if t.state in states]

    def serve(fuse: int, ends_at: int | None = None) -> None:
        """Serve the study in this process, until a run reports this epoch."""
        context, report = context_of(tmp_path, fuse), worker_trial.ClaimedTrial.report

        def ending(self: worker_trial.ClaimedTrial, epoch: Epoch) -> type[Interruption] | None:
            if epoch.number == ends_at and not context.stop.is_set():
                signal.raise_signal(signal.SIGTERM)
            return report(self, epoch)

        with monkeypatch.context() as patched:
            patched.setattr(worker_trial.ClaimedTrial, "report", ending)
            drain_on_signal(context.stop)
            Worker(storage, Options(spec.name, drain=True), context).serve()
        assert context.stop.is_set() == (ends_at is not None)

    options = ["--study", spec.name, "--checkpoints", str(tmp_path), "--device", "cpu"]
    worker = kdecay.fork("worker", *options, "--fuse", "4")
    wait_for(lambda: sum(t.epochs > 0 for t in trials(State.RUNNING)) == len(KS), "reports", 240)
    worker.kill()
    _, log = worker.communicate()
    assert "fused-disturbed: 3 runs of seed 0 are trained together" in log
    held = trials(State.RUNNING)
    assert queue.reap_process(storage, spec.name, f"{held[0].worker}") == len(KS)
    reconcile.reconcile(storage, spec.name)
    serve(fuse=4, ends_at=EPOCHS - 3)
    released = [trial.epochs for trial in trials(State.WAITING) if trial.epochs]
    assert len(released) == len(KS)
    assert min(released) >= EPOCHS - 4
    serve(fuse=1, ends_at=EPOCHS - 1)
    serve(fuse=4)
    assert read_snapshot(storage, spec.name).state == "done"
    ended = trials(State.COMPLETE)
    assert len(ended) == 2 * len(KS)
    assert sum(trial.repeated_epochs for trial in ended) == 0
    assert all(t.resumed_epochs >= min(h.epochs for h in held) for t in ended if not t.key.seed)
    Worker(storage, Options(calm.name, drain=True), context_of(tmp_path)).serve()
    agree(storage, spec.name, calm.name)


def test_what_cannot_be_trained_together_is_refused_before_anything_is_claimed(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    file = simulated_study(tmp_path, name="fused-refused")
    refused = (
        "--fuse 4: only runs of the built-in task (task.kind = 'images') can be trained "
        "together, and fused-refused has task.kind = 'simulated'; leave out --fuse"
    )
    done = kdecay.run("launch", file, "--fuse", "4", code=2)
    assert (done.stdout, done.stderr.strip()) == ("", f"kdecay: {refused}")
    assert "fused-refused" not in records.study_names(storage)
    kdecay.run("launch", file, "--workers", "0", "--detach")
    worker = ["worker", "--study", "fused-refused"]
    assert refused in kdecay.run(*worker, "--fuse", "4", code=2).stderr
    both = kdecay.run(*worker, "--fuse", "2", "--devices-per-run", "2", code=2)
    assert both.stderr.strip() == (
        "kdecay: --fuse 2 with --devices-per-run 2: runs that are trained together share one "
        "device; leave out one of the two"
    )
    assert "--fuse" in kdecay.run(*worker, "--fuse", "0", code=2).stderr
    context = context_of(tmp_path, fuse=2)
    every = Worker(storage, Options("fused-refused", drain=True), context)
    every._options = Options(None, drain=True)
    assert not every._work_on("fused-refused")
    assert {t.state for t in records.read_trials(storage, "fused-refused")} == {State.WAITING}
