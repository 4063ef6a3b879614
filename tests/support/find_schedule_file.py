"""Writes kdecay_search/api/find_schedule.py from the keys of a study file.

Run it when a key has been added: ``python -m tests.support.find_schedule_file``.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from kdecay_search.api.keywords import SPACE, TABLES, keywords

FILE = Path(__file__).parents[2] / "kdecay_search" / "api" / "find_schedule.py"
WIDTH = 100

OWN: Mapping[str, tuple[str, str]] = {
    "study_file": (
        "str | Path | None",
        "A study file (TOML). The keywords overrule what it says.",
    ),
    "workers": (
        "int | None",
        "Number of worker processes on this machine that train, with the embedded database "
        "between them unless ``storage`` names another; None trains in this process.",
    ),
    "storage": (
        "str | None",
        "URL of a Postgres database, ``postgresql://…``: the study is kept there, and any other "
        "worker may train its runs, too.",
    ),
    "device": (
        "str | None",
        "Device to train on: ``cpu``, ``cuda`` or ``cuda:N``; None is a GPU if there is one.",
    ),
    "space": (
        "Mapping[str, Any] | None",
        "Parameters of your own that are searched together with the schedule, by name, such as "
        '``{"weight_decay": (1e-5, 1e-2, "log"), "batch_size": [64, 128, 256]}``: ``train`` gets '
        "the values of its run in ``run.args``, and the result has the best in ``result.args``. "
        'Each is a list of values or a range, ``(low, high, "log")`` or ``(low, high, '
        '"linear")``, of integers if both ends are; its usual value may be stated in ``args``.',
    ),
    "catch": (
        "type[Exception] | tuple[type[Exception], ...]",
        "Exceptions that fail an attempt at a run and do not end the search.",
    ),
    "progress": (
        "bool | None",
        "Whether to show a progress bar; None shows one in a terminal and in a notebook.",
    ),
}
"""Keywords that are no keys of a study file: their types and texts."""
OWN_DEFAULTS = {"catch": "()"}
TYPES = {
    "sampler": "Sampler | None",
    "lr_max": "float | tuple[float, float] | None",
    "space_family": "Sequence[str] | None",
    "direction": 'Literal["min", "max", "minimize", "maximize"] | None',
}
"""Types of keywords that accept more than their key does."""
TEXTS = {
    "lr_max": "Learning rate at the start of the decay that you would train with today, L0. Or "
    "``(low, high)``: the range is searched, and its geometric middle is what you would train with",
    "lr_min": "Learning rate at the end, Le, that you would train with today; 1 % of ``lr_max`` if "
    "only that is stated",
    "sampler": "How candidates are chosen: ``joint`` searches whole schedules on a budget; "
    "``grid`` tries every k of a grid, as the paper does, and is the default where a key of the "
    "grid is stated; the others let a sampler of Optuna's choose, ``joint-tpe``, ``joint-gp`` and "
    "``joint-random`` whole schedules, ``tpe``, ``gp`` and ``random`` each k alone",
    "metric": "Name of the metric, as tables and axes show it",
    "search_lr_max": "Learning-rate levels that a grid searches jointly with the first term: "
    "``search.lr_max`` of a study file",
}
"""Texts of keywords that accept more than their key does."""

HEAD = '''"""``find_schedule``: a search from Python.

tests/support/find_schedule_file.py writes this file from the keys of a study file. Change it there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kdecay_search.api.result import Result
    from kdecay_search.study.search_spec import Sampler
    from kdecay_search.user_code.run import TaskRun


def find_schedule(
    train: Callable[[TaskRun], object] | None = None,
    *,
'''
SUMMARY = '''    """Find the learning-rate schedule that trains a network best.

    The search runs in this process: it needs no database, writes no file, and gives the same answer
    each time, which is that of ``kdecay launch`` with one worker. Ctrl-C ends it early, with a
    result of the runs so far. See docs/python.md.

    Args:
        train: Trains one run: a function of a :class:`~kdecay_search.TaskRun`, as ``task.entry`` of
            a study file names it. None takes what ``study_file`` trains.
'''
TAIL = '''
    Returns:
        What was found: ``schedule``, ``verdict``, ``confirmed``, ``runs``, ``scheduler(…)``,
        ``report(path)``.

    Raises:
        KDecayError: A value is wrong, or ``train`` has used its run wrongly.
        Exception: What ``train`` has raised, as it is, with a note of the run that raised it.

    Example:
        A whole search, whose training is a formula here::

            import math
            import kdecay_search as kd

            def train(run):
                done = sum(run.schedule(step) for step in range(run.total_steps))
                return abs(math.log(done / 20))

            result = kd.find_schedule(train, steps=100, report_every=10, lr_max=(0.1, 1), budget=12)
    """
'''


def source() -> str:
    """The whole file."""
    known = keywords()
    signature = [
        _parameter(name, kind, OWN_DEFAULTS.get(name, "None")) for name, (kind, _) in OWN.items()
    ]
    texts = [_argument(name, text) for name, (_, text) in OWN.items()]
    for keyword, dotted in known.items():
        kind, text, default = _key(dotted)
        signature.append(_parameter(keyword, TYPES.get(keyword, kind)))
        text = TEXTS.get(keyword, text).rstrip(".")
        if default is not None and keyword not in TEXTS:
            text += f" (default {default})"
        texts.append(_argument(keyword, f"{text}."))
    own = ", ".join(f'"{name}"' for name in ("train", *OWN) if name != SPACE)
    call = (
        f"    own = ({own})\n"
        '    stated = {key: value for key, value in locals().items() if key not in (*own, "own")}\n'
        "    with warnings.catch_warnings():\n"
        "        # Of tqdm, which Optuna imports: we show a bar of our own.\n"
        '        warnings.filterwarnings("ignore", message="IProgress not found")\n'
        "        from kdecay_search.api.find import find  # noqa: PLC0415 - slow\n\n"
        "    return find(train, study_file, workers, storage, device, catch, progress, stated)\n"
    )
    return HEAD + "".join(signature) + ") -> Result:\n" + SUMMARY + "".join(texts) + TAIL + call


def _parameter(name: str, kind: str, default: str = "None") -> str:
    return f"    {name}: {kind} = {default},\n"


def _argument(name: str, text: str) -> str:
    return (
        textwrap.fill(f"{name}: {text}", WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12)
        + "\n"
    )


def _key(dotted: str) -> tuple[str, str, str | None]:
    """Type, text and default of a key; no default for one that must be stated, or is None."""
    table, _, key = dotted.rpartition(".")
    model, _ = TABLES[table]
    hints = get_type_hints(model)
    found = model.model_fields[key]
    default = None if found.is_required() else found.default
    shown = None
    if default is not None and default not in ("", {}):
        shown = f"``{list(default) if isinstance(default, tuple) else default!r}``"
    kind = _kind(hints[key]).removesuffix(" | None")
    return f"{kind} | None", _texts(model)[key], shown


def _kind(hint: Any) -> str:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"Literal[{', '.join(map(_quoted, options))}]"
    if origin in (Union, UnionType):
        kinds = [_kind(each) for each in options if each is not NoneType]
        return " | ".join(dict.fromkeys(kinds))
    if origin is tuple:
        return f"Sequence[{_kind(options[0])}]"
    if origin is dict:
        return "Mapping[str, Any]"
    return str(hint.__name__)


def _quoted(value: Any) -> str:
    return f'"{value}"'


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field of a model, and of those that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for statement, following in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                assert isinstance(statement.target, ast.Name)
                assert isinstance(following.value, ast.Constant)
                found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


if __name__ == "__main__":
    FILE.write_text(source())
