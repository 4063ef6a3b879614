"""The pruner that looks at averaged values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import kdecay_search as kd
from kdecay_search.optuna import AveragedPruner, report
from kdecay_search.study.builtin_tasks import SimulatedTask, SurfaceSpec
from kdecay_search.tasks.simulated import curve

optuna.logging.set_verbosity(optuna.logging.WARNING)

KS = (8.0, 1.0, 1.5, 2.0, 3.0, 0.7, 0.5, 0.3)
"""The first is the best. It is tried last, when there are others to compare it with."""
TASK = SimulatedTask(
    kind="simulated", epochs=24, surface=SurfaceSpec(best_ks=(8.0,), crossing=30.0, noise_seed=3)
)


def played(
    pruner: optuna.pruners.BasePruner,
    storage: BaseStorage | None = None,
    scale: Callable[[float], float] = lambda value: value,
    direction: str = "minimize",
    seeds: tuple[int, ...] = (0,),
) -> optuna.Study:
    """A study of the exponents, the best of them last; values are turned by ``scale``."""

    def objective(trial: optuna.Trial) -> float:
        k = trial.suggest_categorical("k", KS)
        last = 0.0
        for seed in seeds:
            for epoch in curve(TASK, (k,), seed):
                assert epoch.averaged_error is not None
                raw, averaged = scale(epoch.validation_error), scale(epoch.averaged_error)
                report(trial, epoch.number, raw, averaged, seed)
                if trial.should_prune():
                    raise optuna.TrialPruned
                last = raw
        return last

    study = optuna.create_study(pruner=pruner, storage=storage, direction=direction)
    for k in (*KS[1:], KS[0]):
        study.enqueue_trial({"k": k})
    study.optimize(objective, n_trials=len(KS))
    return study


def states(study: optuna.Study) -> dict[float, TrialState]:
    return {trial.params["k"]: trial.state for trial in study.trials}


def ours(**keys: int) -> AveragedPruner:
    return AveragedPruner(TASK.epochs, **{"keep_at_least": 2, **keys})


def test_raw_values_would_have_ended_the_winner_and_averaged_ones_do_not() -> None:
    raw = optuna.pruners.PercentilePruner(50, n_startup_trials=2, n_warmup_steps=12)
    by_raw, by_averaged = played(raw), played(ours())
    assert states(by_raw)[8.0] == TrialState.PRUNED
    assert states(by_averaged)[8.0] == TrialState.COMPLETE
    assert by_averaged.best_params["k"] == 8.0
    pruned = [k for k, state in states(by_averaged).items() if state == TrialState.PRUNED]
    assert {0.5, 0.3} <= set(pruned)
    assert all(
        len(trial.intermediate_values) >= TASK.epochs / 2
        for trial in by_averaged.trials
        if trial.state == TrialState.PRUNED
    )


def test_only_the_order_counts() -> None:
    usual = states(played(ours()))
    assert states(played(ours(), scale=lambda value: 1e-6 * value + 40)) == usual
    assert states(played(ours(), scale=lambda value: -value, direction="maximize")) == usual


@pytest.mark.parametrize("kind", ["memory", "sqlite", "journal"])
def test_it_decides_alike_in_any_storage(kind: str, tmp_path: Path) -> None:
    storage: BaseStorage = InMemoryStorage()
    if kind == "sqlite":
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
    elif kind == "journal":
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    assert states(played(ours(), storage)) == states(played(ours()))


def test_seeds_are_compared_in_pairs_and_optuna_shows_the_first() -> None:
    study = played(ours(), seeds=(0, 1))
    assert states(study)[8.0] == TrialState.COMPLETE
    best = study.best_trial
    assert sorted(best.intermediate_values) == list(range(1, TASK.epochs + 1))
    assert len([key for key in best.user_attrs if key.startswith("kdecay:averaged:1:")]) == 24
    other = study.ask()
    report(other, 14, 1.0, 99.0, seed=7)  # which no other trial has
    assert not other.should_prune()


def test_a_trial_without_averaged_values_is_never_pruned() -> None:
    study = played(ours())
    trial = study.ask()
    for step in range(1, 24):
        trial.report(1e9, step)
        report(trial, 100 + step, 1e9)
        assert not trial.should_prune()


def test_a_trial_that_has_diverged_is_pruned_and_others_are_not_for_it() -> None:
    study = played(ours())
    for value in (math.nan, math.inf):
        trial = study.ask()
        report(trial, 12, value, value)
        assert trial.should_prune()
    best = study.ask()
    report(best, 12, 0.0, 0.0)
    assert not best.should_prune()


@pytest.mark.parametrize(
    "keys", [{"total_steps": 0}, {"first_share": 0.0}, {"first_share": 0.9}, {"keep_at_least": 0}]
)
def test_settings_that_make_no_sense_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        kd.optuna.AveragedPruner(**{"total_steps": 10, **keys})  # type: ignore[arg-type]
