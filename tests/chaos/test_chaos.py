"""The chaos programme: its short form, and that its judgement sees what is wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.disturbances import Counts, draw, required
from tests.chaos.judgement import Attempt, Outcome, differences

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 420
"""Only a hanging programme takes so long."""


def attempt(k: float, seed: int = 0, **changes: Any) -> Attempt:
    reports = {1: 30.0 + k, 2: 10.0 + k}
    curves = {"validation_error": [31.0, 9.0 + k], "averaged_error": list(reports.values())}
    complete = Attempt(((), k, seed), "COMPLETE", 9.0 + k, reports, curves, None, None)
    return replace(complete, **changes)


def outcome(*attempts: Attempt, state: str = "done", ks: tuple[float, ...] = (2.0,)) -> Outcome:
    candidates = [
        {"k": a.run[1], "seeds": [a.run[2]], "errors": [a.error]}
        for a in attempts
        if a.state == "COMPLETE"
    ]
    stage = {"n": 1, "k": ks[0], "kept": True, "candidates": candidates}
    summary = {"state": state, "schedule": {"ks": list(ks)}, "gain": {}, "stages": [stage]}
    return Outcome(summary, list(attempts))


CALM = outcome(attempt(1.0), attempt(2.0))
LOST = {"state": "FAIL", "error": None, "curves": {}, "reports": {1: 32.0}, "reason": "lost"}


def test_attempts_that_were_lost_on_the_way_are_no_difference() -> None:
    disturbed = outcome(attempt(2.0, **LOST), attempt(1.0), attempt(2.0))
    assert differences(disturbed, CALM, pruning=False) == []


@pytest.mark.parametrize(
    ("disturbed", "word"),
    [
        (outcome(attempt(1.0)), "is lost"),
        (outcome(attempt(1.0), attempt(2.0), attempt(2.0)), "finished 2 times"),
        (outcome(attempt(1.0), attempt(2.0), attempt(3.0)), "not in the undisturbed"),
        (outcome(attempt(1.0), attempt(2.0, error=11.000000000000002)), "ended with"),
        (outcome(attempt(1.0), attempt(2.0, reports={2: 12.0})), "reported the epochs [2]"),
        (outcome(attempt(1.0), attempt(2.0), attempt(2.0, **LOST | {"reports": {1: 1.0}})),
         "epoch 1"),
        (outcome(attempt(1.0), attempt(2.0, curves={})), "other curves"),
        (outcome(attempt(1.0), attempt(2.0), state="running"), "the study is running"),
        (outcome(attempt(1.0), attempt(2.0), attempt(2.0, state="RUNNING")), "still RUNNING"),
        (outcome(attempt(1.0), attempt(2.0), ks=(1.0,)), "the chosen ks"),
        (outcome(attempt(1.0), attempt(2.0), attempt(2.0, **LOST | {"reason": None})),
         "for the reason None"),
        (outcome(attempt(1.0), attempt(2.0), attempt(2.0, **LOST | {"reason": "error"})),
         "for the reason error"),
        (outcome(attempt(1.0), attempt(2.0, state="PRUNED", error=None)), "was pruned"),
    ],
)  # fmt: skip
def test_the_judgement_sees_what_is_wrong(disturbed: Outcome, word: str) -> None:
    found = differences(disturbed, CALM, pruning=False)
    assert any(word in difference for difference in found), found


def test_with_pruning_a_run_may_be_pruned_but_what_it_reported_must_be_right() -> None:
    pruned = attempt(2.0, state="PRUNED", error=None, reports={1: 32.0})
    assert differences(outcome(attempt(1.0), pruned), CALM, pruning=True) == []
    wrong = replace(pruned, reports={1: 33.0})
    assert len(differences(outcome(attempt(1.0), wrong), CALM, pruning=True)) == 1


def test_a_seed_repeats_the_plan_and_every_plan_holds_what_is_required() -> None:
    counts = Counts(3, 2, 2, 1, 1, 1, 1, 3, cuts=1)
    one, again, other = (draw(seed, counts, 1.0, 2.0, workers=4) for seed in (1, 1, 2))
    assert one == again != other
    assert len(one) == 15
    assert sum(required(counts).values()) == 15 + 2 + 1 + 0


def test_a_study_whose_processes_and_database_die_has_the_answer_of_the_undisturbed_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short"],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differences" in done.stdout
