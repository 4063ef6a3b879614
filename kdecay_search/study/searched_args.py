"""How the parameters of the user's own that a study searches reach the user's code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.own_parameters import is_own_value, meant_by
from kdecay_search.study.search_spec import SearchSpec
from kdecay_search.study.space import SpaceSpec
from kdecay_search.study.user_tasks import (
    PLACEHOLDERS,
    CommandTask,
    PythonTask,
    unknown_placeholder,
)


def usual_args(space: SpaceSpec, task: object) -> tuple[tuple[str, Any], ...]:
    """What each parameter of the user's own is without a search: the value of ``task.args``, if it
    is there and the study file fixes no other; else the middle of its range."""
    stated: Mapping[str, Any] = task.args if isinstance(task, PythonTask) else {}
    found = {name: axis.usual for name, axis in space.own.items()}
    found |= {
        name: stated[name]
        for name, axis in space.own.items()
        if not axis.is_fixed and is_own_value(stated.get(name))
    }
    return tuple(sorted(found.items()))


def require_own_parameters(search: SearchSpec, task: object) -> None:
    """Check that every parameter of the user's own reaches the task, and is not another misspelled.

    Raises:
        PydanticCustomError: One does not; ``at`` in its context is the dotted key.
    """
    space = search.space
    if isinstance(task, CommandTask):
        for name in sorted(task.own_placeholders - space.own.keys()):
            text = f"{unknown_placeholder(name)}; search.space may state a parameter of your own"
            raise _error("task.command", text)
    known = SpaceSpec.model_fields
    for name in space.own:
        if text := _problem(name, meant_by(name, known), task):
            raise _error(f"search.space.{name}", text)
        if not search.is_joint:
            text = f"a parameter of your own needs sampler = 'joint'; it is {search.sampler!r}"
            raise _error(f"search.space.{name}", text)


def _problem(name: str, meant: str | None, task: object) -> str:
    """Why a parameter does not reach the task; empty if it does."""
    if isinstance(task, CommandTask) and name in PLACEHOLDERS:
        return f"{{{name}}} in task.command has another meaning; use another name"
    declared: Collection[str] = task.args if isinstance(task, PythonTask) else ()
    declared = task.placeholders if isinstance(task, CommandTask) else declared
    if name in declared or (isinstance(task, PythonTask) and meant is None):
        return ""
    if meant is not None:
        rest = "If it is a parameter of your own, state it in task.args as well"
        hint = f"unknown key; did you mean search.space.{meant}?"
        return f"{hint} {rest}" if isinstance(task, PythonTask) else hint
    if isinstance(task, CommandTask):
        return f"task.command has no {{{name}}}, by which it gets a parameter of your own"
    rule = "parameters of your own need training code of your own: task.kind 'python' or 'command'"
    if isinstance(task, ImagesTask):
        rule += "; what an image task trains with is stated in task.optimizer and task.batch_size"
    known = ", ".join(SpaceSpec.model_fields)
    return f"unknown key; {rule}; known here: {known}"


def _error(at: str, text: str) -> PydanticCustomError:
    return PydanticCustomError("own_parameter", "{text}", {"at": at, "text": text})
