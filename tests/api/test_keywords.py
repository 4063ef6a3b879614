"""The keywords of ``find_schedule`` are the keys of a study file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import BaseModel

from kdecay_search import find_schedule
from kdecay_search.api.keywords import UNSTATED, keywords, spec_of
from kdecay_search.errors import InvalidSpec
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.user_tasks import PythonTask
from tests.support import find_schedule_file

LENGTH = {"steps": 100, "report_every": 10}
ENTRY = "mine:train"


def of(**stated: Any) -> StudySpec:
    return spec_of({**LENGTH, **stated}, None, ENTRY)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a study file of own Python code."""
    for name, field in model.model_fields.items():
        options = get_args(field.annotation) or (field.annotation,)
        tables = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if PythonTask in tables:
            tables = [PythonTask]
        for table in tables:
            yield from keys(table, f"{prefix}{name}.")
        if not tables:
            yield prefix + name


def test_every_key_of_a_study_file_is_a_keyword_of_its_own() -> None:
    known = keywords()
    assert sorted(known.values()) == sorted(set(keys(StudySpec)) - set(UNSTATED))
    parameters = inspect.signature(find_schedule).parameters
    assert set(parameters) == {*known, "train", *find_schedule_file.OWN}
    assert len(parameters) == len(known) + 1 + len(find_schedule_file.OWN)
    assert all(parameters[name].default is None for name in known)
    assert all(f"\n        {name}: " in (find_schedule.__doc__ or "") for name in parameters)


def test_the_function_is_written_from_the_keys() -> None:
    text = find_schedule_file.FILE.read_text()
    assert text == find_schedule_file.source(), "run: python -m tests.support.find_schedule_file"


def test_keywords_say_what_a_study_file_says(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        """
        name = "both"
        [task]
        kind = "python"
        entry = "mine:train"
        epochs = 5
        args = { width = 3 }
        [task.metric]
        name = "loss"
        direction = "max"
        [schedule]
        lr_max = 0.5
        lr_min = 0.01
        [search]
        budget = 12
        [search.space]
        k = [0.5, 8.0, "log"]
        [confirm]
        seeds = 4
        """
    )
    by_keyword = spec_of(
        {
            "name": "both",
            "epochs": 5,
            "args": {"width": 3},
            "metric": "loss",
            "direction": "maximize",
            "lr_max": 0.5,
            "lr_min": 0.01,
            "budget": 12,
            "space_k": (0.5, 8, "log"),
            "confirm_seeds": 4,
        },
        None,
        ENTRY,
    )
    assert by_keyword == spec_of({}, file, ENTRY)
    assert spec_of({"budget": 20}, file, None).search.budget == 20
    assert spec_of({"metric": None, "unit": "nats"}, file, ENTRY).task.metric.name == "loss"


def test_a_pair_of_levels_is_the_range_and_its_middle_what_one_trains_with() -> None:
    spec = of(lr_max=(1e-4, 1e-3))
    assert spec.search.space.lr_max == (1e-4, 1e-3, "log")
    assert spec.schedule.lr_max == 3.16e-4
    assert spec.schedule.lr_min == 3.16e-6
    assert of(lr_max=0.02).schedule.lr_min == 0.0002
    assert of(lr_max=0.02, lr_min=0.01).schedule.lr_min == 0.01
    assert of(lr_max=np.float64(0.02), budget=np.int64(7)).search.budget == 7


@pytest.mark.parametrize(
    ("stated", "text"),
    [
        ({"budget": 2}, "find_schedule: budget = 2: must be greater than or equal to 4"),
        ({"seeds": "many"}, 'find_schedule: seeds = "many": must be a valid integer'),
        ({"direction": "down"}, "find_schedule: direction = \"down\": must be 'min' or 'max'"),
        ({"confirm_seeds": 1}, "find_schedule: confirm_seeds = 1: must be 2 or more"),
        ({"lr_max": (1, 0.1)}, "lr_max = (1, 0.1): must be a number, or (low, high)"),
        ({"epochs": 3}, "steps = 100: goes without epochs = 3"),
        ({"space_k": [3, 1, "log"]}, 'space_k = [3, 1, "log"]: must rise'),
        ({"lr_max": float("nan")}, "lr_max"),
    ],
)
def test_a_wrong_value_is_named_by_its_keyword(stated: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        of(**stated)
    assert text in str(raised.value)


def test_a_function_goes_with_a_study_of_own_code_only(tmp_path: Path) -> None:
    file = tmp_path / "images.toml"
    file.write_text('name = "a"\n[task]\nkind = "images"\nepochs = 1\ndata.name = "digits"\n')
    assert spec_of({}, file, None).task.kind == "images"
    with pytest.raises(InvalidSpec, match="leave train out"):
        spec_of({}, file, ENTRY)
    with pytest.raises(InvalidSpec, match="train is missing"):
        spec_of(LENGTH, None, None)
    with pytest.raises(InvalidSpec, match="no such file"):
        spec_of({}, tmp_path / "none.toml", None)


def test_a_spec_from_keywords_can_be_launched_from_a_file() -> None:
    spec = of(lr_max=(0.1, 1), budget=12, args={"list": [1, 2]})
    assert StudySpec.model_validate_json(json.dumps(json.loads(spec.to_json()))) == spec
