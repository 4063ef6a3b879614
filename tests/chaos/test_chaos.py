"""The short chaos scenario, and that the comparison finds every kind of difference."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.black_hole import MACHINE, MESSAGE
from tests.chaos.comparison import (
    MAX_BLACK_HOLE_FAILURES,
    Outcome,
    TrialRecord,
    differences,
)
from tests.chaos.disturbances import Relaunch
from tests.chaos.plan import Counts, draw, required

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 420
"""A scenario that takes longer than this hangs."""


def trial(k: float, seed: int = 0, **changes: Any) -> TrialRecord:
    reports = {1: 30.0 + k, 2: 10.0 + k}
    curves = {"validation_error": [31.0, 9.0 + k], "averaged_error": list(reports.values())}
    complete = TrialRecord(((), k, seed), "COMPLETE", 9.0 + k, reports, curves, None, None)
    return replace(complete, **changes)


def outcome(*trials: TrialRecord, state: str = "done", ks: tuple[float, ...] = (2.0,)) -> Outcome:
    candidates = [
        {"k": t.run[1], "seeds": [t.run[2]], "errors": [t.error]}
        for t in trials
        if t.state == "COMPLETE"
    ]
    stage = {"n": 1, "k": ks[0], "kept": True, "candidates": candidates}
    summary = {"state": state, "schedule": {"ks": list(ks)}, "gain": {}, "stages": [stage]}
    return Outcome(summary, list(trials))


UNDISTURBED = outcome(trial(1.0), trial(2.0))
LOST = {"state": "FAIL", "error": None, "curves": {}, "reports": {1: 32.0}, "reason": "lost"}


def test_trials_that_were_lost_are_no_difference() -> None:
    disturbed = outcome(trial(2.0, **LOST), trial(1.0), trial(2.0))
    assert differences(disturbed, UNDISTURBED, pruning=False) == []


@pytest.mark.parametrize(
    ("disturbed", "word"),
    [
        (outcome(trial(1.0)), "is lost"),
        (outcome(trial(1.0), trial(2.0), trial(2.0)), "finished 2 times"),
        (outcome(trial(1.0), trial(2.0), trial(3.0)), "not in the undisturbed"),
        (outcome(trial(1.0), trial(2.0, error=11.000000000000002)), "ended with"),
        (outcome(trial(1.0), trial(2.0, reports={2: 12.0})), "reported the epochs [2]"),
        (outcome(trial(1.0), trial(2.0), trial(2.0, **LOST | {"reports": {1: 1.0}})),
         "epoch 1"),
        (outcome(trial(1.0), trial(2.0, curves={})), "other curves"),
        (outcome(trial(1.0), trial(2.0), state="running"), "the study is running"),
        (outcome(trial(1.0), trial(2.0), trial(2.0, state="RUNNING")), "still RUNNING"),
        (outcome(trial(1.0), trial(2.0), ks=(1.0,)), "the chosen ks"),
        (outcome(trial(1.0), trial(2.0), trial(2.0, **LOST | {"reason": None})),
         "for the reason None"),
        (outcome(trial(1.0), trial(2.0), trial(2.0, **LOST | {"reason": "error"})),
         "for the reason error"),
        (outcome(trial(1.0), trial(2.0, state="PRUNED", error=None)), "was pruned"),
    ],
)  # fmt: skip
def test_the_comparison_finds_every_difference(disturbed: Outcome, word: str) -> None:
    found = differences(disturbed, UNDISTURBED, pruning=False)
    assert any(word in difference for difference in found), found


def test_what_a_black_hole_fails_is_no_difference_unless_there_is_much_of_it() -> None:
    failed = LOST | {"reports": {}, "reason": "error", "message": f"RuntimeError: {MESSAGE}"}
    failed["worker"] = f"{MACHINE}:7-abcdefgh:cpu"
    few, many = (
        outcome(trial(1.0), trial(2.0), *[trial(2.0, **failed)] * count)
        for count in (MAX_BLACK_HOLE_FAILURES, MAX_BLACK_HOLE_FAILURES + 1)
    )
    assert differences(few, UNDISTURBED, pruning=False) == []
    [difference] = differences(many, UNDISTURBED, pruning=False)
    assert "a black hole has failed" in difference


def test_records_of_two_launches_are_a_difference() -> None:
    mixed = replace(UNDISTURBED, launches=frozenset(("one", "other")))
    [difference] = differences(mixed, UNDISTURBED, pruning=False)
    assert "of 2 launches" in difference


def test_with_pruning_a_pruned_run_must_still_have_reported_the_right_errors() -> None:
    pruned = trial(2.0, state="PRUNED", error=None, reports={1: 32.0})
    assert differences(outcome(trial(1.0), pruned), UNDISTURBED, pruning=True) == []
    wrong = replace(pruned, reports={1: 33.0})
    assert len(differences(outcome(trial(1.0), wrong), UNDISTURBED, pruning=True)) == 1


def test_a_seed_repeats_the_plan_and_every_plan_holds_what_is_required() -> None:
    new = {"database_clock_steps": 1, "worker_clock_steps": 2, "full_disks": 1, "black_holes": 1}
    counts = Counts(3, 2, 2, 1, 1, 1, 1, 3, cuts=1, relaunches=1, **new)
    one, again, other = (draw(seed, counts, 1.0, 2.0, workers=4) for seed in (1, 1, 2))
    assert one == again != other
    assert len(one) == 15 + 6
    assert sum(required(counts).values()) == 15 + 6 + 2 + 1 + 0
    assert Relaunch() in [disturbance for _, disturbance in one[: len(one) // 2]]


def test_a_study_ends_with_the_undisturbed_result_whatever_is_killed() -> None:
    """With pruning: runs are paused and resumed meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--pruning", "on"],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differences" in done.stdout
