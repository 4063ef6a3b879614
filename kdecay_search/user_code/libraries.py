"""Finds the libraries that a user's training code imports, without running any of that code."""

from __future__ import annotations

import ast
import site
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path

from kdecay_search.user_code import carried

BUILT_IN = ("built-in", "frozen")
"""Origins of modules that are part of Python's executable."""


def libraries_of(entry: str, path: Sequence[str]) -> list[str]:
    """Return what importing ``task.entry`` imports from libraries, in order.

    That is the names of modules, and of what is imported from them: libraries may load that only
    when it is asked for. Only the user's own source files are read: that of the function, and
    those that it imports. What is imported under a condition or inside a function is left out. All
    of the package that ``entry`` names is the user's own, even where it is installed.

    Args:
        entry: The function, as ``module:function``.
        path: The folders in which modules are looked for, as in ``sys.path``.
    """
    if entry == carried.ENTRY:
        names, more = carried.modules()
        return _Search([*path, *more], own="").found_from(names)
    module = entry.partition(":")[0]
    return _Search(path, own=module.partition(".")[0]).found_from([module])


def is_library(spec: ModuleSpec | None) -> bool:
    """Whether a module belongs to Python or to an installed package."""
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    place = next((place for place in places if place), None)
    return place is not None and (
        place in BUILT_IN or any(map(Path(place).is_relative_to, _library_folders()))
    )


class _Search:
    """Follows imports as Python would.

    Args:
        path: The folders in which modules are looked for.
        own: The package that is the user's own, wherever it is.
    """

    def __init__(self, path: Sequence[str], own: str) -> None:
        self._path, self._own = path, own
        self._specs: dict[str, ModuleSpec | None] = {"kdecay_search": None}
        self._found: list[str] = []

    def found_from(self, names: Sequence[str]) -> list[str]:
        """What is imported from libraries when these modules are imported."""
        for name in names:
            self._follow(name)
        return self._found

    def _follow(self, name: str) -> None:
        """Follow the import of a module, which imports the packages that contain it first."""
        folders: Sequence[str] | None = self._path
        for end in [i for i, letter in enumerate(name) if letter == "."] + [len(name)]:
            part = name[:end]
            if part not in self._specs:
                self._specs[part] = None if folders is None else _find(part, folders)
                self._take(part, self._specs[part])
            spec = self._specs[part]
            if spec is None:
                return
            folders = spec.submodule_search_locations

    def _take(self, name: str, spec: ModuleSpec | None) -> None:
        """Note what belongs to a library; follow the imports of a module of the user's."""
        module = spec or self._specs.get(name.rpartition(".")[0])
        if is_library(module) and name.partition(".")[0] != self._own:
            self._found.append(name)
        elif spec and spec.origin and spec.origin.endswith(".py"):
            package = name if spec.submodule_search_locations is not None else spec.parent or ""
            for imported in _imports(Path(spec.origin), package):
                self._follow(imported)


def _find(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Find a module without importing the packages that contain it."""
    for finder in (BuiltinImporter, FrozenImporter):
        if (spec := finder.find_spec(name)) is not None:
            return spec
    return PathFinder.find_spec(name, folders)


def _imports(file: Path, package: str) -> Iterator[str]:
    """Yield the modules that a source file imports, each import of a name as if it were one."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    yield from _imports_of(tree.body, package)


def _imports_of(statements: Sequence[ast.stmt], package: str) -> Iterator[str]:
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            parents = package.split(".")[: 1 - statement.level or None] if statement.level else []
            base = ".".join([*parents, *filter(None, [statement.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in statement.names if alias.name != "*")
        elif isinstance(statement, ast.Try | ast.With):
            yield from _imports_of(statement.body, package)


@cache
def _library_folders() -> list[str]:
    """The folders of Python's standard library and of installed packages."""
    paths = sysconfig.get_paths()
    own = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [*own, *site.getsitepackages(), site.getusersitepackages()]
