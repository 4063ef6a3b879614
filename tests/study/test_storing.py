"""Stored studies are read back unchanged, also those of earlier versions, and compared."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.errors import InvalidSpec
from kdecay_search.search import runs_at_most
from kdecay_search.storage import Storage
from kdecay_search.storage.attributes import SPEC
from kdecay_search.storage.records import read_study
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.file import differences, from_json, load, resumed, to_toml
from kdecay_search.study.spec import StudySpec
from tests.study.files import written
from tests.study.strategies import TEXTS, numbers, tables
from tests.support.memory_studies import images_table, study

JSON_TABLES = st.dictionaries(
    TEXTS,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers(-1e9, 1e9) | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)

STORED_BEFORE_BASELINES = """
{"name":"small","description":"","task":{"kind":"simulated","epochs":3,"epoch_seconds":0.0,
"surface":{"best_ks":[3.0],"best_error":8.0,"curvature":30.0,"seed_noise":0.0,"run_noise":0.0,
"epoch_noise":0.0,"crossing":8.0,"noise_seed":0}},"schedule":{"family":"polynomial","power":1.0,
"lr_min":0.001,"lr_max":0.1,"warmup_epochs":0.0},"search":{"sampler":"grid","ks":null,"k_min":1.0,
"k_max":5.0,"k_cap":null,"k_step":0.5,"trials":10,"sampler_seed":0,"max_terms":2,"seeds":3,
"min_gain":0.1},"pruning":{"enabled":false,"first_share":0.5,"keep_at_least":6},"confirm":{"seeds":4,
"first_seed":1000,"area_matched":true,"rivals":["cosine","sgdr"]},"workers":{"heartbeat_seconds":10.0,
"grace_seconds":120.0,"max_attempts":3,"checkpoint_seconds":300.0,"decoders":8}}
"""
"""A study as version 0.1.0 stored it."""

FINGERPRINTS = [
    (study(), "ada4e7b03a23c6c5", "a89e5ae9f4e40ac6", "8c5d4447726f0f62"),
    (
        study(search={"lr_max": [0.05, 0.1]}, surface={"best_lr_max": 0.1}),
        "473bea2daa4ce28a",
        "b85861b01a5c3dfd",
        "6dea924b344cbf19",
    ),
    (
        StudySpec.model_validate_json(json.dumps(images_table())),
        "68ffd0093597bcc4",
        "0771cd87767924b7",
        "3b736902fa3312f4",
    ),
    (
        study(task={"kind": "command", "epochs": 3, "command": ["t", "{k}"], "epoch_timeout": 9.0}),
        "92c45c1a02b4a63a",
        "67c9120a98d8f6a1",
        "8c973f375983c79e",
    ),
    (
        study(task={"kind": "python", "epochs": 3, "entry": "a:b", "args": {"x": [1, 2.5]}}),
        "0c7db17721447ccd",
        "8692c0b3ed2dd7ab",
        "161d690226af842f",
    ),
]
"""The first bytes of version 0.1.0's fingerprints of a study, a run, and a confirmation's run."""


def read(table: dict[str, Any]) -> StudySpec:
    return StudySpec.model_validate_json(json.dumps(table))


@settings(deadline=None, max_examples=100)
@given(table=tables())
def test_stored_spec_is_read_back_unchanged(table: dict[str, Any]) -> None:
    spec = read(table)
    assert from_json(spec.to_json()) == spec
    assert from_json(spec.to_json()).to_json() == spec.to_json()
    assert differences(spec, from_json(spec.to_json())) == []


@settings(deadline=None, max_examples=40)
@given(table=tables())
def test_file_and_json_give_the_same_spec(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]
) -> None:
    assert load(written(tmp_path_factory.getbasetemp(), table)) == read(table)


@settings(deadline=None, max_examples=60)
@given(table=tables())
def test_spec_written_as_toml_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_bytes(to_toml(read(table)).encode())
    assert load(path) == read(table)


@settings(deadline=None, max_examples=60)
@given(args=JSON_TABLES)
def test_arguments_written_as_toml_are_read_back_without_their_nulls(
    tmp_path_factory: pytest.TempPathFactory, args: dict[str, Any]
) -> None:
    task = {"kind": "python", "epochs": 3, "entry": "a:b"}
    path = tmp_path_factory.getbasetemp() / "arguments.toml"
    path.write_bytes(to_toml(study(task=task | {"args": args})).encode())
    assert load(path) == study(task=task | {"args": without_nulls(args)})


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value if inner is not None]
    return value


def check_usable(spec: StudySpec) -> None:
    """A spec that was accepted must not be refused later, by a worker or a report."""
    schedule = spec.schedule_for((spec.search.k_min, spec.search.k_min + 1))
    epochs = spec.task.length.total
    assert schedule(epochs, epochs) == spec.schedule.lr_min
    assert schedule(schedule.warmup_steps, epochs) == spec.schedule.lr_max
    assert all(candidates >= 1 for candidates, _ in runs_at_most(spec))


@settings(deadline=None, max_examples=100)
@given(table=tables())
def test_accepted_spec_gives_a_schedule_and_a_plan(table: dict[str, Any]) -> None:
    check_usable(read(table))


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_warm_up_of_all_but_a_moment_still_leaves_a_schedule(epochs: int) -> None:
    check_usable(study(epochs=epochs, schedule={"warmup_epochs": epochs - 0.1}))


def test_spec_of_another_version_says_so() -> None:
    stored = json.loads(study().to_json()) | {"colour": "red"}
    with pytest.raises(InvalidSpec, match=r"stored study: colour: unknown key.*another version"):
        from_json(json.dumps(stored))


def test_study_stored_before_baselines_had_their_name_is_read() -> None:
    spec = from_json(STORED_BEFORE_BASELINES)
    confirm = {"seeds": 4, "baselines": ["cosine", "sgdr"]}
    assert spec == study(confirm=confirm, search={"min_gain": 0.1})
    assert from_json(spec.to_json()) == spec
    assert "rivals" not in spec.to_json()


def test_study_in_the_database_from_before_baselines_had_their_name_is_read(
    storage: Storage,
) -> None:
    stored = STORED_BEFORE_BASELINES.replace('"small"', '"before-baselines"')
    first_stage = optuna.create_study(storage=storage.optuna, study_name="before-baselines/k1")
    first_stage.set_user_attr(SPEC, stored)
    spec = read_study(storage, "before-baselines").spec
    assert spec.confirm.baselines == ("cosine", "sgdr")
    assert differences(spec, study("before-baselines", search={"min_gain": 0.1})) == []


def test_a_study_is_resumed_with_the_gain_that_it_was_launched_with() -> None:
    """Its default was 0.1 in version 0.1.0."""
    stored = from_json(STORED_BEFORE_BASELINES)
    assert differences(stored, resumed(stored, study())) == []
    stated = study(search={"min_gain": 0.2})
    assert differences(stored, resumed(stored, stated)) == ["search.min_gain: 0.1 -> 0.2"]


@pytest.mark.parametrize("version", [None, "0.1.0"])
def test_a_study_of_before_there_was_a_joint_search_is_a_grid(version: str | None) -> None:
    """Every stored study states its sampler, but not every test and tool writes all settings."""
    stored = json.dumps({"name": "old", "task": {"kind": "simulated", "epochs": 3}})
    assert from_json(stored, version).search.sampler == "grid"
    assert from_json(stored, "0.2.0").search.sampler == "joint"


def test_a_joint_study_may_be_given_a_larger_budget() -> None:
    small = study(search={"sampler": "joint", "budget": 10})
    large = study(search={"sampler": "joint", "budget": 30})
    assert differences(small, large) == []


def test_a_grid_whose_file_leaves_the_sampler_out_is_resumed_as_the_grid_that_it_was() -> None:
    """Version 0.1.0 had no other default; today the same file means a joint search."""
    stored = from_json(STORED_BEFORE_BASELINES)
    file = study(search={"max_terms": 3})
    table = file.model_dump(mode="json", exclude={"search"})
    launched = read(table | {"search": {"max_terms": 3}})
    assert launched.search.sampler == "joint"
    assert differences(stored, resumed(stored, launched)) == []
    stated = read(table | {"search": {"sampler": "joint", "min_gain": 0.1}})
    assert differences(stored, resumed(stored, stated)) == ["search.sampler: 'grid' -> 'joint'"]


WHOLE = Candidate(2.0, 0.1, "polynomial", 1.5, None, 0.01, 0.05)


@pytest.mark.parametrize(
    "other",
    [
        WHOLE._replace(k=2.5),
        WHOLE._replace(lr_max=0.2),
        WHOLE._replace(power=1.6),
        WHOLE._replace(lr_min=0.02),
        WHOLE._replace(warmup=0.06),
        WHOLE._replace(family="cosine", power=None),
        Candidate(None, 0.1, "cooldown", None, 0.2, 0.01, 0.05),
        Candidate(None, 0.1, "cooldown", None, 0.3, 0.01, 0.05),
        Candidate(None, 0.1, "linear-cooldown", None, 0.2, 0.01, 0.05),
        None,
    ],
)
def test_fingerprints_of_whole_candidates_differ_by_every_parameter(
    other: Candidate | None,
) -> None:
    spec = study(search={"sampler": "joint"})
    runs = [spec.fingerprint((2.0,), 0, None, 0.1, point) for point in (WHOLE, other)]
    assert runs[0] != runs[1]
    later = spec.fingerprint((1.0, 2.0), 0, None, 0.1, WHOLE)
    assert later not in runs


@pytest.mark.parametrize(("spec", "of_study", "of_run", "of_confirmation"), FINGERPRINTS)
def test_fingerprints_decide_which_checkpoints_are_found_and_never_change(
    spec: StudySpec, of_study: str, of_run: str, of_confirmation: str
) -> None:
    assert spec.fingerprint().hex()[:16] == of_study
    assert spec.fingerprint((1.0, 3.5), 2).hex()[:16] == of_run
    assert spec.fingerprint((3.5,), 1000, "cosine", 0.2).hex()[:16] == of_confirmation
    assert len(spec.fingerprint()) == 32


def test_fingerprint_of_a_study_stored_before_baselines_had_their_name_is_the_same() -> None:
    assert from_json(STORED_BEFORE_BASELINES).fingerprint() == study().fingerprint()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"confirm": 3}', "[" * 100_000])
def test_stored_text_that_is_no_spec_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidSpec, match="stored study") as caught:
        from_json(text)
    assert len(str(caught.value).splitlines()) == 1


def test_equal_specs_do_not_differ() -> None:
    assert differences(study(), study()) == []


@pytest.mark.parametrize(
    "free",
    [
        {"description": "another"},
        {"workers": {"heartbeat_seconds": 1.0, "grace_seconds": 5.0, "max_attempts": 9}},
        {"search": {"max_terms": 5}},
        {"search": {"sampler": "grid", "budget": 99}},
    ],
)
def test_what_changes_no_result_may_change(free: dict[str, Any]) -> None:
    changed = study(**free)
    assert changed != study()
    assert differences(study(), changed) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"search": {"seeds": 4}}, "search.seeds: 3 -> 4"),
        ({"search": {"min_gain": 0.5}}, "search.min_gain: 'auto' -> 0.5"),
        ({"search": {"k_cap": 12.0}}, "search.k_cap: None -> 12.0"),
        ({"schedule": {"family": "cosine"}}, "schedule.family: 'polynomial' -> 'cosine'"),
        ({"pruning": {"enabled": True}}, "pruning.enabled: False -> True"),
        ({"surface": {"best_ks": [2.0]}}, "task.surface.best_ks: [3.0] -> [2.0]"),
        ({"epochs": 9}, "task.epochs: 3 -> 9"),
        (
            {"search": {"sampler": "grid", "baselines": ["cosine"]}},
            "search.baselines: ['linear', 'cosine', 'cooldown'] -> ['cosine']",
        ),
        ({"search": {"sampler": "joint"}}, "search.sampler: 'grid' -> 'joint'"),
    ],
)
def test_what_would_mix_results_is_named_with_both_values(
    change: dict[str, Any], line: str
) -> None:
    assert differences(study(), study(**change)) == [line]


def test_another_kind_of_task_is_a_difference() -> None:
    lines = differences(study(), read(images_table()))
    assert "task.kind: 'simulated' -> 'images'" in lines


@settings(deadline=None, max_examples=40)
@given(old=tables(), new=tables())
def test_specs_without_differences_train_the_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Differences name the same keys both ways round; without any, the trainings are the same."""
    one, other = read(old), read(new)
    there, back = differences(one, other), differences(other, one)
    assert [line.partition(":")[0] for line in there] == [line.partition(":")[0] for line in back]
    if not there:
        assert (one.task, one.schedule, one.pruning) == (other.task, other.schedule, other.pruning)
