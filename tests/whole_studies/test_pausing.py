"""Studies whose runs are paused: real workers, killed in the middle, on a real Postgres."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import State, Trial
from tests.support import wait
from tests.support.kdecay_command import Kdecay, simulated_study

wait_for = partial(wait.wait_for, seconds=120)
EPOCHS = 12


def stored(storage: Storage, name: str) -> list[FrozenTrial]:
    stages = records.read_stages(storage, name).values()
    return [trial for s in stages for trial in storage.optuna.get_all_trials(s.study_id)]


def paused_of(storage: Storage, name: str) -> list[Trial]:
    return [t for t in records.read_trials(storage, name) if t.state == State.PAUSED]


def pausing_study(folder: Path, name: str, **settings: Any) -> str:
    """A study of which some runs are paused, and some of these resumed."""
    return simulated_study(
        folder, name=name, task__epochs=EPOCHS, task__epoch_seconds=0.02,
        search__k_max=6.0, search__k_cap=6.0, search__k_step=0.5, task__surface__best_ks=[2.5],
        pruning__enabled=True, pruning__first_share=0.3,
        workers__heartbeat_seconds=0.2, workers__grace_seconds=2.0, **settings,
    )  # fmt: skip


def test_killing_every_worker_of_a_study_with_paused_runs_loses_nothing(
    kdecay: Kdecay, tmp_path: Path, storage: Storage
) -> None:
    file = pausing_study(tmp_path, "paused")
    first = kdecay.start("launch", file, "--workers", "2", start_new_session=True)
    paused = wait_for(lambda: first.poll() is not None or paused_of(storage, "paused"), "a pause")
    assert first.poll() is None, first.communicate()
    paused = paused_of(storage, "paused")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    summary = kdecay.json("launch", file, "--workers", "2")
    assert summary["state"] == "done"
    trials = stored(storage, "paused")
    assert {trial.state for trial in trials} <= {
        TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL,
    }  # fmt: skip
    assert {t.user_attrs["reason"] for t in trials if t.state == TrialState.FAIL} <= {"lost"}
    by_id = {trial._trial_id: trial for trial in trials}
    assert all(by_id[t.trial_id].state != TrialState.FAIL for t in paused)
    assert not any(trial.user_attrs.get("repeated_epochs") for trial in trials)
    have_been = [trial for trial in trials if "trained_seconds" in trial.user_attrs]
    closed = [trial for trial in have_been if trial.state == TrialState.PRUNED]
    for trial in closed:
        assert trial.value == trial.intermediate_values[trial.last_step]
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            assert sorted(trial.intermediate_values) == list(range(1, EPOCHS + 1))
    print(len(trials), len(have_been), len(closed))
