"""Runs of whole candidates in the database: what is asked for, and what Optuna shows of it."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.attributes import read_request, request_attributes
from kdecay_search.storage.parameters import distributions, parameters
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import SEARCHED_FAMILIES
from kdecay_search.study.trials import CONFIRMATION, RunKey, RunRequest, State
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.worker.train import WorkerContext, train_trial
from tests.support.memory_studies import study
from tests.support.queued_runs import queued
from tests.support.whole_candidates import (
    COOLDOWN,
    COSINE,
    LATE,
    LINEAR_COOLDOWN,
    POINTS,
    POLYNOMIAL,
    asked_for,
)

SHOWN = {
    POLYNOMIAL: {"family", "k", "power", "lr_max", "lr_min_share"},
    LATE: {"family", "k", "power", "lr_max", "lr_min_share", "warmup_share"},
    COSINE: {"family", "k", "lr_max", "lr_min_share"},
    COOLDOWN: {"family", "decay_share", "lr_max", "lr_min_share"},
    LINEAR_COOLDOWN: {"family", "decay_share", "lr_max", "lr_min_share", "warmup_share"},
}
"""Names of the parameters that each candidate has."""


def in_json(request: RunRequest) -> dict[str, Any]:
    """A request's attributes, as the database gives them back."""
    attributes: dict[str, Any] = json.loads(json.dumps(request_attributes(request)))
    return attributes


def test_a_request_is_read_as_it_was_queued(storage: Storage) -> None:
    requests = [
        *(asked_for(point, index) for index, point in enumerate(POINTS)),
        asked_for(LATE, 5, earlier_ks=(1.5,)),
        RunRequest(
            RunKey(CONFIRMATION, 2, 1000), (), None, (1.0, 1.0), True, "warmup-stable-decay",
            COOLDOWN.lr_max, (), COOLDOWN,
        ),
    ]  # fmt: skip
    queued(storage, "whole-requests", requests)
    trials = list(records.read_trials(storage, "whole-requests"))
    assert {t.number: t.request for t in trials} == dict(enumerate(requests))
    assert {t.number: t.point for t in trials} == {n: r.point for n, r in enumerate(requests)}
    assert not any(trial.request.is_open for trial in trials)
    claims = [queue.claim(storage, "whole-requests", "me") for _ in requests]
    assert [claim and claim.request for claim in claims] == requests


@pytest.mark.parametrize("wrong", [
    None, [], "polynomial", 3, {}, {"k": 0.4}, {"family": "polynomial"},
])  # fmt: skip
def test_what_is_no_candidate_is_no_request(wrong: object) -> None:
    attributes = in_json(asked_for(POLYNOMIAL))
    assert read_request(attributes) is not None
    assert read_request(attributes | {"point": wrong}) is None


@pytest.mark.parametrize(("name", "wrong"), [
    *((name, wrong)
      for name in ("k", "power", "lr_max", "lr_min")
      for wrong in (None, True, "1", [1.0], {}, -0.1, math.nan, math.inf, 1e9, 10**400)),
    ("k", 0.0), ("k", 1001.0), ("k", 0.5),  # the last is not the request's own
    ("power", 0.0), ("power", 2e9),
    ("lr_max", 0.0), ("lr_max", 0.3), ("lr_min", 1.5),
    ("warmup", 0.95), ("warmup", "0"), ("warmup", math.nan),
    ("decay_share", 0.3),  # which its family lacks
    ("family", "cooldown"), ("family", "cosine"), ("family", "../../etc"), ("family", []),
    ("ks", [1.0]), ("seed", 3),
])  # fmt: skip
def test_a_value_that_cannot_be_trained_makes_no_request(name: str, wrong: object) -> None:
    attributes = in_json(asked_for(POLYNOMIAL))
    point = attributes["point"]
    assert read_request(attributes | {"point": {**point, name: wrong}}) is None


@pytest.mark.parametrize("name", ["family", "k", "power", "lr_max", "lr_min"])
def test_a_parameter_that_is_missing_makes_no_request(name: str) -> None:
    attributes = in_json(asked_for(POLYNOMIAL))
    del attributes["point"][name]
    assert read_request(attributes) is None


@pytest.mark.parametrize("change", [
    {"point": {**COOLDOWN.stated(), "k": 2.0}},
    {"point": {**COOLDOWN.stated(), "decay_share": 0.0}},
    {"point": {**COOLDOWN.stated(), "decay_share": 1.1}},
    {"k": 2.0},
    {"earlier_ks": [1.5]},
    {"lr_max": 0.1},
])  # fmt: skip
def test_a_cooldown_has_no_terms_and_what_its_request_says(change: dict[str, Any]) -> None:
    attributes = in_json(asked_for(COOLDOWN))
    assert read_request(attributes) == asked_for(COOLDOWN)
    assert read_request(attributes | change) is None


@pytest.mark.parametrize(
    "schedule", [{"lr_max": 5e7, "power": 5e4}, {"lr_max": 1e-13, "lr_min": 0.0}]
)
def test_whatever_a_study_file_may_ask_for_is_a_request(schedule: dict[str, float]) -> None:
    spec = study(schedule=schedule, search={"sampler": "joint"})
    for subspace in spec.schedule_space().baselines:
        asked = asked_for(subspace.at([0.0] * len(subspace.searched)))
        assert read_request(in_json(asked)) == asked


def test_terms_of_a_request_increase() -> None:
    assert read_request(in_json(asked_for(LATE, earlier_ks=(1.5,)))) is not None
    for earlier in ((2.5,), (3.0,), (1.5, 1.5)):
        assert read_request(in_json(asked_for(LATE, earlier_ks=earlier))) is None


def test_equal_numbers_are_one_candidate_whatever_their_text() -> None:
    """Its text is part of the fingerprint by which a checkpoint is found."""
    point = Candidate(2.0, 1.0, "polynomial", 1.0, None, 0.0)
    attributes = in_json(asked_for(point))
    written = {"family": "polynomial", "k": 2, "lr_max": 1, "power": 1, "lr_min": -0.0}
    request = read_request(attributes | {"point": written})
    assert request is not None
    assert request.point is not None
    assert json.dumps(request.point.stated()) == json.dumps(point.stated())


def test_optuna_shows_the_parameters_that_each_candidate_has(
    storage: Storage, tmp_path: Path
) -> None:
    spec = study("conditional", search={"sampler": "joint"})
    queued(storage, spec.name, [asked_for(point, i) for i, point in enumerate(POINTS)])
    context = WorkerContext("cpu", CheckpointFolder(tmp_path), threading.Event())
    for _ in POINTS:
        claim = queue.claim(storage, spec.name, "me")
        assert claim is not None
        train_trial(storage, spec, claim, context)

    trials = optuna.load_study(study_name="conditional/k1", storage=storage.rdb).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * len(POINTS)
    for trial, point in zip(trials, POINTS, strict=True):
        assert trial.params.keys() == SHOWN[point]
        stated = {"lr_min_share": point.lr_min, "warmup_share": point.warmup} | point._asdict()
        assert trial.params == {name: stated[name] for name in SHOWN[point]}
    spaces: dict[str, Any] = {}
    for trial in trials:
        for name, space in trial.distributions.items():
            assert spaces.setdefault(name, space) == space, "one space for all trials of a stage"
    assert spaces["family"].choices == SEARCHED_FAMILIES
    assert {name for name, space in spaces.items() if getattr(space, "log", False)} == {
        "k", "power", "decay_share", "lr_max",
    }  # fmt: skip
    level = spaces["lr_max"]
    assert (level.low, level.high) == pytest.approx((0.1 / 16, 1.6))
    assert (spaces["lr_min_share"].low, spaces["lr_min_share"].high) == (0.0, 0.5)

    read = [t for t in records.read_trials(storage, spec.name) if t.state == State.COMPLETE]
    assert [trial.point for trial in read] == list(POINTS)
    assert [trial.k for trial in read] == [point.k for point in POINTS]
    assert [trial.lr_max for trial in read] == [point.lr_max for point in POINTS]


def test_a_range_holds_what_lies_outside_of_the_study_s_own() -> None:
    """Somebody else's candidate, or one of a study whose file has changed."""
    far = asked_for(POLYNOMIAL._replace(lr_max=30.0, k=400.0))
    spaces = distributions(far, study(search={"sampler": "joint"}).schedule_space())
    assert spaces.keys() == parameters(far).keys()
    assert all(
        spaces[name]._contains(value) for name, value in parameters(far).items() if name != "family"
    )
