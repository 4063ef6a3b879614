from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builders import images_table, study, study_table
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdecay_search.errors import InvalidSpec
from kdecay_search.procedure import runs_at_most
from kdecay_search.schedules import FAMILIES
from kdecay_search.spec import MAX_CANDIDATES, StudySpec, grid
from kdecay_search.study_file import differences, from_json, load

# ---- files ----------------------------------------------------------------------------------


def toml(value: Any) -> str:
    """A JSON-like value as TOML, its tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def written(folder: Path, table: dict[str, Any]) -> Path:
    path = folder / "study.toml"
    lines = [f"{toml(key)} = {toml(value)}\n" for key, value in table.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def merged(table: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """``table`` with the value at a dotted key set."""
    key, dot, rest = dotted.partition(".")
    return table | {key: merged(table.get(key, {}), rest, value) if dot else value}


def one_line(path: Path, *overrides: str) -> str:
    """The refusal of a study file: always one line, and it names where the fault is."""
    with pytest.raises(InvalidSpec) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith((f"{path}: ", "--set"))
    return message


def refused(folder: Path, table: dict[str, Any], *overrides: str) -> str:
    return one_line(written(folder, table), *overrides)


def refused_with(folder: Path, **values: Any) -> str:
    """Refusal of a minimal simulated study with these values; ``__`` stands for a dot."""
    table = study_table()
    for key, value in values.items():
        table = merged(table, key.replace("__", "."), value)
    return refused(folder, table)


SHAPE = """
name = "digits"

[task]
kind = "images"
epochs = 30
batch_size = 64
precision = "float32"

[task.model]
name = "resnet"
depth = 8
block = "basic"

[task.data]
name = "image-folder"
root = "{root}"
validation = 0.2
subset = 5000

[task.optimizer]
momentum = 0.9
nesterov = true
weight_decay = 1e-4

[schedule]
family = "polynomial"
power = 1
lr_max = 0.1
lr_min = 0.001
warmup_epochs = 0

[search]
sampler = "grid"
k_min = 1
k_max = 5
k_step = 0.5
k_cap = 10
trials = 10
max_terms = 2
seeds = 3
min_gain = 0.1

[pruning]
enabled = true
first_share = 0.5
"""


def test_file_of_the_documented_shape_loads(tmp_path: Path) -> None:
    path = tmp_path / "digits.toml"
    path.write_text(SHAPE.format(root=tmp_path))
    spec = load(path)
    assert spec.name == "digits"
    assert spec.task.kind == "images"
    assert spec.task.model.depth == 8
    assert (spec.task.data.root, spec.task.data.subset) == (str(tmp_path), 5000)
    assert spec.schedule.lr_max == 0.1
    assert (spec.search.k_min, spec.search.cap) == (1.0, 10.0)
    assert spec.pruning.enabled


@pytest.mark.parametrize("table", [study_table(), images_table()], ids=["simulated", "images"])
def test_everything_but_name_and_task_may_be_left_out(
    tmp_path: Path, table: dict[str, Any]
) -> None:
    assert load(written(tmp_path, table)).name == "small"


def test_shipped_study_files_load() -> None:
    files = sorted((Path(__file__).parent.parent / "studies").glob("*.toml"))
    assert files
    names = [load(file).name for file in files]
    assert len(set(names)) == len(names)


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in one_line(tmp_path / "nowhere.toml")


def test_folder_is_not_a_study_file(tmp_path: Path) -> None:
    assert "cannot be read" in one_line(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n\t\n"])
def test_empty_file_is_called_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.toml"
    path.write_bytes(content)
    assert "is empty" in one_line(path)


def test_file_of_comments_alone_misses_name_and_task(tmp_path: Path) -> None:
    path = tmp_path / "comments.toml"
    path.write_text("# to be filled in\n")
    assert "name: is missing (and 1 more)" in one_line(path)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\x00\x00", b"\xff\xfe\x00\x01", bytes(range(256))]
)
def test_binary_file_is_not_a_text_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.toml"
    path.write_bytes(content)
    assert "not a text file" in one_line(path)


@pytest.mark.parametrize(
    "content", ["name = ", "name", "[task", "name = 'a'\nname = 'b'", "\0\0\0", "a = 'x\ny'"]
)
def test_broken_toml_is_refused_with_its_place(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(content)
    message = one_line(path)
    assert "is not valid TOML" in message
    assert "line" in message or "end of document" in message


def test_byte_order_mark_of_a_windows_editor_does_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, study_table())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path).name == "small"


@pytest.mark.parametrize("depth", [100, 300, 5000])
@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: "x = " + "[" * depth + "]" * depth,
        lambda depth: ".".join("x" * depth) + " = 1",
        lambda depth: "x = " + "{y = " * depth + "1" + "}" * depth,
    ],
    ids=["lists", "dotted keys", "tables"],
)
def test_deep_nesting_is_refused(tmp_path: Path, depth: int, nested: Any) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"{nested(depth)}\n{written(tmp_path, study_table()).read_text()}")
    assert len(one_line(path)) < 400


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
def test_key_of_the_other_kind_of_task_is_not_offered_as_a_mend(
    tmp_path: Path, table: dict[str, Any], key: str
) -> None:
    message = refused(tmp_path, merged(table, key, {} if key.endswith("l") else 1))
    assert f"{key}: unknown key" in message
    assert f"did you mean {key}?" not in message


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


# ---- values that must fit each other --------------------------------------------------------


def test_k_range_must_be_ordered(tmp_path: Path) -> None:
    message = refused_with(tmp_path, search__k_min=5, search__k_max=2.5)
    assert "study.toml: search.k_max = 2.5: must be at least search.k_min = 5" in message


def test_rates_must_be_ordered(tmp_path: Path) -> None:
    message = refused_with(tmp_path, schedule__lr_min=0.5, schedule__lr_max=0.1)
    assert "study.toml: schedule.lr_max = 0.1: must be at least schedule.lr_min = 0.5" in message


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


# ---- --set ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("task.epochs=7", "task.epochs", 7),
        ("task.epochs = 7", "task.epochs", 7),
        ("schedule.lr_max=1", "schedule.lr_max", 1.0),
        ("schedule.lr_max=2e-1", "schedule.lr_max", 0.2),
        ("pruning.enabled=false", "pruning.enabled", False),
        ("name=other", "name", "other"),
        ("name='other'", "name", "other"),
        ('name="other"', "name", "other"),
        ("search.sampler=tpe", "search.sampler", "tpe"),
        ("description=two words = one", "description", "two words = one"),
        ("description=", "description", ""),
        ("task.surface.best_ks=[1, 2.5]", "task.surface.best_ks", (1.0, 2.5)),
        ("task.surface={crossing = 3}", "task.surface.crossing", 3.0),
        ("workers.max_attempts=9", "workers.max_attempts", 9),
    ],
)
def test_override_sets_a_value(tmp_path: Path, override: str, key: str, value: Any) -> None:
    spec: Any = load(written(tmp_path, study_table()), [override])
    for part in key.split("."):
        spec = getattr(spec, part)
    assert spec == value
    assert type(spec) is type(value)


def test_override_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    table = study_table(search={"seeds": 7, "k_max": 3.0})
    spec = load(written(tmp_path, table), ["search.k_max=2"])
    assert (spec.search.seeds, spec.search.k_max) == (7, 2.0)


def test_last_override_of_a_key_counts(tmp_path: Path) -> None:
    spec = load(written(tmp_path, study_table()), ["search.seeds=4", "search.seeds=5"])
    assert spec.search.seeds == 5


def test_overrides_turn_one_data_set_into_another(tmp_path: Path) -> None:
    """As in the issue: an image folder, with --set alone, from a shipped study file."""
    overrides = [
        "name=folder",
        "task.data.name=image-folder",
        f"task.data.root={tmp_path}",
        "task.data.subset=5000",
    ]
    spec = load(written(tmp_path, images_table()), overrides)
    assert spec.task.kind == "images"
    assert spec.task.data.root == str(tmp_path)


@pytest.mark.parametrize("override", ["task.epochs", "=3", "task..epochs=3", ".name=x", "", " =1"])
def test_override_without_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    message = one_line(written(tmp_path, study_table()), override)
    assert message == f"--set {override}: must have the form dotted.key=value"


@pytest.mark.parametrize("override", ["name.x=1", "task.epochs.x.y=1", "task.surface.best_ks.0=1"])
def test_override_through_something_that_is_no_table_is_refused(
    tmp_path: Path, override: str
) -> None:
    table = merged(study_table(), "task.surface.best_ks", [2.0])
    message = one_line(written(tmp_path, table), override)
    assert message.startswith(f"--set {override}: ")
    assert message.endswith(" is not a table")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.epochs=0", "--set: task.epochs = 0: must be greater than or equal to 1"),
        ("task.epochs=many", '--set: task.epochs = "many": must be a valid integer'),
        ("search.kmax=3", "--set: search.kmax: unknown key; did you mean search.k_max?"),
        ("task.kind=other", "--set: task.kind"),
        ("name=a/b", '--set: name = "a/b": must start with'),
    ],
)
def test_fault_of_an_override_is_laid_to_set(tmp_path: Path, override: str, expected: str) -> None:
    assert one_line(written(tmp_path, study_table()), override).startswith(expected)


@pytest.mark.parametrize(
    "override",
    ["task.surface={crossing = -1}", "task.surface.best_ks=[1, -1]", "task . epochs=0"],
)
def test_fault_inside_an_override_is_laid_to_set(tmp_path: Path, override: str) -> None:
    assert one_line(written(tmp_path, study_table()), override).startswith("--set")


def test_fault_of_the_file_is_not_laid_to_an_override_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path, merged(study_table(), "search.seeds", 0))
    assert one_line(path, "search.k_max=3").startswith(f"{path}: search.seeds = 0")


@pytest.mark.parametrize("override", ["a\nb=1", "x\ny", "name=a\nb", "name.a\nb=1", "a\x1b[31m"])
def test_override_with_a_line_break_is_refused_in_one_line(tmp_path: Path, override: str) -> None:
    assert one_line(written(tmp_path, study_table()), override).isprintable()


def test_deep_override_is_refused(tmp_path: Path) -> None:
    one_line(written(tmp_path, study_table()), ".".join("x" * 3000) + "=1")


# ---- storing, comparing ---------------------------------------------------------------------


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


# Letters, and whatever breaks lines, quotes, keys and terminals.
TEXTS = st.text("ab.=[]{}\"'\\#~/ \t\n\r\x00\x1b\x7f\x85é\u2028\ufeff\U0001f642", max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Valid study files of both kinds."""
    lr_min = draw(numbers(0, 1))
    k_min = draw(numbers(0.05, 5))
    k_max = k_min + draw(numbers(0, 10))
    family = draw(st.sampled_from(FAMILIES))
    epochs = draw(st.integers(2, 500))
    beat = draw(numbers(0.1, 100))
    task = draw(image_tasks() if draw(st.booleans()) else simulated_tasks())
    return {
        "name": "x" + draw(st.text("aZ09._-", max_size=30)),
        "description": draw(TEXTS),
        "task": task | {"epochs": epochs},
        "schedule": {
            "family": family,
            "power": draw(numbers(0.1, 9)) if family == "polynomial" else 1.0,
            "lr_min": lr_min,
            "lr_max": lr_min + draw(numbers(1e-6, 10)),
            "warmup_epochs": draw(numbers(0, epochs - 1)),
        },
        "search": {
            "sampler": draw(st.sampled_from(["grid", "tpe", "gp", "random"])),
            "k_min": k_min,
            "k_max": k_max,
            "k_step": draw(numbers(0.1, 5)),
            "k_cap": k_max + draw(numbers(0, 9)),
            "seeds": draw(st.integers(1, 9)),
            "max_terms": draw(st.integers(1, 5)),
            "min_gain": draw(numbers(0, 3)),
        },
        "pruning": {"enabled": draw(st.booleans()), "first_share": draw(numbers(0.01, 1))},
        "workers": {"heartbeat_seconds": beat, "grace_seconds": 2 * beat + draw(numbers(0, 99))},
    }


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(1, 30))
    resnet = {"depth": 6 * n + 2, "width": draw(st.integers(1, 64))}
    bottleneck = {"name": "resnet", "block": "preact-bottleneck", "depth": 9 * n + 2}
    wide = {"name": "wide-resnet", "depth": 6 * n + 4, "widen": 2, "dropout": draw(numbers(0, 0.9))}
    dense = {"name": "densenet-bc", "depth": 6 * n + 4, "growth": draw(st.integers(1, 64))}
    return draw(st.sampled_from([resnet, bottleneck, wide, dense, {"name": "resnet50"}]))


@st.composite
def image_tasks(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": "images",
        "batch_size": draw(st.integers(1, 1000)),
        "model": draw(models()),
        "data": {
            "name": draw(st.sampled_from(["digits", "cifar10", "image-folder"])),
            "root": draw(st.sampled_from(["/data", "data/pictures", "~/data"])),
            "validation": draw(numbers(0.01, 0.99)),
        },
        "optimizer": {"momentum": draw(numbers(0.1, 0.99)), "weight_decay": draw(numbers(0, 1))},
    }


@st.composite
def simulated_tasks(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": "simulated",
        "epoch_seconds": draw(numbers(0, 10)),
        "surface": {
            "best_ks": draw(st.lists(numbers(0.1, 50), min_size=1, max_size=4)),
            "best_error": draw(numbers(0, 100)),
            "noise_seed": draw(st.integers()),
        },
    }


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


def check_usable(spec: StudySpec) -> None:
    """What was accepted must not be refused later, by a worker or a report."""
    schedule = spec.schedule_for((spec.search.k_min, spec.search.k_min + 1))
    epochs = spec.task.epochs
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


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
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
        ({"search": {"min_gain": 0.5}}, "search.min_gain: 0.1 -> 0.5"),
        ({"search": {"k_cap": 12.0}}, "search.k_cap: None -> 12.0"),
        ({"schedule": {"family": "cosine"}}, "schedule.family: 'polynomial' -> 'cosine'"),
        ({"pruning": {"enabled": True}}, "pruning.enabled: False -> True"),
        ({"surface": {"best_ks": [2.0]}}, "task.surface.best_ks: [3.0] -> [2.0]"),
        ({"epochs": 9}, "task.epochs: 3 -> 9"),
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
    """Differences are the same both ways round, and none at all only where nothing matters."""
    one, other = read(old), read(new)
    there, back = differences(one, other), differences(other, one)
    assert [line.partition(":")[0] for line in there] == [line.partition(":")[0] for line in back]
    if not there:
        assert (one.task, one.schedule, one.pruning) == (other.task, other.schedule, other.pruning)


# ---- grids ----------------------------------------------------------------------------------


@given(
    first=st.integers(1, 2000),
    count=st.integers(0, 300),
    step=st.sampled_from(["0.01", "0.05", "0.1", "0.3", "0.7", "0.25"]),
)
@example(first=1, count=9, step="0.1")
def test_grid_has_no_drift(first: int, count: int, step: str) -> None:
    """Every point is the float nearest to the exact decimal, and the last one is not lost."""
    exact = [Fraction(first, 100) + i * Fraction(step) for i in range(count + 1)]
    assert grid(float(exact[0]), float(exact[-1]), float(step)) == tuple(map(float, exact))


@given(low=numbers(0.01, 100), width=numbers(0, 50), step=numbers(0.05, 60))
def test_grid_stays_in_its_range(low: float, width: float, step: float) -> None:
    points = grid(low, low + width, step)
    assert points[0] == pytest.approx(low, abs=1e-9)
    assert all(low - 1e-9 <= point <= low + width + 1e-9 for point in points)
    assert low + width - points[-1] < step + 1e-9
    assert all(b - a == pytest.approx(step, abs=1e-9) for a, b in pairwise(points))


def test_grid_between_swapped_ends_is_empty() -> None:
    assert grid(5.0, 1.0, 0.5) == ()


def test_k_that_rounds_to_zero_is_refused(tmp_path: Path) -> None:
    """Candidates are rounded to 10 decimals, and k = 0 is no schedule."""
    assert "search.k_min = 1e-12: must be" in refused_with(tmp_path, search__k_min=1e-12)


# ---- anything at all ------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "name",
        "task",
        "task.kind",
        "task.epochs",
        "task.data",
        "task.data.root",
        "task.model",
        "task.model.name",
        "task.model.depth",
        "task.surface",
        "task.surface.best_ks",
        "task.optimizer.momentum",
        "schedule",
        "schedule.family",
        "schedule.power",
        "schedule.lr_min",
        "schedule.lr_max",
        "schedule.warmup_epochs",
        "search",
        "search.sampler",
        "search.k_min",
        "search.k_max",
        "search.k_step",
        "search.k_cap",
        "workers.heartbeat_seconds",
        "zzz",
    ]
)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.integers(-3, 20)
    | st.floats()
    | numbers(0, 20)
    | TEXTS
    | st.sampled_from(["images", "simulated", "digits", "cosine", "tpe", "grid", "~x/y", "/"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def check_answer(path: Path, *overrides: str) -> None:
    """StudySpec, which is usable, or InvalidSpec in one line; nothing else."""
    try:
        spec = load(path, overrides)
    except InvalidSpec as error:
        message = str(error)
        assert len(message.splitlines()) == 1
        assert message.startswith((f"{path}: ", "--set"))
    else:
        assert from_json(spec.to_json()) == spec
        spec.schedule_for((spec.search.k_min,))


@settings(deadline=None, max_examples=200)
@given(
    valid=st.sampled_from([study_table(), images_table()]),
    changes=st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4),
)
def test_any_change_of_a_valid_file_gives_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, valid: dict[str, Any], changes: list[tuple[str, Any]]
) -> None:
    for key, value in changes:
        try:
            valid = merged(valid, key, value)
        except (TypeError, AttributeError):  # a change before has put a scalar where a table was
            continue
    check_answer(written(tmp_path_factory.getbasetemp(), valid))


@settings(deadline=None, max_examples=100)
@given(table=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_any_table_gives_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]
) -> None:
    check_answer(written(tmp_path_factory.getbasetemp(), table))


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=200) | TEXTS.map(str.encode))
def test_any_bytes_give_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    check_answer(path)


@settings(deadline=None, max_examples=200)
@given(key=KEYS | TEXTS, value=TEXTS | VALUES.map(toml))
def test_any_override_gives_a_spec_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: str
) -> None:
    check_answer(written(tmp_path_factory.getbasetemp(), study_table()), f"{key}={value}")
