"""Values of a study file that must fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdecay_search.study.file import load
from kdecay_search.study.search_spec import MAX_CANDIDATES
from tests.study.files import merged, refused, refused_with, written
from tests.support.memory_studies import images_table, study_table


def test_k_range_must_be_ordered(tmp_path: Path) -> None:
    message = refused_with(tmp_path, search__k_min=5, search__k_max=2.5)
    assert "study.toml: search.k_max = 2.5: must be at least search.k_min = 5" in message


def test_rates_must_be_ordered(tmp_path: Path) -> None:
    message = refused_with(tmp_path, schedule__lr_min=0.5, schedule__lr_max=0.1)
    assert "study.toml: schedule.lr_max = 0.1: must be at least schedule.lr_min = 0.5" in message


@pytest.mark.parametrize("name", ["lr_max", "power"])
@pytest.mark.parametrize("value", [1e-31, 1e9])
def test_whole_schedules_start_from_a_usual_rate_and_power(
    tmp_path: Path, name: str, value: float
) -> None:
    table = study_table(search={"budget": 12}, schedule={"lr_min": 0.0, name: value})
    message = refused(tmp_path, table)
    assert f"sampler = 'joint' needs schedule.{name} within " in message
    assert f"; it is {value:g}" in message
    load(written(tmp_path, merged(table, "search", {"sampler": "grid"})), ())


def test_whole_schedules_are_refused_by_the_default_too(tmp_path: Path) -> None:
    table = study_table(schedule={"lr_max": 1e9})
    del table["search"]
    assert "sampler = 'joint' needs schedule.lr_max within 1e-30 and 5e+07" in refused(
        tmp_path, table
    )


def test_cap_must_not_be_below_the_range(tmp_path: Path) -> None:
    message = refused_with(tmp_path, search__k_cap=4.5)
    assert "study.toml: search.k_cap = 4.5: must be at least search.k_max = 5" in message


def test_grace_must_outlast_two_beats(tmp_path: Path) -> None:
    message = refused_with(tmp_path, workers__heartbeat_seconds=10, workers__grace_seconds=15)
    assert "workers.grace_seconds = 15: must be at least twice" in message


def test_warm_up_must_end_before_the_training(tmp_path: Path) -> None:
    message = refused_with(tmp_path, schedule__warmup_epochs=3)
    assert "warmup_epochs = 3" in message
    assert "below task.epochs = 3" in message


def test_nesterov_without_momentum_is_refused(tmp_path: Path) -> None:
    optimizer = {"momentum": 0, "nesterov": True}
    message = refused(tmp_path, merged(images_table(), "task.optimizer", optimizer))
    assert "task.optimizer.nesterov = true: must be false" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule.lr_min", 0.5),
        ("search.k_min", 7.0),
        ("workers.heartbeat_seconds", 100.0),
        ("search.k_max", 900.0),
    ],
)
def test_value_must_also_fit_a_default(tmp_path: Path, key: str, value: float) -> None:
    """The other half of the pair is left out: lr_max = 0.1, k_max = 5, grace 60 s, k_step 0.5."""
    message = refused(tmp_path, merged(study_table(), key, value))
    assert key.partition(".")[0] in message


def test_momentum_must_also_fit_the_default_of_nesterov(tmp_path: Path) -> None:
    message = refused(tmp_path, merged(images_table(), "task.optimizer.momentum", 0))
    assert "task.optimizer.nesterov" in message


@pytest.mark.parametrize("family", ["cosine", "exponential"])
def test_power_of_a_family_that_has_none_is_refused(tmp_path: Path, family: str) -> None:
    message = refused_with(tmp_path, schedule__family=family, schedule__power=2)
    assert "schedule" in message
    assert "power" in message


def test_step_that_gives_too_many_candidates_is_refused(tmp_path: Path) -> None:
    message = refused_with(tmp_path, search__k_step=0.001)
    assert f"search.k_step = 0.001: gives more than {MAX_CANDIDATES} candidates" in message


def test_step_that_gives_too_many_candidates_below_the_cap_is_refused(tmp_path: Path) -> None:
    """The grid may grow to k_cap, so the cap counts."""
    message = refused_with(tmp_path, search__k_step=0.01, search__k_cap=500)
    assert "search." in message
    assert f"more than {MAX_CANDIDATES} candidates" in message


def test_step_too_small_to_change_k_is_refused(tmp_path: Path) -> None:
    """Candidates are rounded to 10 decimals; a grid that cannot grow would grow for ever."""
    message = refused_with(tmp_path, search__k_min=1, search__k_max=1, search__k_step=1e-12)
    assert "search.k_step = 1e-12" in message
