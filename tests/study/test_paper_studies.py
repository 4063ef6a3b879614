"""The study files of the paper's experiments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from kdecay_search.cli.main import app
from kdecay_search.search import runs_at_most
from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.file import load
from kdecay_search.study.networks import DenseNetSpec, ResNet50Spec, WideResNetSpec
from kdecay_search.study.paper_networks import PAPER_NETWORKS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "studies" / "paper").glob("*.toml"))
by_name = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


@by_name
def test_kdecay_check_passes(file: Path, tmp_path: Path) -> None:
    if "imagenet" in file.read_text():  # whose images the user brings
        for folder in (tmp_path / part / name for part in ("train", "val") for name in ("a", "b")):
            folder.mkdir(parents=True)
            for number in range(30):
                color = (number, ord(folder.name), len(folder.parent.name))
                Image.new("RGB", (8, 8), color).save(folder / f"{number}.png")
    done = CliRunner().invoke(app, ["check", str(file), "--set", f"task.data.root={tmp_path}"])
    assert done.exit_code == 0, done.output
    assert f"{file.stem}: {file} is valid" in done.output.replace("\n", "")


@by_name
def test_a_file_cites_the_paper_and_says_what_it_costs_and_where_it_differs(file: Path) -> None:
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert "arXiv:2004.05909" in comments[0]
    assert "# GPU-hours: not measured." in comments
    assert any(line.startswith("# Differs") for line in comments)


@by_name
def test_a_file_has_the_recipe_of_its_network(file: Path) -> None:
    task = load(file).task
    assert isinstance(task, ImagesTask)
    assert task.model in {network.spec for network in PAPER_NETWORKS}
    epochs, batch, decay = {
        DenseNetSpec: (300, 64, 1e-4),
        WideResNetSpec: (200, 128, 5e-4),
        ResNet50Spec: (90, 256, 1e-4),
    }.get(type(task.model), (200, 128, 1e-4))
    assert (task.epochs, task.batch_size, task.optimizer.weight_decay) == (epochs, batch, decay)
    assert (task.optimizer.momentum, task.optimizer.nesterov) == (0.9, True)
    data = task.data
    assert data.normalisation == data.name
    if data.name != "imagenet":
        padding = "reflect" if isinstance(task.model, WideResNetSpec) else "mean"
        assert (data.crop_padding, data.padding_mode, data.validation) == (4, padding, 0.1)
    assert load(file).schedule_for((1.0,)) == load(
        ROOT / "studies/paper/figure-2.toml"
    ).schedule_for((1.0,))


@pytest.mark.parametrize(("figure", "candidates"), [(1, 1), (2, 9), (4, 3), (6, 2)])
def test_a_figure_has_the_points_that_the_paper_shows(figure: int, candidates: int) -> None:
    spec = load(ROOT / "studies" / "paper" / f"figure-{figure}.toml")
    assert runs_at_most(spec) == [(candidates, candidates * spec.search.seeds)]


def test_the_document_lists_every_file_once() -> None:
    links = re.findall(r"\]\(\.\./studies/paper/(.+?)\)", (ROOT / "docs" / "paper.md").read_text())
    assert sorted(links) == [file.name for file in FILES]
