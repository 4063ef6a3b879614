"""Parameters of the user's own in ``[search.space]``: what they may be, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.study.candidate import Candidate, candidate_name, read_candidate
from kdecay_search.study.file import differences, from_json, load, to_toml
from kdecay_search.study.own_parameters import OwnAxis, own_axis
from kdecay_search.study.spec import StudySpec
from tests.study.files import refused, written
from tests.support.memory_studies import study_table

OWN = {
    "weight_decay": [1e-5, 1e-2, "log"],
    "batch_size": [64, 128, 256],
    "layers": [1, 8, "linear"],
    "optimizer": ["adamw", "lion"],
    "nesterov": [True, False],
    "momentum": 0.9,
}
PYTHON = {"kind": "python", "entry": "mine:train", "epochs": 3}
COMMAND = {"kind": "command", "command": ["train", "{k}", "{wd}"], "epochs": 3}


def table(space: dict[str, Any], task: dict[str, Any] = PYTHON, **search: Any) -> dict[str, Any]:
    return study_table(task=task, search={"sampler": "joint", "space": space, **search})


def spec_of(space: dict[str, Any], task: dict[str, Any] = PYTHON, **search: Any) -> StudySpec:
    return StudySpec.model_validate_json(json.dumps(table(space, task, **search)))


def test_every_family_and_every_baseline_has_them() -> None:
    space = spec_of(OWN).schedule_space()
    assert [axis.name for axis in space.own] == list(OWN)
    for subspace in (*space.families, *space.baselines):
        assert subspace.searched[-5:] == tuple(OWN)[:5], "the momentum is fixed"
        point = subspace.at([0.5] * len(subspace.searched))
        assert dict(point.args) == {
            "weight_decay": 0.000316, "batch_size": 128, "layers": 4, "optimizer": "lion",
            "nesterov": False, "momentum": 0.9,
        }  # fmt: skip
        assert type(dict(point.args)["layers"]) is type(dict(point.args)["batch_size"]) is int
        assert subspace.at(subspace.shares(point)) == point


def test_the_usual_value_is_that_of_the_args_and_else_in_the_middle() -> None:
    usual = {"batch_size": 96, "optimizer": "lion", "momentum": 0.5, "width": 3}
    original = dict(spec_of(OWN, PYTHON | {"args": usual}).original.args)
    assert (original["batch_size"], original["optimizer"]) == (96, "lion")
    assert original["momentum"] == 0.9, "what the space fixes counts"
    assert dict(spec_of(OWN).original.args) | {"width": 3} == original | {
        "batch_size": 128, "optimizer": "adamw", "width": 3,
    }  # fmt: skip
    axes = spec_of(OWN).search.space.own
    assert [axes[n].nearest(v) for n, v in (("batch_size", 96.5), ("layers", 99))] == [128, 8]
    assert [axes[n].nearest("x") for n in ("layers", "optimizer")] == [4, "adamw"]


def test_a_study_is_stored_and_written_with_them(tmp_path: Path) -> None:
    spec = spec_of(OWN)
    assert from_json(spec.to_json()) == spec == load(written(tmp_path, table(OWN)))
    (tmp_path / "again.toml").write_text(to_toml(spec))
    assert load(tmp_path / "again.toml") == spec
    other = spec_of(OWN | {"batch_size": [64, 128]})
    assert differences(spec, other) == [
        "search.space.batch_size: [64, 128, 256] -> [64, 128]",
    ]
    assert not differences(spec, spec_of(dict(reversed(OWN.items()))))


def test_a_study_without_them_is_as_it_was() -> None:
    spec = spec_of({})
    assert spec.original.args == ()
    assert "args" not in json.loads(spec.to_json())["search"]["space"]
    point = Candidate(2.0, 0.1, "polynomial", 1.0, None, 0.0)
    assert "args" not in point.stated()
    assert spec.fingerprint((2.0,), 0, point=point) == spec_of({"wd": 0.1}).fingerprint(
        (2.0,), 0, point=point
    )
    with_args = point._replace(args=(("wd", 0.1),))
    assert spec.fingerprint((2.0,), 0, point=with_args) != spec.fingerprint((2.0,), 0, point=point)


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ([], "must not be empty"),
        ([1, "x"], "must hold values of one kind"),
        ([1, True], "must hold values of one kind"),
        ([[1]], "must hold numbers of at most 1e+100"),
        ([float("nan"), 1.0], "must hold numbers of at most 1e+100"),
        (float("inf"), "must be a number, a text, true or false, a list"),
        (10**400, "must be a number, a text, true or false, a list"),
        ({"low": 1}, "must be a number, a text, true or false, a list"),
        ("a\nb", "must be a number, a text, true or false, a list"),
        ([2, 1, "log"], "must rise from its first number to its second"),
        ([0, 1, "log"], "must begin above 0 to be logarithmic; or say 'linear'"),
        ([0, 1, "linear"], "write [0, 1] for these two, or [0.0, 1.0, 'linear'] for all numbers"),
        ([1, "log"], "must have two ends"),
        ([3, 1], "must strictly increase; a range ends with 'log' or 'linear'"),
        (["x", "x"], "must name each value once"),
        (list(range(65)), "must hold at most 64 values"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, setting: Any, rule: str) -> None:
    message = refused(tmp_path, table({"mine": setting}))
    assert "search.space.mine" in message
    assert rule in message


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("lrmax", "lr_max"), ("max_lr", "lr_max"), ("lr", "lr_max"), ("warm_up", "warmup"),
        ("kk", "k"), ("K", "k"), ("N", "power"), ("families", "family"), ("decay", "decay_share"),
    ],
)  # fmt: skip
def test_a_slip_of_a_known_key_is_no_parameter(tmp_path: Path, slip: str, meant: str) -> None:
    message = refused(tmp_path, table({slip: [1, 2]}))
    assert f"search.space.{slip}: unknown key; did you mean search.space.{meant}?" in message
    assert "If it is a parameter of your own, state it in task.args as well" in message
    assert slip in spec_of({slip: [1, 2]}, PYTHON | {"args": {slip: 1}}).search.space.own
    command = COMMAND | {"command": ["train", "{k}", f"{{{slip}}}"]}
    assert slip in spec_of({slip: [1, 2]}, command).search.space.own


@pytest.mark.parametrize(
    ("space", "task", "message"),
    [
        ({"args": 1}, PYTHON, "search.space: args is the name of something else"),
        ({"schedule": 1}, PYTHON, "search.space: schedule is the name of something else"),
        ({"a b": 1}, PYTHON, "search.space: 'a b' is no name: use letters, digits and _"),
        ({f"p{i}": [1, 2] for i in range(9)}, PYTHON, "more than 8 parameters of your own"),
        ({}, COMMAND, "task.command: has an unknown {wd}; known are {schedule_csv}, {k}"),
        ({"wd": 1, "bs": [1, 2]}, COMMAND, "search.space.bs: task.command has no {bs}"),
        ({"wd": 1, "seed": [1, 2]}, COMMAND, "search.space.seed: {seed} in task.command has"),
        (
            {"weight_decay": 1e-4},
            {"kind": "simulated", "epochs": 3},
            "search.space.weight_decay: unknown key; parameters of your own need training code of "
            "your own: task.kind 'python' or 'command'",
        ),
        (
            {"weight_decay": 1e-4},
            {"kind": "images", "epochs": 3, "data": {"name": "digits"},
             "model": {"name": "resnet", "depth": 8}},
            "what an image task trains with is stated in task.optimizer",
        ),
    ],
)  # fmt: skip
def test_what_does_not_reach_the_code_is_one_line(
    tmp_path: Path, space: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    assert message in refused(tmp_path, table(space, task))


@pytest.mark.parametrize("sampler", ["grid", "tpe", "gp", "random"])
def test_they_need_the_joint_search(tmp_path: Path, sampler: str) -> None:
    assert "'joint'" in refused(tmp_path, table({"wd": [1, 2]}, sampler=sampler))


numbers = st.floats(-1e9, 1e9).map(lambda value: float(f"{value:.4g}"))
ranges = st.one_of(
    st.tuples(numbers, numbers, st.just("linear")),
    st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.just("log")),
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(["log", "linear"])),
).filter(
    lambda r: r[1] - r[0] > 1.5 if type(r[0]) is int else r[1] - r[0] > 1e-9 * abs(r[0]) + 1e-12
)
lists = st.one_of(
    st.lists(numbers, min_size=1, max_size=9, unique=True).map(sorted),
    st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
    st.just([True, False]),
)


@given(st.one_of(ranges, lists), st.floats(0, 1))
def test_a_place_along_the_way_is_a_value_and_back(setting: Any, share: float) -> None:
    axis = own_axis("mine", setting)
    value = axis.at(share)
    assert axis.allows(value)
    assert axis.nearest(value) == value
    assert axis.at(axis.share(value)) == value
    if axis.bounds is not None:
        assert axis.widened(*axis.bounds, 0.5, True) is None
    if axis.scale is None or axis.is_integer:
        assert any(type(value) is type(each) for each in axis.values)
    else:
        assert abs(axis.share(value) - share) < 0.01
    assert axis.share(axis.at(0.0)) <= axis.share(value) <= axis.share(axis.at(1.0))


@given(st.dictionaries(st.sampled_from(list(OWN)), st.floats(0, 1), min_size=1))
def test_a_candidate_is_read_as_it_was_stored(shares: dict[str, float]) -> None:
    axes = spec_of(OWN).search.space.own
    own = {name: axes[name].at(share) for name, share in shares.items()}
    point = Candidate.of({"family": "cosine", "k": 2.0, "lr_max": 0.1, "lr_min": 0.0, **own})
    again = read_candidate(json.loads(json.dumps(point.stated(), sort_keys=True)))
    assert again == point
    assert hash(again) == hash(point)
    assert again is not None
    assert {type(v) for _, v in again.args} == {type(v) for v in own.values()}
    assert point.settings == {"family": "cosine", "k": 2.0, "lr_max": 0.1, "lr_min": 0.0, **own}
    assert not point < again
    assert point._replace(args=()) < point


def test_names_show_values_as_a_study_file_has_them() -> None:
    own = (("nesterov", True), ("optimizer", "adamw"), ("wd", 1e-05))
    point = Candidate(2.0, 0.1, "polynomial", 1.0, None, 0.0, None, own)
    assert candidate_name(point) == (
        "k = 2 at lr_max 0.1, nesterov true, optimizer adamw, wd 1e-05"
    )
    assert OwnAxis((0.99, 0.9999), "linear", name="beta2").at(0.5) == 0.99495
