"""Study files, valid and broken: strategies that follow the models' own fields and bounds.

A file is bytes and ``--set`` overrides. It begins as a table whose values lie within the bounds of
:mod:`kdecay_search.study.spec`, most often at them. Then it may be broken, as a table (a value of
another type, an odd key) or as text (cut off, a line twice, other bytes).
"""

from __future__ import annotations

import datetime
import json
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel

from kdecay_search.study.space import SpaceSpec
from kdecay_search.study.spec import StudySpec

Table = dict[str, Any]
USER_CODE: dict[str, list[Any]] = {
    "entry": ["train:train", "my.own_1.code:Trainer.train", "train", "train:"],
    "command": [
        ["./train", "{ks}"],
        ["{{{k}}}", "--x={lr_max}"],
        ["{k", "}"],
        ["{nothing}"],
        ["{k}", "{output_dir}"],
        ["{k}", "{checkpoint_dir}"],
    ],
    "file": [
        "a.csv",
        "**/a.csv",
        "{output_dir}/*.csv",
        "{checkpoint_dir}/a.csv",
        "/a",
        "a**b",
        "{k}",
    ],
    "pattern": ["(?P<value>.*)", "(?P<step>.)(?P<value>.)", "(?P<value>.)(?P<x>.)", "(", "(.)"],
}
WIDE = 10**6
"""Bound of most numbers that have no bound in the model."""


@dataclass(frozen=True)
class StudyFile:
    """A study file and the overrides that a user gives to a command."""

    content: bytes
    """Content of the file."""
    overrides: tuple[str, ...] = ()
    """Values of ``--set``."""


# ---- values within the models' bounds --------------------------------------------------------


@cache
def table(model: type[BaseModel]) -> st.SearchStrategy[Table]:
    """Tables of ``model`` with its required keys and some of the others."""
    fields = {name: _field(model, name) for name in model.model_fields}
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    optional = sorted(fields.keys() - required)
    few = st.lists(st.sampled_from(optional), max_size=3) if optional else st.just([])

    @st.composite
    def tables(draw: st.DrawFn) -> Table:
        chosen = required.union(draw(few))
        return {name: draw(strategy) for name, strategy in fields.items() if name in chosen}

    return tables()


def _field(model: type[BaseModel], name: str) -> st.SearchStrategy[Any]:
    if model is StudySpec and name == "name":
        return st.text("aZ09._-", min_size=1, max_size=20).map(lambda text: f"x{text}")
    if name in USER_CODE:
        return st.sampled_from(USER_CODE[name]) | _values(
            model.model_fields[name].annotation, model.model_fields[name].metadata
        )
    if model is SpaceSpec and name != "family":
        return AXES_OF_SPACES
    field = model.model_fields[name]
    return _values(field.annotation, field.metadata)


_NUMBERS = st.floats(0, 1.5) | st.integers(0, 40)
AXES_OF_SPACES = (
    _NUMBERS
    | st.lists(_NUMBERS, min_size=1, max_size=4).map(lambda values: sorted(set(values)))
    | st.tuples(_NUMBERS, _NUMBERS, st.sampled_from(["log", "linear"])).map(
        lambda axis: [*sorted(axis[:2]), axis[2]]
    )
    | st.sampled_from([[], ["log"], [1, "log"], [3, 1], [0, 1, "log"], "log", [1, 2, 3, "linear"]])
)
"""What a key of ``[search.space]`` may be: a number, a list or a range; some of them wrong."""


def _values(kind: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _values(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        return st.one_of([_values(option, metadata) for option in options])
    if origin in (Literal, dict):
        return st.sampled_from(arguments) if origin is Literal else DICTS
    if origin is tuple:
        longest = min(_bound(metadata, "max_length", 6), 6)
        items = st.lists(_values(arguments[0], []), min_size=1, max_size=longest)
        return items.map(lambda values: sorted(set(values)))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return table(kind)
    return {bool: lambda _: st.booleans(), int: _integers, float: _floats, str: _texts}[kind](
        metadata
    )


def _bound(metadata: list[Any], name: str, otherwise: Any) -> Any:
    found = [
        getattr(part, name) for part in _flat(metadata) if getattr(part, name, None) is not None
    ]
    return found[0] if found else otherwise


def _flat(metadata: list[Any]) -> list[Any]:
    """Metadata together with what pydantic's FieldInfo holds inside."""
    return [inner for part in metadata for inner in (part, *getattr(part, "metadata", ()))]


def _integers(metadata: list[Any]) -> st.SearchStrategy[int]:
    low = _bound(metadata, "ge", -WIDE)
    high = _bound(metadata, "le", _bound(metadata, "lt", max(WIDE, low) + 1) - 1)
    return st.integers(low, min(high, low + 12)) | st.integers(low, high) | st.just(high)


def _floats(metadata: list[Any]) -> st.SearchStrategy[float]:
    above, below = _bound(metadata, "gt", None), _bound(metadata, "lt", None)
    low = math.nextafter(above, math.inf) if above is not None else _bound(metadata, "ge", -WIDE)
    high = math.nextafter(below, 0) if below is not None else _bound(metadata, "le", 1.7e308)
    usual = st.floats(max(low, 0.05), min(high, 20)) if low <= 20 <= high else st.nothing()
    return usual | st.floats(low, high) | st.sampled_from([float(low), float(high)])


def _texts(metadata: list[Any]) -> st.SearchStrategy[str]:
    return TEXTS | st.sampled_from(
        ["/nowhere", "data", "~/x", "~nobody-here/x", "a\0b", "x" * 3000]
    )


TEXTS = st.text("ab.=[]{}\"'\\#~/ \t\n\r\x00\x1b\x7f\x85é\u2028\ufeff\U0001f642", max_size=12)

DICTS = st.dictionaries(
    TEXTS,
    st.recursive(
        st.booleans() | st.integers(-WIDE, WIDE) | st.floats(-1, 1) | TEXTS,
        lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
        max_leaves=4,
    ),
    max_size=3,
)
"""Tables of values that both TOML and JSON have."""


def fitted(study: Table) -> Table:
    """The study with values that must fit together put in order, where that is easy."""
    for name, keys in (
        ("search", ("k_min", "k_max", "k_cap")),
        ("schedule", ("lr_min", "lr_max")),
        ("workers", ("heartbeat_seconds", "grace_seconds")),
    ):
        part = study.get(name, {})
        there = [key for key in keys if key in part]
        for key, value in zip(there, sorted(part[key] for key in there), strict=True):
            part[key] = value
    task, schedule, search = study["task"], study.get("schedule", {}), study.get("search", {})
    if task.get("data", {}).get("name") in ("cifar10", "cifar100", "image-folder"):
        task["data"].setdefault("root", "data")
    if "depth" in task.get("model", {}):
        task["model"]["depth"] = task["model"]["depth"] // 6 * 6 + 2
    if schedule.get("family", "polynomial") != "polynomial":
        schedule.pop("power", None)
    _fit_length(task, schedule)
    _fit_report(task)
    if search.get("sampler", "grid") != "grid":
        search.pop("ks", None)
    return study


def _fit_length(task: Table, schedule: Table) -> None:
    """Leave one length of a run, in epochs or in steps, and a warm-up that is shorter."""
    if task["kind"] in ("python", "command") and "steps" in task:
        for name in ("epochs", "steps_per_epoch"):
            task.pop(name, None)
        task["report_every"] = min(task.get("report_every", 1), task["steps"])
        task["report_every"] = max(task["report_every"], task["steps"] // 1000, 1)
    else:
        task.setdefault("epochs", 3)
        task.pop("report_every", None)
    used, unused = ("steps", "epochs") if "steps" in task else ("epochs", "steps")
    schedule.pop(f"warmup_{unused}", None)
    if f"warmup_{used}" in schedule:
        schedule[f"warmup_{used}"] %= task[used]


def _fit_report(task: Table) -> None:
    """Leave a file or a pattern in ``[task.report]``, with the keys that belong to it."""
    report = task.get("report")
    if report is None:
        return
    if "file" in report:
        report.pop("pattern", None)
        report.setdefault("value", "loss")
        report.setdefault("step", "epoch")
    else:
        report.setdefault("pattern", "(?P<value>.*)")
        for name in ("value", "step", "averaged", "loss"):
            report.pop(name, None)


# ---- breaking tables --------------------------------------------------------------------------


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


JUNK = st.one_of(
    st.sampled_from(
        [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308, 10**30, -(10**30), 10**400, True, "",
         [], {}, [[]], "nan", "1", "true", "null", "\ud7ff", "x" * 3000, [1] * 1000,
         datetime.date(1979, 5, 27), datetime.time(7, 32), datetime.datetime(1979, 5, 27, 7, 32),
         "__import__('os').system('true')", "${HOME}", "%s%n", "../../etc/passwd"]
    ),
    st.integers(), st.floats(), TEXTS,
    st.integers(1, 200).map(_nested),
    st.dictionaries(TEXTS, st.integers(), max_size=3),
)  # fmt: skip
ODD_KEYS = TEXTS | st.sampled_from(["epoch", "K_MAX", "__class__", "spec", "k" * 3000, "kind"])


def _paths(value: Any) -> list[tuple[Table, str]]:
    """Every table within ``value``, paired with each of its keys."""
    if not isinstance(value, dict):
        return []
    return [place for key, inner in value.items() for place in ((value, key), *_paths(inner))]


def _replace(draw: st.DrawFn, place: tuple[Table, str]) -> None:
    place[0][place[1]] = draw(JUNK)


def _remove(draw: st.DrawFn, place: tuple[Table, str]) -> None:
    del place[0][place[1]]


def _add(draw: st.DrawFn, place: tuple[Table, str]) -> None:
    place[0][draw(ODD_KEYS)] = draw(JUNK)


def _rename(draw: st.DrawFn, place: tuple[Table, str]) -> None:
    place[0][draw(ODD_KEYS)] = place[0].pop(place[1])


BREAK_TABLE: list[Callable[[st.DrawFn, tuple[Table, str]], None]] = [
    _replace, _replace, _remove, _add, _rename
]  # fmt: skip


# ---- writing and breaking text ----------------------------------------------------------------


def toml(value: Any) -> str:
    """A value as TOML, with inline tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def document(study: Table) -> str:
    """A study file as people write it: simple values first, then a section for every table."""
    plain = {key: value for key, value in study.items() if not isinstance(value, dict)}
    lines = [f"{toml(key)} = {toml(value)}" for key, value in plain.items()]
    for key in study.keys() - plain.keys():
        lines += ["", f"[{toml(key)}]", *(f"{toml(k)} = {toml(v)}" for k, v in study[key].items())]
    return "\n".join(lines) + "\n"


def _cut(draw: st.DrawFn, raw: bytes) -> bytes:
    return raw[: draw(st.integers(0, len(raw)))]


def _drop(draw: st.DrawFn, raw: bytes) -> bytes:
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + raw[at + draw(st.integers(0, 40)) :]


def _insert(draw: st.DrawFn, raw: bytes) -> bytes:
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.binary(max_size=8) | TEXTS.map(str.encode)) + raw[at:]


def _twice(draw: st.DrawFn, raw: bytes) -> bytes:
    return raw + draw(st.sampled_from(raw.splitlines(keepends=True)))


def _shuffle(draw: st.DrawFn, raw: bytes) -> bytes:
    return b"".join(draw(st.permutations(raw.splitlines(keepends=True))))


def _encode(draw: st.DrawFn, raw: bytes) -> bytes:
    to = draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp500"]))
    return raw.decode(errors="replace").encode(to, errors="replace")


def _garbage(draw: st.DrawFn, raw: bytes) -> bytes:
    return draw(st.binary(max_size=200))


BREAK_TEXT = [_cut, _drop, _insert, _twice, _shuffle, _encode, _garbage]


# ---- overrides --------------------------------------------------------------------------------


def _dotted(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        options = get_args(field.annotation) or (field.annotation,)
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        found.append(prefix + name)
        for option in inner:
            found += _dotted(option, f"{prefix}{name}.")
    return sorted(set(found))


KEYS = st.sampled_from(_dotted(StudySpec)) | TEXTS | st.lists(TEXTS, max_size=4).map(".".join)
RAW_VALUES = (
    JUNK.map(toml) | TEXTS | st.sampled_from(["1", "2.5", "true", "grid", "[1, 2]", "[" * 2000])
)
OVERRIDES = st.builds("{}{}{}".format, KEYS, st.sampled_from(["=", "=", "=", " = ", "", "=="]),
                      RAW_VALUES)  # fmt: skip


WAYS = st.sampled_from(["as it is"] * 4 + ["table", "table", "text", "overrides", "all"])


@st.composite
def study_files(draw: st.DrawFn) -> StudyFile:
    """Valid and broken study files, about as many of each."""
    study = draw(table(StudySpec))
    study = fitted(study) if draw(st.integers(0, 9)) else study
    way = draw(WAYS)
    if way in ("table", "all"):
        for _ in range(draw(st.integers(1, 3))):
            places = _paths(study)
            if places:
                draw(st.sampled_from(BREAK_TABLE))(draw, draw(st.sampled_from(places)))
    raw = document(study).encode("utf-8", errors="surrogatepass")
    if way in ("text", "all"):
        raw = draw(st.sampled_from(BREAK_TEXT))(draw, raw)
    overrides = draw(st.lists(OVERRIDES, min_size=1, max_size=2)) if way == "overrides" else []
    return StudyFile(raw, tuple(overrides))
