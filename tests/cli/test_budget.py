"""What ``check``, ``try`` and ``plan`` say of a search of whole schedules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdecay_search.cli.plan import _measured_noise
from kdecay_search.report.cost import budget_sentence, seconds_per_run
from tests.cli.commands import Run
from tests.support.joint_studies import RUNS, joint, joint_spec

WHOLE = """
name = "whole"
[task]
kind = "simulated"
epochs = 20
[search]
budget = 40
[search.space]
k = [0.5, 8.0, "log"]
power = 1.0
warmup = [0.0, 0.02, 0.05]
"""


@pytest.fixture
def whole_file(tmp_path: Path) -> str:
    (tmp_path / "whole.toml").write_text(WHOLE)
    return "whole.toml"


def test_check_lists_what_is_searched_and_what_the_budget_means(
    run_kdecay: Run, whole_file: str
) -> None:
    result = run_kdecay("check", whole_file)
    assert result.returncode == 0
    assert "joint search of whole schedules (polynomial, cooldown)" in result.stdout
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert ["k", "0.5 to 8, log", "polynomial"] in lines
    assert ["N", "1", "polynomial"] in lines
    assert ["warm-up", "0 %, 2 %, 5 %"] in lines
    assert ["lr_max", "0.025 to 0.4, log"] in lines
    assert ["search", "40", "800"] in lines
    tuned = "usual schedules, tuned within the budget: the original (polynomial, k = 1), cosine, "
    assert f"{tuned}cooldown" in result.stdout
    assert "The budget is 40 runs, 800 epochs in all." in result.stdout


def test_check_adds_the_confirmation(run_kdecay: Run, whole_file: str) -> None:
    result = run_kdecay("check", whole_file, "--set", "confirm.seeds=5")
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    assert ["confirm", "25", "500"] in lines, "the found, the file's own and three usual ones"
    assert ["all", "65", "1,300"] in lines


def test_try_estimates_the_budget_by_its_run(run_kdecay: Run, whole_file: str) -> None:
    result = run_kdecay("try", whole_file)
    assert result.returncode == 0, result.stderr
    assert "The budget is 40 runs, 800 epochs in all: about" in result.stdout


def test_the_budget_in_hours_follows_from_the_runs_that_were_timed() -> None:
    snapshot = joint()
    seconds = seconds_per_run(snapshot, {trial.trial_id: 360.0 for trial in snapshot.trials})
    assert seconds == pytest.approx(360.0)
    sentence = budget_sentence(snapshot.spec, seconds, "by its runs so far")
    assert sentence == (
        "The budget is 20 runs, 60 epochs in all: about 2.0 h on one device, at 6 min a run "
        "(by its runs so far)."
    )
    assert seconds_per_run(snapshot, {}) is None
    untimed = budget_sentence(joint_spec(budget=4), None, "")
    assert untimed == "The budget is 4 runs, 12 epochs in all."


def test_the_noise_of_a_plan_is_that_of_whole_candidates() -> None:
    noise = _measured_noise(joint())
    assert 0.05 < noise.sd < 0.4
    repeated = [runs for _, runs in RUNS if runs > 1]
    assert noise.degrees_of_freedom == sum(count - 1 for count in repeated) - 2
