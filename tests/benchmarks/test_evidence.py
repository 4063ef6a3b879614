"""The tables of docs/evidence.md, from results as ``kdecay launch --json`` prints them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import evidence, honesty
from benchmarks.evidence import GRID, STUDIES, grid_settings, rows_of
from kdecay_search.study.file import load

SEEDS = list(range(1000, 1010))


def result(direction: str, ks: list[float], **errors: list[float]) -> dict[str, Any]:
    rows = [
        {"schedule": schedule, "name": f"the {schedule}", "errors": values, "seeds": SEEDS}
        for schedule, values in errors.items()
    ]
    return {"metric": {"direction": direction}, "confirm": {"ks": ks, "rows": rows}}


def values(level: float, step: float = 0.1) -> list[float]:
    return [level + step * (place % 3) for place in range(10)]


def test_the_found_schedule_is_compared_with_all_others_and_with_the_grid_s() -> None:
    joint = result("min", [], found=values(1), original=values(2, 0.3), cosine=values(1, 0.2))
    grid = result("min", [4.0], found=values(3), original=values(9))
    rows = {row.schedule: row for row in rows_of(joint, grid)}
    assert list(rows) == ["found", "original", "cosine", GRID]
    assert rows["found"].against is None
    assert rows[GRID].name == "k = 4"
    assert [rows[name].error.mean for name in ("found", GRID)] == pytest.approx([1.09, 3.09])
    compared = rows["cosine"].against
    assert compared
    assert compared.difference == pytest.approx(0.09)
    assert compared.p_adjusted == compared.p  # the largest of the three
    assert rows["original"].against
    assert (rows["original"].against.p_adjusted or 0) > (rows["original"].against.p or 0)
    lines = evidence.as_markdown(list(rows.values()), 2).splitlines()
    assert lines[2] == "| found: the found | 1.09 ± 0.09 | 10 |  |  |  |"
    assert lines[4].startswith("| cosine: the cosine | 1.18 ± 0.18 | 10 | +0.09 | +0.03 to +0.15 |")


def test_a_metric_to_be_maximised_counts_the_other_way_round() -> None:
    joint = result("max", [2.0], found=values(2), original=values(1, 0.2))
    rows = rows_of(joint, result("max", [3.0], found=values(1, 0.3)))
    assert rows[1].against
    assert rows[1].against.verdict == "better"


def test_a_grid_that_found_k_1_stands_for_the_study_file_s_schedule() -> None:
    joint = result("min", [], found=values(1), original=values(2), given=values(5, 0.2))
    rows = rows_of(joint, result("min", [1.0]))
    assert rows[-1].name == "k = 1"
    assert rows[-1].error == rows[-2].error


@pytest.mark.parametrize("task", STUDIES)
@pytest.mark.parametrize("budget", [16, 20, 30])
def test_the_grid_takes_no_more_trainings_than_the_search(task: str, budget: int) -> None:
    spec = load(STUDIES[task], [*grid_settings(budget), "confirm.seeds=10"])
    assert spec.search.sampler == "grid"
    assert spec.search.ks
    assert budget - spec.search.seeds < len(spec.search.ks) * spec.search.seeds <= budget


def test_a_study_that_fails_is_reported_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), "--set", "task.data.root=/nowhere"]
    assert evidence.main(["cifar16", *options]) == 2
    assert "benchmarks.evidence: " in capfd.readouterr().err.splitlines()[-1]


def test_false_claims_of_a_joint_search_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--search", "joint", "--studies", "2", "--budget", "6"]
    assert honesty.main(options) == 0
    printed = capsys.readouterr().out
    assert "studies: 2" in printed
    assert "falsely_better: " in printed
