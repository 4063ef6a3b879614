"""The documents say what the program does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from kdecay_search import __version__
from kdecay_search.study.file import load
from kdecay_search.study.spec import StudySpec

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "studies").rglob("*.toml"))


def test_docs_cli_is_what_the_commands_say_of_themselves(tmp_path: Path) -> None:
    written = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "kdecay_search.cli.main", "utils", "docs"]
    options = ["--name", "kdecay", "--title", "Commands", "--output", str(written)]
    subprocess.run([*command, *options], check=True, capture_output=True, cwd=ROOT)
    assert (ROOT / "docs" / "cli.md").read_text() == written.read_text(), "run: make docs"


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_file_is_valid_and_named_as_its_file(file: Path) -> None:
    root = ["task.data.root=/data"] if "image-folder" in file.read_text() else []
    assert load(file, root).name == file.stem


def test_every_command_that_the_readme_names_exists() -> None:
    from kdecay_search.cli.main import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"^\$ kdecay ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    assert named <= known


def test_docs_list_every_key_of_a_study_file_with_its_default() -> None:
    rows = re.findall(
        r"^\| `([a-z_.]+)` \| (.+?) \|", (ROOT / "docs/study-file.md").read_text(), re.M
    )
    assert set(rows) == set(_keys(StudySpec))


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        options = get_args(field.annotation) or (field.annotation,)
        tables = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        for table in tables:
            yield from _keys(table, f"{prefix}{name}.")
        if not tables:
            default = json.dumps(field.default) if isinstance(field.default, str) else field.default
            yield prefix + name, "required" if field.is_required() else f"`{default}`"


def test_every_file_and_heading_that_a_document_links_to_exists() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/*/*.md")]
    documents = [path for path in documents if not path.is_relative_to(ROOT / ".venv")]
    known = {path: _anchors(path) for path in documents}
    for document in documents:
        for link, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^):\s]*)\)", _prose(document)):
            linked = (document.parent / link).resolve() if link else document
            assert linked.exists(), f"{document.name}: {link}"
            assert not anchor or anchor in known.get(linked, {anchor}), f"{document.name}: {anchor}"


def _prose(document: Path) -> str:
    return re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)


def _anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _prose(document), re.MULTILINE)
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in words}


def test_constraints_pin_every_dependency_by_name_and_version_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = {re.split(r"[<>=~!\[ ]", line)[0].lower() for group in groups for line in group}
    assert needed <= {line.split("==")[0].lower() for line in lines}


def test_the_changelog_has_the_current_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_function_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", text))
    assert len(named) > 20
    for name in named - {"pyproject.toml", "constraints.txt", "utils.py"}:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(f"kdecay_search.{module}"), attribute), name


def test_every_path_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:kdecay_search/|tests/|[a-z_]+/)[a-z_/]*(?:\.py)?)`", text)
    assert len(named) > 20
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "kdecay_search" / path).exists(), path


def glossary() -> dict[str, str]:
    rows = (ROOT / "docs/glossary.md").read_text().split("| --- | --- |\n")[1].splitlines()
    return dict(row.strip("| ").split(" | ", 1) for row in rows)


def test_the_glossary_has_the_words_of_the_design() -> None:
    design = ROOT.parent / "shared/design.md"
    if not design.exists():
        pytest.skip("the design is not beside this checkout")
    table = design.read_text().split("## Words", 1)[1].split("## Method")[0]
    words = set(re.findall(r"^\| ([a-z ]+) \|", table, re.M)) - {"word"}
    assert len(words) > 10
    assert words <= glossary().keys()


def test_no_text_has_a_word_that_the_glossary_replaced() -> None:
    """Words of the project's own that had a standard one beside them."""
    replaced = re.compile(
        r"gone on with|goes on with|\bmend(s|ed|ing)?\b|\bin vain\b|\ba vain\b|\bwhoever\b"
        r"|\bnobody told\b|\bbe it killed\b|\brivals?\b|\bprogrammes?\b|\bbrought about\b",
        re.IGNORECASE,
    )
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    texts += [
        path for path in (ROOT / "kdecay_search").rglob("*") if path.suffix in (".py", ".html")
    ]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := replaced.search(line)) and "now called" not in line
    ]
    assert found == []
