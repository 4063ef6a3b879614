"""``schedule``: print or draw a k-decay schedule."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.output import print_json, print_result

if TYPE_CHECKING:
    from kdecay_search.schedules.kdecay import KDecaySchedule


class ScheduleFormat(StrEnum):
    """The formats that ``schedule`` can print."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class FamilyName(StrEnum):
    """The families of :data:`kdecay_search.schedules.kdecay.FAMILIES`."""

    POLYNOMIAL = "polynomial"
    COSINE = "cosine"
    EXPONENTIAL = "exponential"


TABLE_ROWS = 20


def register(app: typer.Typer) -> None:
    app.command()(schedule)


def schedule(
    family: Annotated[
        FamilyName, typer.Option(help="The shape of the decay.")
    ] = FamilyName.POLYNOMIAL,
    ks: Annotated[
        str, typer.Option(metavar="K1,K2,...", help="The terms, in increasing order.")
    ] = "1",
    power: Annotated[float, typer.Option(help="N of the polynomial family.")] = 1.0,
    lr_max: Annotated[float, typer.Option(help="The learning rate at the start.")] = 0.1,
    lr_min: Annotated[float, typer.Option(help="The learning rate at the end.")] = 0.001,
    warmup: Annotated[int, typer.Option(min=0, help="Optimizer updates of linear warm-up.")] = 0,
    total: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Optimizer updates in total.")
    ] = 100,
    as_: Annotated[
        ScheduleFormat,
        typer.Option(
            "--as", help="table draws about 20 of the values; csv and json print all of them."
        ),
    ] = ScheduleFormat.TABLE,
) -> None:
    """Print or draw a k-decay schedule.

    No study and no database are needed.
    """
    from kdecay_search.schedules import export
    from kdecay_search.schedules.kdecay import KDecaySchedule

    chosen = KDecaySchedule(family.value, _numbers(ks), power, lr_max, lr_min, warmup)
    chosen(0, total)  # refuses a warm-up that does not fit
    if as_ == ScheduleFormat.CSV:
        print(export.schedule_csv(chosen, total), end="")
    elif as_ == ScheduleFormat.JSON:
        values = [chosen(step, total) for step in range(total + 1)]
        print_json(
            {
                "family": family.value,
                "ks": list(chosen.ks),
                "power": power,
                "lr_max": lr_max,
                "lr_min": lr_min,
                "warmup": warmup,
                "total": total,
                "learning_rates": values,
            }
        )
    else:
        _print_table(chosen, total)


def _numbers(text: str) -> tuple[float, ...]:
    from kdecay_search.errors import InvalidSchedule

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidSchedule(
            f"--ks {text}: must be numbers separated by commas, such as 1.5,4"
        ) from None


def _print_table(schedule: KDecaySchedule, total: int) -> None:
    from rich.table import Table

    from kdecay_search.report.blocks import bar

    table = Table(box=None)
    table.add_column("step", justify="right")
    table.add_column("learning rate", justify="right")
    table.add_column("")
    rows = min(total, TABLE_ROWS)
    for step in sorted({round(index * total / rows) for index in range(rows + 1)}):
        rate = schedule(step, total)
        table.add_row(f"{step:,}", f"{rate:.6g}", bar(rate / schedule.lr_max, 40))
    print_result(table)
