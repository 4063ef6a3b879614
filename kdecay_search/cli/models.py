"""``models``: the networks of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from kdecay_search.cli.options import AsJson
from kdecay_search.cli.output import echo, print_json, print_result

if TYPE_CHECKING:
    from kdecay_search.study.paper_networks import PaperNetwork


DATA_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}


def register(app: typer.Typer) -> None:
    app.command()(models)


def models(json: AsJson = False) -> None:
    """List the networks of the paper.

    Each with its settings in a study file, and its number of parameters by data set. Other depths
    and widths work, too; docs/study-file.md has every key.
    """
    from kdecay_search.study.paper_networks import PAPER_NETWORKS

    if json:
        print_json([row for network in PAPER_NETWORKS for row in _rows(network)])
        return
    from json import dumps

    from rich.table import Table

    table = Table(box=None)
    table.add_column("network")
    table.add_column("\\[task.model]")
    for title in DATA_SETS.values():
        table.add_column(title, justify="right")
    for network in PAPER_NETWORKS:
        counts = network.parameters
        cells = [f"{counts[key]:,}" if key in counts else "" for key in DATA_SETS]
        settings = (f"{key} = {dumps(value)}" for key, value in _settings(network).items())
        table.add_row(network.title, ", ".join(settings), *cells)
    print_result(table)
    echo("The numbers are parameters, by data set.", err=True)


def _rows(network: PaperNetwork) -> list[dict[str, Any]]:
    return [
        {
            "network": network.title,
            "name": network.spec.name,
            "block": network.block,
            "depth": network.depth,
            "data": data,
            "parameters": parameters,
            "model": _settings(network),
        }
        for data, parameters in network.parameters.items()
    ]


def _settings(network: PaperNetwork) -> dict[str, Any]:
    """Return the keys of ``[task.model]`` that differ from their defaults."""
    return {"name": network.spec.name} | network.spec.model_dump(exclude_defaults=True)
