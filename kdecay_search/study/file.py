"""The study file that users write: TOML in, a :class:`StudySpec` out.

:func:`load` reads a file and applies ``--set dotted.key=value`` overrides. Whatever is wrong
becomes one :class:`InvalidSpec` line that names the file, the dotted key, the value and the rule.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kdecay_search import __version__
from kdecay_search.errors import InvalidSpec
from kdecay_search.study.spec import StudySpec

SHOWN_VALUE_LENGTH = 60
"""Characters of a wrong value, key or override that an error quotes."""
SHOWN_REASON_LENGTH = 400
"""Characters that an error gives to the rule or the TOML reader's message, which may quote a value
or a key."""
MAX_FILE_BYTES = 1 << 16
"""Largest study file. The TOML reader takes seconds for a dotted key of this size."""
TAG_ERRORS = ("union_tag_not_found", "union_tag_invalid")
"""Pydantic's error types for a table whose ``kind`` or ``name`` is missing or unknown."""
RENAMED_KEYS = {
    "confirm.rivals": "confirm.baselines",  # now called
}
"""Dotted keys of earlier versions, and what each is now called."""

Tables = tuple[type[BaseModel], ...]


def load(path: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read a study file.

    Args:
        path: The file.
        overrides: ``dotted.key=value`` each; the value is TOML, or else a plain string.

    Raises:
        InvalidSpec: The file or an override cannot be used; the text is one line.
    """
    table = read_table(path)
    for override in overrides:
        _apply(table, override)
    return validated(table, str(path), overrides)


def read_table(path: str | Path) -> dict[str, Any]:
    """The content of a study file, whose keys and values are still to be checked.

    Raises:
        InvalidSpec: It is no TOML file.
    """
    return _read_toml(Path(path))


def validated(table: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> StudySpec:
    """The spec that a study file's tables state.

    Args:
        table: The tables. A NumPy number counts as a number.
        source: What an error names as the place of a wrong value.
        overrides: Those that were applied to the tables, for such errors.

    Raises:
        InvalidSpec: A key or a value is wrong; the text is one line.
    """
    try:
        return StudySpec.model_validate_json(json.dumps(table, default=_plain))
    except ValidationError as error:
        raise InvalidSpec(_first_error(error, source, overrides)) from None
    except RecursionError:
        text = f"{source}: is nested too deeply; tables are at most three deep"
        raise InvalidSpec(text) from None
    except ValueError:  # an integer of more digits than Python prints
        raise InvalidSpec(f"{source}: holds a number that is too large; use up to 1e9") from None


def _plain(value: Any) -> Any:
    """What JSON lacks: a NumPy number or array as plain ones, and anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def from_json(text: str, version: str | None = None) -> StudySpec:
    """Read a spec back from the study's storage; earlier versions' names of keys are translated.

    All settings are stored, with their defaults, so a default that changes later does not change
    a stored study. A setting that the study's version did not have takes today's default, which
    must therefore be what that version did (``tests/study/test_stored_defaults.py``).

    Args:
        text: The spec as :meth:`StudySpec.to_json` wrote it.
        version: The version of this package that launched the study; None if it is not known.

    Raises:
        InvalidSpec: The text is not a spec, or that of a version with other settings.
    """
    try:
        return StudySpec.model_validate_json(_in_present_form(text, version))
    except ValidationError as error:
        line = _first_error(error, source="stored study")
        if version == __version__:
            raise InvalidSpec(f"{line}; it was changed after it was launched") from None
        launched = f"version {version}" if version else "another version"
        raise InvalidSpec(
            f"{line}; it was launched by {launched} of kdecay-search, and this is {__version__}"
        ) from None


def _in_present_form(stored: str, version: str | None) -> str:
    """A stored spec with every renamed key under its present name, and with the defaults of its
    version where they have changed since."""
    try:
        spec = json.loads(stored)
    except (ValueError, RecursionError):
        return stored  # the validation refuses it
    for old, new in RENAMED_KEYS.items():
        table, key = old.split(".")
        values = spec.get(table) if isinstance(spec, dict) else None
        if isinstance(values, dict) and key in values:
            values[new.removeprefix(f"{table}.")] = values.pop(key)
    if isinstance(spec, dict) and version in (None, "0.1.0"):
        search = spec.setdefault("search", {})
        if isinstance(search, dict):
            search.setdefault("min_gain", 0.1)
            search.setdefault("sampler", "grid")
    return json.dumps(spec)


def to_toml(spec: StudySpec) -> str:
    """A study file that :func:`load` reads as the same spec, with every default written out.

    TOML has no null: settings that are None, and nulls within ``task.args``, are left out.
    """
    return tomli_w.dumps(_without_nulls(spec.model_dump(mode="json")))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value if inner is not None]
    return value


def changed(spec: StudySpec, table: str, values: Mapping[str, object], source: str) -> StudySpec:
    """A copy of a spec with other values in one of its tables.

    Args:
        spec: The spec, which is not changed.
        table: Name of the table, such as ``confirm``.
        values: New values by key.
        source: What an error names as the place of a wrong value.

    Raises:
        InvalidSpec: A value is wrong.
    """
    whole = spec.model_dump(mode="json")
    whole[table] |= values
    try:
        return StudySpec.model_validate_json(json.dumps(whole))
    except ValidationError as error:
        raise InvalidSpec(_first_error(error, source)) from None


def resumed(stored: StudySpec, spec: StudySpec) -> StudySpec:
    """The spec of a study that is launched again, where its file leaves out a setting whose default
    has changed since: the stored one counts."""
    names = ("min_gain", "sampler") if stored.search.sampler == "grid" else ("min_gain",)
    stated = spec.search.model_fields_set
    kept = {name: getattr(stored.search, name) for name in names if name not in stated}
    return spec.model_copy(update={"search": spec.search.model_copy(update=kept)})


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """The settings in which two specs differ so that their results must not be mixed.

    The description, the workers' settings, the largest number of terms, the budget, the
    confirmation, how the metric is shown and the longest time of an epoch may change between
    launches. Everything else decides what is trained or compared.

    Returns:
        One line per setting, with its dotted key and both values.
    """
    free = {
        "description",
        "workers",
        "search.max_terms",
        "search.budget",
        "confirm",
        "task.epoch_timeout",
        "task.fork",
    }
    before, after = (_decisive(spec) for spec in (old, new))
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
        and key not in free
        and key.partition(".")[0] not in free
    ]


def _decisive(spec: StudySpec) -> dict[str, Any]:
    """The settings by dotted key; of the metric, only its direction."""
    flat = _flatten(spec.model_dump(mode="json"))
    kept = {key: value for key, value in flat.items() if not key.startswith("task.metric.")}
    return kept | {"task.metric.direction": spec.task.metric.direction}


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises InvalidSpec for a file that is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)  # /dev/zero has no end
    except FileNotFoundError:
        raise InvalidSpec(f"{path}: no such file; give the path of a study file") from None
    except OSError as error:
        raise InvalidSpec(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidSpec(f"{path}: is larger than {MAX_FILE_BYTES >> 10} KiB; give a study file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidSpec(f"{path}: is not a text file; a study file is TOML in UTF-8") from None
    if not text.strip():
        raise InvalidSpec(f"{path}: the file is empty; a study file has at least name and [task]")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        shown = _clipped(reason, SHOWN_REASON_LENGTH)
        raise InvalidSpec(f"{path}: is not valid TOML: {shown}") from None


def _clipped(text: str, length: int = SHOWN_VALUE_LENGTH) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _apply(table: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value`` in the file's tables."""
    raw = override.partition("=")[2]
    parts = _override_key(override).split(".")
    shown = _clipped(override)
    if "=" not in override or not all(parts):
        raise InvalidSpec(f"--set {shown}: must have the form dotted.key=value")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        value = raw
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            through = _clipped(".".join(parts[:depth]))
            raise InvalidSpec(f"--set {shown}: {through} is not a table")
    table[parts[-1]] = value


def _override_key(override: str) -> str:
    return ".".join(part.strip() for part in override.partition("=")[0].split("."))


def _first_error(error: ValidationError, source: str, overrides: Sequence[str] = ()) -> str:
    """One line for the first of pydantic's errors: source, dotted key, value, rule."""
    details = error.errors(include_url=False)
    first = details[0]
    keys, tables = _located(first)
    dotted = ".".join(keys)
    if any(f"{dotted}.".startswith(f"{_override_key(override)}.") for override in overrides):
        source = "--set"
    dotted = _clipped(dotted)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        if dotted in RENAMED_KEYS:
            return f"{source}: {dotted} is now called {RENAMED_KEYS[dotted]}{more}"
        return f"{source}: {dotted}: unknown key{_nearest(keys, tables)}{more}"
    if first["type"] == "missing":
        return f"{source}: {dotted}: is missing{more}"
    return f"{source}: {dotted}{_shown(first)}: {_rule(first, tables)}{more}"


def _located(detail: ErrorDetails) -> tuple[list[str], Tables]:
    """Where an error is: its keys as in the file, and the models of the last key's table.

    Pydantic puts the tag of a union's member between the keys, and leaves out the key of a tag that
    is wrong. A rule that several tables have in common states the place itself.
    """
    if "at" in detail.get("ctx", {}):
        return detail["ctx"]["at"].split("."), ()
    keys: list[str] = []
    holders: Tables = ()
    tables: Tables = (StudySpec,)
    for part in detail["loc"]:
        if len(tables) > 1 and (chosen := tuple(t for t in tables if part in _tags(t))):
            tables = chosen
            continue
        keys.append(str(part))
        holders, tables = tables, _tables_under(tables, str(part))
    if detail["type"] in TAG_ERRORS:
        keys.append(_tag_key(tables))
        holders = tables
    return keys or ["the file"], holders


def _tables_under(tables: Tables, key: str) -> Tables:
    """The models of the table under ``key``; none if its value is not a table."""
    fields = [table.model_fields[key] for table in tables if key in table.model_fields]
    options = [o for f in fields for o in (get_args(f.annotation) or (f.annotation,))]
    return tuple(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))


def _tag_key(tables: Tables) -> str:
    """The key whose value tells these tables apart."""
    return next(key for key in ("kind", "name") if all(key in t.model_fields for t in tables))


def _tags(table: type[BaseModel]) -> tuple[str, ...]:
    """The values of the key that tells this table from others of its union."""
    return get_args(table.model_fields[_tag_key((table,))].annotation)


def _shown(detail: ErrorDetails) -> str:
    """The wrong value as an error quotes it; nothing for a table."""
    value = detail["input"]
    if detail["type"] == "union_tag_invalid":
        value = value[detail["ctx"]["discriminator"].strip("'")]
    if isinstance(value, dict):
        return ""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return f" = {_clipped(text)}"


def _rule(detail: ErrorDetails, tables: Tables) -> str:
    """What would be right, in words that fit behind the value."""
    if detail["type"] in TAG_ERRORS:
        *others, last = (f"'{tag}'" for table in tables for tag in _tags(table))
        return f"must be {', '.join(others)} or {last}"
    if detail["type"] == "string_pattern_mismatch":
        return "must start with a letter or digit and hold only letters, digits, '.', '_' and '-'"
    text = detail["msg"].removeprefix("Value error, ")
    for subject in ("Input", "String", "Tuple"):
        text = text.replace(f"{subject} should", "must")
    return _clipped(text, SHOWN_REASON_LENGTH)


def _nearest(keys: list[str], tables: Tables) -> str:
    """The known key that an unknown one is close to, or all that are known in its table."""
    known = sorted({key for table in tables for key in table.model_fields})
    close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join([*keys[:-1], close[0]])}?"
    return f"; known here: {', '.join(known)}" if known else ""
