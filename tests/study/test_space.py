"""``[search.space]``: what may vary in a search of whole schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from kdecay_search.errors import InvalidSpec
from kdecay_search.study.axis import Axis, axis_of
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.file import differences, load
from kdecay_search.study.spec import StudySpec


def loaded(folder: Path, **search: Any) -> StudySpec:
    path = folder / "s.toml"
    table = {"name": "s", "task": {"kind": "simulated", "epochs": 4}, "search": search}
    path.write_text(tomli_w.dumps(table))
    return load(path)


def test_the_simplest_file_searches_whole_schedules(tmp_path: Path) -> None:
    spec = loaded(tmp_path)
    assert spec.search.sampler == "joint"
    polynomial, cooldown = spec.schedule_space().families
    assert polynomial.searched == ("k", "power", "lr_max", "lr_min")
    assert cooldown.searched == ("decay_share", "lr_max", "lr_min")
    assert polynomial.axes["lr_max"] == Axis((0.025, 0.4), "log")


@pytest.mark.parametrize("key", [{"ks": [1.0, 2.0]}, {"k_max": 3.0}, {"lr_max": [0.1, 0.2]}])
def test_a_key_of_the_grid_means_the_grid(tmp_path: Path, key: dict[str, Any]) -> None:
    assert loaded(tmp_path, **key).search.sampler == "grid"


def test_three_forms_of_a_setting() -> None:
    assert axis_of(2) == Axis((2.0,))
    assert axis_of([1, 2, 4]) == Axis((1.0, 2.0, 4.0))
    assert axis_of([0.1, 1, "log"]) == Axis((0.1, 1.0), "log")
    assert axis_of([0.1, 1, "log"]).at(0.5) == pytest.approx(0.316)
    assert axis_of([0, 1, "linear"]).at(0.5) == 0.5
    assert [axis_of([1, 2, 4]).at(share) for share in (0.0, 0.34, 0.99, 1.0)] == [1, 2, 4, 4]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"k": "big"}, 'search.space.k = "big": must be a number, a list of numbers, or a range'),
        ({"k": [3, 1]}, "must strictly increase; a range ends with 'log' or 'linear'"),
        ({"k": [0, 3, "log"]}, "must begin above 0 to be logarithmic"),
        ({"k": [3, 1, "log"]}, "must rise from its first number to its second"),
        ({"k": [0.3, 5000, "log"]}, "must lie within 0.001 and 1000"),
        ({"lr_min": [0, 2, "linear"]}, "must lie within 0 and 1"),
        ({"warmup": 1.0}, "must lie within 0 and 0.9"),
        ({"family": ["polynomial", "polynomial"]}, "must name each family once"),
        ({"family": ["step"]}, "search.space.family"),
        ({"kk": 1}, "search.space.kk: unknown key; did you mean search.space.k?"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, space: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        loaded(tmp_path, space=space)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "joint", "k_max": 9.0}, "k_max has no effect with sampler = 'joint'"),
        ({"sampler": "joint", "lr_max": [0.1, 0.2]}, "lr_max has no effect with sampler = 'joint'"),
        ({"sampler": "grid", "space": {"k": 2.0}}, "space has no effect with sampler = 'grid'"),
        ({"k_max": 9.0, "space": {"k": 2.0}}, "space has no effect with sampler = 'grid'"),
        ({"budget": 2}, "search.budget = 2"),
        ({"baselines": ["sgdr"]}, "must hold names among linear, cosine, exponential, cooldown"),
    ],
)
def test_what_has_no_effect_is_refused(
    tmp_path: Path, search: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        loaded(tmp_path, **search)


def test_another_space_is_another_study(tmp_path: Path) -> None:
    before, after = loaded(tmp_path), loaded(tmp_path, space={"power": 1.0})
    line = "search.space.power: [0.5, 4.0, 'log'] -> 1.0"
    assert differences(before, after) == [line]
    assert differences(before, loaded(tmp_path, budget=60)) == []


def test_names_for_people() -> None:
    point = Candidate(2.0, 0.1, "polynomial", 1.5, lr_min=0.01)
    assert candidate_name(point) == "k = 2, N = 1.5 at lr_max 0.1, lr_min 1 %"
    assert candidate_name(point, (1.2,)) == "k = 1.2, 2, N = 1.5 at lr_max 0.1, lr_min 1 %"
    cooldown = Candidate(None, 0.1, "linear-cooldown", decay_share=0.2, lr_min=0.0, warmup=0.03)
    assert candidate_name(cooldown) == "linear cooldown over 20 % at lr_max 0.1, warm-up 3 %"
    assert candidate_name(Candidate(2.0, 0.1)) == "k = 2 at lr_max 0.1"


def test_candidates_sort_with_none_first() -> None:
    points = [
        Candidate(2.0, 0.1),
        Candidate(None, 0.3, "cooldown", decay_share=0.2),
        Candidate(1.0),
    ]
    assert sorted(points) == [points[1], points[2], points[0]]
    assert max(points) == points[0]
