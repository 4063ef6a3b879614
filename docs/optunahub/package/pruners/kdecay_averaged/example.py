"""A pruner that looks at averaged values, which the raw ones would mislead."""

import optuna
import optunahub

module = optunahub.load_module("pruners/kdecay_averaged")
STEPS = 20


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1.0, 1.0)
    for step in range(1, STEPS + 1):
        averaged = x * x
        raw = averaged + (1 - step / STEPS) * abs(x - 1)  # in place of a training
        module.report(trial, step, raw, averaged_value=averaged)
        if trial.should_prune():
            raise optuna.TrialPruned
    return raw


study = optuna.create_study(pruner=module.AveragedPruner(STEPS))
study.optimize(objective, n_trials=30)
print(study.best_params)
