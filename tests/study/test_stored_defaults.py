"""What a stored study means does not change from one version to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdecay_search import __version__
from kdecay_search.errors import InvalidSpec
from kdecay_search.study.file import from_json
from kdecay_search.study.spec import StudySpec

SMALLEST: dict[str, dict[str, Any]] = {
    "simulated": {"kind": "simulated", "epochs": 3},
    "images": {"kind": "images", "epochs": 3, "data": {"name": "digits"}},
    "python": {"kind": "python", "entry": "train:train", "epochs": 3},
    "command": {"kind": "command", "command": ["train", "{schedule_csv}"], "epochs": 3},
}
"""For each kind of task, what a study file must state of it."""

DEFAULTS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text())
    for file in (Path(__file__).parent / "stored_defaults").glob("*.json")
}
"""By version: every setting, as a study of that version which states nothing else means it.

If a default changes, or there is a new setting, studies that are stored must mean what they meant.
Add the new version's table, and let :func:`kdecay_search.study.file.from_json` give the settings
that an earlier version's study lacks the values of its table. Never change an earlier table.
"""

LATER = {"0.1.0": {"search": ("space", "budget", "baselines"), "pruning": ("looks",)}}
"""By version and table: settings that came later and need no value of that version. No study of it
looks at those of the search, because each of them searches a grid or with one of Optuna's samplers;
the number of looks was fixed then, and is the default now."""


def stated(kind: str) -> dict[str, Any]:
    return {"name": "study", "task": SMALLEST[kind]}


@pytest.mark.parametrize("kind", SMALLEST)
@pytest.mark.parametrize("version", DEFAULTS)
def test_missing_keys_mean_what_the_version_meant(version: str, kind: str) -> None:
    spec = from_json(json.dumps(stated(kind)), version)
    read = spec.model_dump(mode="json")
    for table, keys in LATER.get(version, {}).items():
        for key in keys:
            del read[table][key]
    known = DEFAULTS[version][kind]
    assert {table: read[table] for table in known} == known


@pytest.mark.parametrize("kind", SMALLEST)
def test_this_version_has_its_table(kind: str) -> None:
    now = StudySpec.model_validate_json(json.dumps(stated(kind))).model_dump(mode="json")
    assert DEFAULTS[__version__][kind] == now


@pytest.mark.parametrize("kind", SMALLEST)
def test_every_default_is_stored(kind: str) -> None:
    """So a default that changes later does not change a stored study."""
    spec = StudySpec.model_validate_json(json.dumps(stated(kind)))
    stored = json.loads(spec.to_json())
    omitted = {("search", "lr_max"), ("schedule", "warmup_steps")}  # None there means: not used
    left_out = ("steps", "report_every", "metric", "report", "sync_batch_norm", "fork")
    omitted_of_task = {("task", key) for key in left_out}

    def keys(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        own = {(*prefix, key) for key in values}
        inner = (keys(v, (*prefix, k)) for k, v in values.items() if isinstance(v, dict))
        return own.union(*inner)

    defined = {
        (table, key)
        for table in ("schedule", "search", "pruning", "confirm", "workers")
        for key in type(getattr(spec, table)).model_fields
    }
    assert defined - keys(stored) == omitted
    of_task = {("task", key) for key in type(spec.task).model_fields}
    assert of_task - keys(stored) <= omitted_of_task


def test_a_later_version_s_study_is_refused_in_one_line() -> None:
    text = json.dumps(stated("simulated") | {"invented": 1})
    with pytest.raises(InvalidSpec) as refused:
        from_json(text, "9.9.9")
    assert "launched by version 9.9.9" in str(refused.value)
    assert f"this is {__version__}" in str(refused.value)
