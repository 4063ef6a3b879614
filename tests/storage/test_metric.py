"""A study in a metric of its own, in a real database: directions, diverged runs, Optuna's view."""

from __future__ import annotations

import json
import math
from typing import Any

import optuna
import pytest

from kdecay_search.reconcile import launch, reconcile
from kdecay_search.search import Plan
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED


def spec(study: str, **metric: Any) -> StudySpec:
    task = {"kind": "python", "entry": "mine:train", "epochs": 2}
    table = {
        "name": f"metric-{study}",
        "task": task | ({"metric": metric} if metric else {}),
        "search": {"k_max": 3.0, "k_cap": 3.0, "max_terms": 1, "seeds": 2},
        "pruning": {"enabled": False},
    }
    return StudySpec.model_validate_json(json.dumps(table))


def error_of(k: float, seed: int) -> float:
    """An error in percent with its best at k = 2."""
    return 20.0 + 5 * (math.log(k / 2)) ** 2 + 0.4 * seed + 0.01 * math.sin(17 * k + seed)


def played(storage: Storage, spec: StudySpec, values: Any) -> StudySnapshot:
    """A launched study whose runs end with ``values(k, seed)``."""
    launch(storage, spec)
    while True:
        reconcile(storage, spec.name)
        claim = queue.claim(storage, spec.name, "test")
        if claim is None:
            return read_snapshot(storage, spec.name)
        assert claim.request.k is not None
        value = values(claim.request.k, claim.request.key.seed)
        for step in (1, 2):
            queue.report(storage, claim, step, value)
        queue.complete(storage, claim.trial_id, value)


def answer(plan: Plan) -> list[object]:
    (stage,) = plan.stages
    return [plan.incumbent.ks, stage.kept, [round(c.probability or 0, 6) for c in stage.candidates]]


def test_accuracy_to_be_maximised_gives_the_answer_of_the_error(storage: Storage) -> None:
    percent = played(storage, spec("error"), error_of)
    fraction = spec("accuracy", name="accuracy", direction="max")
    accuracy = played(storage, fraction, lambda k, seed: 1 - error_of(k, seed) / 100)
    assert answer(accuracy.plan) == answer(percent.plan)
    assert accuracy.plan.incumbent.ks == (2.0,)
    assert accuracy.verdict.outcome == percent.verdict.outcome == "better"
    assert accuracy.verdict.estimate == pytest.approx((percent.verdict.estimate or 0) / 100)
    assert "k = 2: 0.7" in accuracy.verdict.sentence
    assert "points" not in accuracy.verdict.sentence
    assert "%)" not in accuracy.verdict.sentence.replace("95 %", "")


def test_optuna_knows_the_direction(storage: Storage) -> None:
    played(
        storage,
        spec("directed", name="accuracy", direction="max"),
        lambda k, seed: 1 - error_of(k, seed) / 100,
    )
    launch(storage, spec("undirected"))
    with storage.borrow_optuna() as borrowed:
        study = optuna.load_study(study_name="metric-directed/k1", storage=borrowed)
        assert study.direction == optuna.study.StudyDirection.MAXIMIZE
        assert study.best_trial.user_attrs["k"] == pytest.approx(2.0)
        assert study.best_value == pytest.approx(0.8, abs=0.01)
        plain = optuna.load_study(study_name="metric-undirected/k1", storage=borrowed)
        assert plain.direction == optuna.study.StudyDirection.MINIMIZE


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_diverged_run_is_stored_as_infinite_and_ranks_worst(
    storage: Storage, direction: str
) -> None:
    name, sign = f"diverged-{direction}", 1 if direction == "min" else -1
    study = played(
        storage,
        spec(name, direction=direction),
        lambda k, seed: sign * (math.inf if k == 3.0 else error_of(k, seed)),
    )
    (stage,) = study.plan.stages
    (worst,) = [c for c in stage.candidates if c.k == 3.0]
    assert (worst.errors, worst.diverged, worst.probability) == ({}, 2, 0.0)
    assert study.plan.incumbent.ks == (2.0,)
    assert study.verdict.outcome == "better"
    trials = records.read_history(storage, f"metric-{name}", (1, 2))
    seen = {t.k: t.looks for t in trials if t.key.seed == FIRST_SEED}
    assert seen[3.0] == {1: math.inf, 2: math.inf}
    assert seen[2.0] == pytest.approx(dict.fromkeys((1, 2), error_of(2.0, 0)))
    with storage.borrow_optuna() as borrowed:
        stored = optuna.load_study(study_name=f"metric-{name}/k1", storage=borrowed)
        assert stored.best_trial.user_attrs["k"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("metric", "values", "shown"),
    [
        ({"name": "RMSE"}, lambda e: 7 * e, "k = 2: 14"),
        (
            {"name": "log-likelihood", "unit": "nats", "direction": "max"},
            lambda e: -e,
            "k = 2: -20.",
        ),
        ({"name": "loss", "unit": "nats"}, lambda e: 1.5 + e / 1000, "k = 2: 1.52"),
    ],
)
def test_any_finite_number_is_a_value(
    storage: Storage, metric: dict[str, Any], values: Any, shown: str
) -> None:
    name = metric["name"].lower()
    study = played(storage, spec(name, **metric), lambda k, seed: values(error_of(k, seed)))
    assert study.plan.incumbent.ks == (2.0,)
    assert study.verdict.outcome == "better"
    assert shown in study.verdict.sentence
    unit = metric.get("unit", "")
    assert study.verdict.gain.endswith(f" {unit}" if unit else study.verdict.gain[-1])
