"""Learning-rate schedules together with a weight decay."""

import math

import optuna
import optunahub

module = optunahub.load_module("samplers/kdecay_joint")


def objective(trial: optuna.Trial) -> float:
    schedule = module.suggest_schedule(trial, lr_max=(0.01, 1.0))
    decay = trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
    done = sum(schedule(step, 100) for step in range(100))  # in place of a training
    return abs(math.log(done / 20)) + 0.3 * abs(math.log10(decay) + 3)


study = optuna.create_study(sampler=module.JointSampler(seed=0))
study.optimize(objective, n_trials=30)
print(study.best_params)
