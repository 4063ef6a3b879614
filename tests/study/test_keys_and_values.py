"""Single keys and values of a study file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.study.file import load
from tests.study.files import merged, one_line, refused, refused_with, written
from tests.support.memory_studies import images_table, study_table

# ---- keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("serach", "search"),
        ("schedul", "schedule"),
        ("nmae", "name"),
        ("task.epoch", "task.epochs"),
        ("task.epoch_second", "task.epoch_seconds"),
        ("task.surface.best_k", "task.surface.best_ks"),
        ("schedule.lr_maximum", "schedule.lr_max"),
        ("search.kmax", "search.k_max"),
        ("search.seed", "search.seeds"),
        ("pruning.enable", "pruning.enabled"),
        ("workers.max_attempt", "workers.max_attempts"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(tmp_path: Path, slip: str, meant: str) -> None:
    message = refused(tmp_path, merged(study_table(), slip, 1))
    assert f"study.toml: {slip}: unknown key; did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("task.batchsize", "task.batch_size"),
        ("task.model.dept", "task.model.depth"),
        ("task.data.validations", "task.data.validation"),
        ("task.optimizer.momentun", "task.optimizer.momentum"),
    ],
)
def test_unknown_key_of_an_image_task_names_the_nearest_known_one(
    tmp_path: Path, slip: str, meant: str
) -> None:
    message = refused(tmp_path, merged(images_table(), slip, 1))
    assert f"study.toml: {slip}: unknown key; did you mean {meant}?" in message


def test_unknown_key_that_is_near_to_none_gets_the_known_ones(tmp_path: Path) -> None:
    message = refused_with(tmp_path, pruning__zzz=1)
    assert "pruning.zzz: unknown key; known here: enabled, first_share" in message


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (study_table(), "task.model"),
        (study_table(), "task.batch_size"),
        (images_table(), "task.surface"),
        (images_table(), "task.epoch_seconds"),
    ],
)
def test_key_of_the_other_kind_of_task_is_not_offered_as_a_fix(
    tmp_path: Path, table: dict[str, Any], key: str
) -> None:
    message = refused(tmp_path, merged(table, key, {} if key.endswith("l") else 1))
    assert f"{key}: unknown key" in message
    assert f"did you mean {key}?" not in message


def test_renamed_key_is_named_with_its_present_name(tmp_path: Path) -> None:
    message = refused_with(tmp_path, confirm__rivals=["cosine"])
    assert message.endswith("study.toml: confirm.rivals is now called confirm.baselines")


def test_renamed_key_of_an_override_is_named_with_its_present_name(tmp_path: Path) -> None:
    message = one_line(written(tmp_path, study_table()), "confirm.rivals=['cosine']")
    assert message == "--set: confirm.rivals is now called confirm.baselines"


@pytest.mark.parametrize("key", ["a\nb", "a\rb", "\x1b[31m", "a\u2028b", ""])
def test_odd_key_is_refused_in_one_line(tmp_path: Path, key: str) -> None:
    message = refused(tmp_path, study_table() | {key: 1})
    assert "unknown key" in message
    assert message.isprintable()


@pytest.mark.parametrize("key", ["name", "task"])
def test_missing_key_is_named(tmp_path: Path, key: str) -> None:
    table = {k: v for k, v in study_table().items() if k != key}
    assert f"study.toml: {key}: is missing" in refused(tmp_path, table)


@pytest.mark.parametrize("key", ["epochs", "data"])
def test_missing_key_of_the_task_is_named(tmp_path: Path, key: str) -> None:
    table = images_table()
    del table["task"][key]
    assert f"study.toml: task.{key}: is missing" in refused(tmp_path, table)


# ---- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("task.epochs", "4", 'task.epochs = "4": must be a valid integer'),
        ("task.epochs", 4.5, "task.epochs = 4.5: must be a valid integer"),
        ("task.epochs", True, "task.epochs = true: must be a valid integer"),
        ("task.epochs", 0, "task.epochs = 0: must be greater than or equal to 1"),
        ("name", 3, "name = 3: must be a valid string"),
        ("schedule.lr_max", "high", 'schedule.lr_max = "high": must be a valid number'),
        ("schedule.lr_max", -0.1, "schedule.lr_max = -0.1: must be greater than 0"),
        ("schedule.family", "linear", 'schedule.family = "linear": must be'),
        ("pruning.enabled", 1, "pruning.enabled = 1: must be a valid boolean"),
        ("pruning.enabled", "yes", 'pruning.enabled = "yes": must be a valid boolean'),
        ("search.seeds", [1, 2], "search.seeds = [1, 2]: must be a valid integer"),
        ("search.sampler", "cmaes", 'search.sampler = "cmaes": must be'),
        ("search", 3, "search = 3: must be"),
        ("task", "images", 'task = "images": must be'),
        ("task.surface.best_ks", [1.0, 0], "task.surface.best_ks.1 = 0: must be greater than 0"),
        ("task.surface.best_ks", [], "task.surface.best_ks = []: "),
        ("task.surface", [], "task.surface = []: must be"),
    ],
)
def test_wrong_value_is_named_with_its_key_and_its_rule(
    tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    assert f"study.toml: {expected}" in refused(tmp_path, merged(study_table(), key, value))


@pytest.mark.parametrize("kind", ["image", "", 3, None])
def test_unknown_kind_of_task_lists_the_kinds(tmp_path: Path, kind: Any) -> None:
    task = {"epochs": 4} | ({} if kind is None else {"kind": kind})
    message = refused(tmp_path, study_table(task=task))
    assert "study.toml: task.kind" in message
    assert "must be 'images', 'python', 'command' or 'simulated'" in message


def test_missing_kind_is_not_shown_as_null(tmp_path: Path) -> None:
    """TOML has no null; the user wrote nothing."""
    assert "null" not in refused(tmp_path, study_table(task={"epochs": 4}))


def test_unknown_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refused(tmp_path, merged(images_table(), "task.model.name", "vgg"))
    assert "task.model.name = \"vgg\": must be 'resnet'" in message


@pytest.mark.parametrize("depth", [9, 13, 10])
def test_depth_that_no_resnet_has_names_the_nearest(tmp_path: Path, depth: int) -> None:
    message = refused(tmp_path, merged(images_table(), "task.model.depth", depth))
    assert f"task.model.depth = {depth}: must be 6n + 2" in message
    assert "8, 14" in message


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"depth": 3}, "depth = 3: must be 6n + 2 for basic blocks; the nearest is 8"),
        (
            {"depth": 47},
            "depth = 47: must be 6n + 2 for basic blocks; the nearest are 44, 50; "
            "47 fits block = 'preact-bottleneck'",
        ),
        (
            {"block": "preact-bottleneck", "depth": 30},
            "depth = 30: must be 9n + 2 for preact-bottleneck blocks; the nearest are 29, 38",
        ),
        ({"block": "preact-bottleneck"}, "depth = 8: must be 9n + 2"),
        ({"block": "bottleneck"}, "block = \"bottleneck\": must be 'basic', 'preact-basic' or"),
        ({"shortcut": "C"}, "shortcut = \"C\": must be 'A' or 'B'"),
        ({"name": "wide-resnet"}, "depth: is missing (and 1 more)"),
        (
            {"name": "wide-resnet", "depth": 20, "widen": 8},
            "depth = 20: must be 6n + 4 for a wide ResNet; the nearest are 16, 22",
        ),
        (
            {"name": "wide-resnet", "depth": 16, "widen": 8, "dropout": 1},
            "dropout = 1: must be less than 1",
        ),
        (
            {"name": "wide-resnet", "depth": 16, "widen": 8, "block": "basic"},
            "block: unknown key; known here: depth, dropout, name, widen",
        ),
        (
            {"name": "densenet-bc", "depth": 99, "growth": 12},
            "depth = 99: must be 6n + 4 for a DenseNet-BC; the nearest are 94, 100",
        ),
        ({"name": "resnet50", "depth": 50}, "depth: unknown key; known here: name"),
        ({"name": ["resnet"]}, "name = [\"resnet\"]: must be 'resnet', 'wide-resnet', "),
        ({"name": "resnet", "resnet": 1}, "resnet: unknown key; known here: block, depth, name"),
    ],
)
def test_wrong_network_is_refused_by_the_rule_of_its_kind(
    tmp_path: Path, model: dict[str, Any], expected: str
) -> None:
    message = refused(tmp_path, merged(images_table(), "task.model", model))
    assert f"study.toml: task.model.{expected}" in message


def test_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refused(tmp_path, images_table(name="mnist"))
    assert all(name in message for name in ("digits", "cifar10", "cifar100", "image-folder"))


@pytest.mark.parametrize("name", ["image-folder", "cifar10", "cifar100"])
def test_data_set_in_a_folder_must_name_it(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, images_table(name=name))
    assert f"task.data.root = null: must name the folder of data set '{name}'" in message or (
        f"task.data.root: must name the folder of data set '{name}'" in message
    )


def test_data_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load(written(tmp_path, images_table(name="image-folder", root="pictures")))
    assert spec.task.kind == "images"
    assert spec.task.data.root == str(tmp_path / "pictures")


@pytest.mark.parametrize("root", ["~no-such-user-here/pictures", "a\0b"])
def test_data_folder_that_cannot_be_is_refused(tmp_path: Path, root: str) -> None:
    message = refused(tmp_path, images_table(name="image-folder", root=root))
    assert "task.data.root = " in message


@pytest.mark.parametrize(
    "name",
    ["a/b", "a\n", "a\nb", "", " a", ".hidden", "-x", "naïve", "a b", "a\0", "../up", "x" * 101],
)
def test_name_that_does_not_fit_in_urls_and_file_names_is_refused(
    tmp_path: Path, name: str
) -> None:
    message = refused(tmp_path, study_table(name))
    assert "study.toml: name = " in message
    assert ("letters, digits" if len(name) <= 100 else "100 characters") in message


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "x" * 100])
def test_ordinary_name_is_accepted(tmp_path: Path, name: str) -> None:
    assert load(written(tmp_path, study_table(name))).name == name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "key", ["schedule.lr_max", "search.k_step", "task.epoch_seconds", "task.surface.best_error"]
)
def test_number_that_is_not_finite_is_refused(tmp_path: Path, key: str, value: float) -> None:
    message = refused(tmp_path, merged(study_table(), key, value))
    assert f"study.toml: {key} = " in message
    assert "must be a finite number" in message


@pytest.mark.parametrize("digits", [400, 4000])
@pytest.mark.parametrize("key", ["task.epochs", "schedule.lr_max", "search.seeds", "search.k_max"])
def test_huge_integer_is_refused_and_shown_in_part(tmp_path: Path, key: str, digits: int) -> None:
    message = refused(tmp_path, merged(study_table(), key, 10**digits))
    assert f"study.toml: {key} = 1000" in message
    assert len(message) < 400


@pytest.mark.parametrize("key", ["task.epochs", "schedule.lr_max", "task.surface.noise_seed"])
def test_hexadecimal_integer_beyond_python_s_limit_is_refused(tmp_path: Path, key: str) -> None:
    """tomllib reads it, but it has more decimal digits than Python writes."""
    path = written(tmp_path, merged(study_table(), key, "HERE"))
    path.write_text(path.read_text().replace('"HERE"', "0x" + "f" * 4000))
    assert len(one_line(path)) < 400


def test_integer_of_too_many_digits_is_not_valid_toml(tmp_path: Path) -> None:
    path = tmp_path / "digits.toml"
    path.write_text("name = 1" + "0" * 5000)
    assert "is not valid TOML" in one_line(path)
