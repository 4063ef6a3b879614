"""Schedules as parameters of an Optuna study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

import kdecay_search as kd
from kdecay_search.optuna.schedule import CANDIDATE
from kdecay_search.schedules.baselines import WarmupStableDecay

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_a_schedule_has_the_parameters_of_its_family() -> None:
    trial = FixedTrial(
        {
            "schedule_family": "polynomial",
            "schedule_k": 2.0,
            "schedule_power": 1.5,
            "schedule_lr_max": 0.1,
            "schedule_lr_min_share": 0.05,
            "weight_decay": 1e-4,
        }
    )
    found = kd.suggest_schedule(trial, lr_max=(0.01, 1.0))
    assert found == kd.KDecaySchedule("polynomial", (2.0,), 1.5, 0.1, 0.005)
    assert trial.suggest_float("weight_decay", 1e-5, 1e-2) == 1e-4
    assert trial.user_attrs[CANDIDATE]["family"] == "polynomial"


def test_a_cooldown_has_its_own() -> None:
    given = {"schedule_family": "cooldown", "schedule_decay_share": 0.2, "lr": 0.1, "warm": 7}
    trial = FixedTrial({**given, "my_lr_max": 0.3, "my_decay_share": 0.2, "my_warmup_steps": 7})
    found = kd.suggest_schedule(
        trial,
        lr_max=(0.01, 1.0),
        lr_min=0.1,
        family=["cooldown"],
        warmup_steps=(0, 10),
        prefix="my_",
    )
    expected = WarmupStableDecay(lr_max=0.3, lr_min=0.03, warmup_steps=7, decay_share=0.2)
    assert found == expected


def test_names_of_a_study_are_those_of_the_schedule_and_ranges_are_as_stated() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(12):
        trial = study.ask()
        kd.suggest_schedule(trial, lr_max=[0.1, 0.2, 0.4], family=["polynomial", "cosine"], power=1)
        study.tell(trial, 1.0)
    kinds = {name: kind for t in study.trials for name, kind in t.distributions.items()}
    assert set(kinds) == {f"schedule_{name}" for name in ("family", "k", "lr_max", "lr_min_share")}
    assert kinds["schedule_lr_max"].choices == (0.1, 0.2, 0.4)
    assert (kinds["schedule_k"].low, kinds["schedule_k"].high, kinds["schedule_k"].log) == (
        0.3,
        30.0,
        True,
    )
    assert not kinds["schedule_lr_min_share"].log


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"lr_max": (1.0, 0.1)}, r"lr_max = \(1.0, 0.1\): must rise"),
        ({"lr_max": 0.1, "k": (0.0, 3.0, "log")}, r"k = \(0.0, 3.0, 'log'\): must begin above 0"),
        ({"lr_max": 0.1, "family": ["linear"]}, r"family = \['linear'\]"),
        ({"lr_max": 0.1, "lr_min": 2.0}, "lr_min = 2.0: must lie within 0 and 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kd.suggest_schedule(FixedTrial({}), **keys)


def test_any_schedule_drives_a_torch_optimizer() -> None:
    import torch

    from kdecay_search.torch import schedule_lr

    schedule = WarmupStableDecay(lr_max=0.3, lr_min=0.01, warmup_steps=2, decay_share=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5.0)
    scheduler, rates = schedule_lr(optimizer, schedule, 10), []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [schedule(min(step, 10), 10) for step in range(12)]
    with pytest.raises(kd.KDecayError, match="shorten the warm-up"):
        schedule_lr(optimizer, schedule, 2)


def test_a_study_on_sqlite_with_all_three_ends(tmp_path: Path) -> None:
    """Schedule, weight decay, pruner and sampler together, as docs/optuna.md shows them."""
    steps = 20

    def objective(trial: optuna.Trial) -> float:
        schedule = kd.suggest_schedule(trial, lr_max=(0.05, 1.0))
        decay = trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
        area = sum(schedule(step, steps) for step in range(steps)) / steps
        error = abs(area - 0.2) + abs(decay - 1e-3)
        for step in range(5, steps + 1, 5):
            raw = error + schedule(step, steps)
            kd.optuna.report(trial, step, raw, averaged_value=error, seed=0)
            if trial.should_prune():
                raise optuna.TrialPruned
        return error

    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path}/study.db",
        sampler=kd.optuna.JointSampler(0, n_startup_trials=5),
        pruner=kd.optuna.AveragedPruner(steps, keep_at_least=2),
    )
    study.optimize(objective, n_trials=10)
    states = [trial.state for trial in study.trials]
    assert len(states) == 10
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert study.best_value < 0.3
