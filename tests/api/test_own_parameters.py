"""A search from Python in which parameters of the user's own matter as well."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdecay_search as kd
from kdecay_search.api.result import Result
from kdecay_search.errors import InvalidSpec
from kdecay_search.search.coordinates import coordinates
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.proposals import further_terms
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.own_parameters import own_axis
from kdecay_search.study.trials import CONFIRMATION

SPACE: dict[str, Any] = {
    "weight_decay": (1e-5, 1e-2, "log"),
    "batch_size": np.array([64, 128, 256, 512, 1024]),  # the best at the end of a list
    "optimizer": ["adamw", "lion"],
    "k": (0.5, 8.0, "log"),
}
KEYS: dict[str, Any] = {
    "steps": 20,
    "report_every": 20,
    "metric": "loss",
    "lr_max": (0.1, 1.0),
    "args": {"batch_size": 128, "width": 3},
    "progress": False,
}


def train(run: kd.TaskRun) -> float:
    """The best is a weight decay of 3e-4 and a batch of 64 with lion, and a rate that stays
    up until late, at a middling mean."""
    args = run.args
    assert args["width"] == 3
    assert type(args["batch_size"]) is int
    rate = sum(run.schedule(step) for step in range(run.total_steps))
    return (
        abs(math.log10(args["weight_decay"] / 3e-4))
        + 0.3 * abs(math.log2(args["batch_size"] / 64))
        + 0.5 * (args["optimizer"] != "lion")
        + 0.2 * abs(math.log(rate / 4))
        - 0.5 * run.schedule(15) / run.schedule(0)
        + 0.1 * run.seed
    )


@cache
def found() -> Result:
    return kd.find_schedule(
        train, space=SPACE, budget=34, confirm_seeds=2, max_terms=2, seeds=2, **KEYS
    )


def values(point: Candidate | None) -> dict[str, Any]:
    assert point is not None
    return dict(point.args)


def test_the_search_finds_them() -> None:
    args = found().args
    assert args["width"] == 3
    assert args["optimizer"] == "lion"
    assert args["batch_size"] == 64
    assert 6e-5 < args["weight_decay"] < 1.5e-3


def test_the_first_runs_have_the_values_that_the_args_state() -> None:
    runs = found().runs
    assert runs[0].args == {"batch_size": 128, "optimizer": "adamw", "weight_decay": 0.000316}
    assert len({run.args["weight_decay"] for run in runs}) > 8


def test_every_baseline_is_tuned_over_them_and_has_run_with_the_best_ones() -> None:
    (stage, *_), best = found().snapshot.plan.stages, found().args
    assert [baseline.name for baseline in stage.baselines] == ["original", "cosine", "cooldown"]
    for baseline in stage.baselines:
        tuned = values(baseline.best.point)
        assert (tuned["optimizer"], tuned["batch_size"]) == ("lion", 64)
        assert abs(math.log10(tuned["weight_decay"] / best["weight_decay"])) < 0.5


def test_a_further_term_and_the_confirmation_keep_them() -> None:
    plan, trials = found().snapshot.plan, found().snapshot.trials
    first = values(plan.stages[0].best.point) if plan.stages[0].best else {}
    for trial in trials:
        if trial.key.stage > 1:
            assert values(trial.request.point) == first
    confirmed = {
        t.request.comparator: t.request.point for t in trials if t.key.stage == CONFIRMATION
    }
    tuned = {baseline.name: baseline.best.point for baseline in plan.stages[0].baselines}
    assert confirmed["found"] == plan.leader.point
    assert confirmed["original"] == plan.baseline.point
    assert values(confirmed["given"]) == {
        "batch_size": 128, "optimizer": "adamw", "weight_decay": 0.000316,
    }  # fmt: skip
    for name, comparator in (("cosine", "cosine"), ("cooldown", "warmup-stable-decay")):
        assert confirmed.get(comparator, plan.leader.point) == tuned[name]


def test_they_are_shown_wherever_the_schedule_is(tmp_path: Path) -> None:
    result = found()
    own = values(result.snapshot.plan.leader.point)
    shown = f"batch_size {own['batch_size']}, optimizer lion, weight_decay {own['weight_decay']}"
    assert shown in result.verdict.sentence
    text = " ".join(str(result).split())
    assert "batch_size optimizer weight_decay" in text
    assert result.source("python", 100).startswith(
        f"# Found together with batch_size = 64, optimizer = lion, weight_decay = "
        f"{own['weight_decay']}.\n"
    )
    assert json.loads(result.source("json"))["schedule"]["args"] == own
    page = result.report(tmp_path / "report.html").read_text()
    assert page.count("weight_decay") > 10
    table = pytest.importorskip("pandas") and result.runs.to_dataframe()
    assert list(table["args.batch_size"]) == [run.args["batch_size"] for run in result.runs]


@pytest.mark.usefixtures("storage")
def test_the_same_search_by_a_worker_gives_the_same_runs() -> None:
    def carried(run: kd.TaskRun) -> float:
        args = run.args
        return float(args["batch_size"] * args["weight_decay"] + len(args["optimizer"]))

    keys = KEYS | {"space": SPACE, "budget": 5, "baselines": [], "max_terms": 1}
    here = kd.find_schedule(carried, **keys)
    there = kd.find_schedule(carried, **keys, workers=1)
    assert [run.message for run in there.runs] == [None] * 5
    assert [run.args for run in there.runs] == [run.args for run in here.runs]
    assert [run.value for run in there.runs] == [run.value for run in here.runs]
    assert there.args == here.args


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"weight_decay": (1e-2, 1e-5, "log")}, "must rise from its first number to its second"),
        ({"lrmax": 1}, "search.space.lrmax: unknown key; did you mean space_lr_max?"),
        ([("weight_decay", 1)], "find_schedule: space = [('weight_decay', 1)]: must be a mapping"),
        ({3: 1}, "must be a mapping of names to settings"),
    ],
)
def test_a_wrong_space_is_one_line(space: Any, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        kd.find_schedule(train, space=space, **KEYS)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_further_term_keeps_them() -> None:
    spec = found().spec
    own = (("batch_size", 64), ("optimizer", "lion"), ("weight_decay", 0.00123))
    point = Candidate(2.0, 0.2, "polynomial", 1.5, None, 0.01, None, own)
    further = further_terms(spec.schedule_space(), point, 0.5)
    assert further is not None
    assert further.families[0].searched == ("k",)
    assert further.families[0].at([0.0]) == point._replace(k=2.5)


def test_where_candidates_lie_by_their_own_parameters() -> None:
    axes = (
        own_axis("decay", [1e-5, 1e-1, "log"]),
        own_axis("batch", [32, 64, 512]),
        own_axis("optimizer", ["a", "b", "c"]),
        own_axis("fixed", 3),
    )
    policy = Policy(own=axes)
    point = Candidate(2.0, 0.1, "polynomial", 1.0, None, 0.0)
    points = [
        point._replace(args=(("batch", b), ("decay", d), ("fixed", 3), ("optimizer", o)))
        for b, d, o in ((32, 1e-5, "a"), (64, 1e-3, "b"), (512, 1e-1, "c"))
    ]
    _, (decay, lengths), (batch, _), *options = coordinates(points, policy)
    assert decay.tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert lengths == policy.own_lengths
    assert batch.tolist() == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    places = np.array([column for column, _ in options])
    assert len(places) == 3
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(places[:, i] - places[:, j]) == pytest.approx(1.0)
    assert len(coordinates(points, POLICY)) == 1, "only the schedule counts without the axes"
