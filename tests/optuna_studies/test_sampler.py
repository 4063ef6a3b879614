"""The joint sampler in Optuna studies: Optuna's own tests of samplers, and what it finds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase

import kdecay_search as kd
from kdecay_search.optuna import JointSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)
STEPS = 50


def made() -> BaseSampler:
    return JointSampler(0, n_startup_trials=1)


class TestAsOptunaTestsSamplers(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return made


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (FloatDistribution(-10, 10, step=0.5), IntDistribution(1, 100, log=True)),
        (FloatDistribution(1e-7, 1.0, log=True), IntDistribution(3, 9, step=2)),
    ],
)
def test_values_lie_where_they_may_as_optuna_tests_it(
    x: BaseDistribution, y: BaseDistribution
) -> None:
    RelativeSamplerTestCase().test_sample_relative_numerical(made, x, y)


def objective(trial: optuna.Trial) -> float:
    """The best has the right area, the right weight decay and the right batch size."""
    schedule = kd.suggest_schedule(trial, lr_max=(0.01, 1.0))
    decay = trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
    batch = trial.suggest_int("batch", 1, 8)
    done = sum(schedule(step, STEPS) for step in range(STEPS))
    far = abs(math.log(done / 10)) + 0.3 * abs(math.log10(decay) + 3) + 0.1 * abs(batch - 5)
    return far + 0.02 * math.sin(997 * done)


def best_of(sampler: BaseSampler, trials: int = 20) -> float:
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return study.best_value


def test_it_finds_schedules_together_with_own_parameters() -> None:
    ours = statistics.mean(best_of(JointSampler(seed)) for seed in range(1))
    random = statistics.mean(best_of(optuna.samplers.RandomSampler(seed)) for seed in range(8))
    assert ours < 0.7 * random


def test_the_same_seed_gives_the_same_trials() -> None:
    assert best_of(JointSampler(3), 13) == best_of(JointSampler(3), 13)


def test_a_choice_and_a_family_are_asked_for_only_where_they_belong() -> None:
    study = optuna.create_study(sampler=JointSampler(0, n_startup_trials=4))

    def with_choice(trial: optuna.Trial) -> float:
        name = trial.suggest_categorical("optimizer", ["sgd", "adam"])
        schedule = kd.suggest_schedule(trial, lr_max=(0.01, 1.0), family=["polynomial", "cosine"])
        beta = trial.suggest_float("beta", 0.8, 0.99) if name == "adam" else 0.9
        return abs(schedule.lr_max - 0.1) + abs(beta - 0.95) + (name == "sgd")

    study.optimize(with_choice, n_trials=12)
    for trial in study.trials:
        assert ("beta" in trial.params) == (trial.params["optimizer"] == "adam")
        assert ("schedule_power" in trial.params) == (
            trial.params["schedule_family"] == "polynomial"
        )
    late = [trial.params["optimizer"] for trial in study.trials[4:]]
    assert late.count("adam") > late.count("sgd")


def test_failed_diverged_and_running_trials_do_not_disturb_it() -> None:
    study = optuna.create_study(sampler=JointSampler(0, n_startup_trials=3), direction="maximize")
    for number in range(9):
        trial = study.ask()
        x = trial.suggest_float("x", -1.0, 1.0)
        if number == 1:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif number == 2:
            study.tell(trial, -math.inf)
        elif number != 3:  # which goes on running
            study.tell(trial, 1 - x**2)
    assert study.best_value > 0.5
