"""``plan``: estimate how many seeds show a difference, and how long a study takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import AsJson, StorageUrl, opened
from kdecay_search.cli.output import echo, print_json, print_result

if TYPE_CHECKING:
    from kdecay_search.report.forecast import Forecast
    from kdecay_search.snapshot import StudySnapshot
    from kdecay_search.statistics import Noise
    from kdecay_search.study.metric import MetricFormat
    from kdecay_search.study.spec import StudySpec

DIFFERENCES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""The differences in the table of a study in percent, in points; the wanted one is added."""
SHARES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""The differences in the table of any other study, in units of the noise, each rounded."""
USUAL = 0.2
"""The wanted difference of a study in percent, in points; in any other, the noise, rounded."""
POWER, CONFIDENCE = 0.8, 0.95


@dataclass(frozen=True)
class Row:
    """What it takes to show one difference, for each of the compared schedules."""

    difference: float
    """The true difference of the two schedules, in the metric's unit."""
    wanted: bool
    """Whether this is the difference that was asked for by ``--difference``."""
    seeds: int
    """The number of seeds that shows the difference."""
    seeds_interval: tuple[int, int] | None
    """The numbers of seeds for both ends of the interval of the noise; None if it was given."""
    runs: int
    """The number of runs: one per seed."""
    epochs: int
    """The number of epochs of all these runs, or of steps if the study counts these."""


def register(app: typer.Typer) -> None:
    app.command()(plan)


def plan(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's name, or its file (TOML).")
    ],
    difference: Annotated[
        float | None,
        typer.Option(
            metavar="SIZE",
            help="The true difference to show, in the metric's unit: points if that is %. Default: "
            "0.2 points, or about the noise of a metric in another unit.",
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="SD",
            help="Standard deviation of the difference of two runs on one seed, in the metric's "
            "unit. Default: measured from the complete runs of the study.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Also forecast how long the study takes on so many workers, each on a device of "
            "its own, by the time of its runs so far.",
        ),
    ] = None,
    json: AsJson = False,
    storage: StorageUrl = None,
) -> None:
    """Estimate how many seeds and hours it takes.

    Prints how many fresh seeds a confirmation needs to show a difference between two schedules
    with 80 % power (paired t test, two-sided, 5 %), given the noise measured so far, and what they
    cost. The table ends at 10,000 seeds, which stands for that many or more. For a search of whole
    schedules, it also says what its budget means. With --workers, it says how long what is left of
    the study takes at most, whether or not its noise is known yet.
    """
    from kdecay_search.study.metric import MetricFormat

    _require_size("--difference", difference)
    _require_size("--noise", noise)
    known = _read(study, storage, noise is None, workers)
    spec, measured, seconds = known.spec, known.noise, known.seconds
    used = noise if measured is None else measured.sd
    forecast = {} if known.forecast is None else {"forecast": _forecast_as_json(known.forecast)}
    if used is None:  # there is a forecast, or reading would have failed
        if json:
            print_json({"study": spec.name, **_budget(spec, seconds), **forecast})
        else:
            echo(f"{spec.name}: the noise is not known yet; give it by --noise SD")
    else:
        rows = _rows(spec, difference, used, measured)
        form = MetricFormat.of(spec.task.metric, used)
        if json:
            found = _as_json(spec, form, used, measured, rows)
            print_json({**found, **_budget(spec, seconds), **forecast})
        else:
            _print(spec, form, used, measured, rows)
    if json:
        return
    if spec.search.is_joint:
        from kdecay_search.report.cost import budget_sentence

        echo(budget_sentence(spec, seconds, "by its runs so far"))
    if known.forecast is not None:
        echo(known.forecast.sentence)


def _forecast_as_json(forecast: Forecast) -> dict[str, object]:
    return {
        "workers": forecast.workers,
        "runs": forecast.queued + forecast.later,
        "runs_at_once": forecast.at_once if forecast.later else None,
        "confirmation_runs": forecast.confirmation,
        "seconds_per_run": forecast.seconds_per_run,
        "seconds": forecast.seconds,
    }


def _budget(spec: StudySpec, seconds: float | None) -> dict[str, object]:
    """What the budget of a search of whole schedules means; nothing for any other search."""
    if not spec.search.is_joint:
        return {}
    runs, length = spec.search.budget, spec.task.length
    whole = None if seconds is None else runs * seconds
    return {"budget": {"runs": runs, f"{length.unit}s": runs * length.total, "seconds": whole}}


def _require_size(option: str, value: float | None) -> None:
    from kdecay_search.errors import KDecayError

    if value is not None and not 0 < value < math.inf:
        raise KDecayError(f"{option} {value:g}: must be above 0, and finite")


@dataclass(frozen=True)
class _Known:
    """What is known of a study."""

    spec: StudySpec
    noise: Noise | None = None
    """Its measured noise; None if that was given, or is not known."""
    seconds: float | None = None
    """Device-seconds of a run; None if none has been timed."""
    forecast: Forecast | None = None
    """How long it takes, if that was asked for."""


def _read(study: str, url: str | None, is_measured: bool, workers: int | None) -> _Known:
    """Read a study by its name or file, its noise if ``is_measured``, and how long it takes if
    there are ``workers``."""
    from kdecay_search.errors import StudyError
    from kdecay_search.report.cost import seconds_per_run
    from kdecay_search.report.forecast import forecast, unlaunched
    from kdecay_search.snapshot import read_snapshot
    from kdecay_search.storage.durations import read_durations
    from kdecay_search.storage.records import study_names
    from kdecay_search.study.file import load

    file = load(study, []) if study.endswith(".toml") or "/" in study else None
    if file is not None and not is_measured and workers is None:
        return _Known(file)
    with opened(url) as store:
        if file is not None and file.name not in study_names(store):
            if workers is not None:
                return _Known(file, forecast=forecast(unlaunched(file), {}, workers))
            raise StudyError(
                f"study {file.name!r} has not been launched, so its noise is not known; "
                "give it by --noise SD"
            )
        snapshot = read_snapshot(store, file.name if file else study)
        times = read_durations(store, snapshot.spec.name)
        noise = None
        try:
            noise = _measured_noise(snapshot) if is_measured else None
        except StudyError:
            if workers is None:
                raise
        shown = None if workers is None else forecast(snapshot, times, workers)
        return _Known(snapshot.spec, noise, seconds_per_run(snapshot, times), shown)


def _measured_noise(snapshot: StudySnapshot) -> Noise:
    from kdecay_search.errors import StudyError
    from kdecay_search.statistics import pooled_noise

    errors: dict[object, dict[int, float]] = {}
    for stage in snapshot.plan.stages:
        for candidate in stage.candidates:
            if candidate.point is not None:
                schedule = (stage.earlier_ks, candidate.point)
                errors.setdefault(schedule, {}).update(candidate.errors)
    noise = pooled_noise(errors.values())
    if noise is None:
        raise StudyError(
            f"study {snapshot.spec.name!r} has too few complete runs to measure its noise: it "
            "takes two schedules that share two seeds; give it by --noise SD"
        )
    return noise


def _rows(spec: StudySpec, wanted: float | None, sd: float, measured: Noise | None) -> list[Row]:
    from kdecay_search.statistics import seeds_needed

    listed: Sequence[float] = DIFFERENCES
    if spec.task.metric.unit != "%":
        listed = [float(f"{share * sd:.1g}") for share in SHARES if sd]
    if wanted is None:
        wanted = USUAL if spec.task.metric.unit == "%" or not sd else float(f"{sd:.1g}")
    rows = []
    for size in sorted({*listed, wanted}):
        seeds = seeds_needed(sd, size, POWER, CONFIDENCE)
        ends = None
        if measured is not None:
            low, high = (seeds_needed(end, size, POWER, CONFIDENCE) for end in measured.interval)
            ends = (low, high)
        rows.append(Row(size, size == wanted, seeds, ends, seeds, seeds * spec.task.length.total))
    return rows


def _as_json(
    spec: StudySpec, form: MetricFormat, sd: float, measured: Noise | None, rows: Sequence[Row]
) -> dict[str, object]:
    from kdecay_search.snapshot import metric_of

    units = f"{spec.task.length.unit}s"
    return {
        "study": spec.name,
        "metric": metric_of(form),
        "noise": {
            "sd": sd,
            "interval": measured.interval if measured else None,
            "degrees_of_freedom": measured.degrees_of_freedom if measured else None,
            "measured": measured is not None,
        },
        "power": POWER,
        "confidence": CONFIDENCE,
        f"{units}_per_run": spec.task.length.total,
        "rows": [
            {units if key == "epochs" else key: value for key, value in asdict(row).items()}
            for row in rows
        ],
    }


def _print(
    spec: StudySpec, form: MetricFormat, sd: float, measured: Noise | None, rows: Sequence[Row]
) -> None:
    from rich.table import Table

    table = Table(box=None)
    ends = () if measured is None else ("from", "to")
    for heading in ("difference", "seeds", *ends, f"{spec.task.length.unit}s", ""):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (row.seeds, *(row.seeds_interval or ()), row.epochs)
        mark = "wanted" if row.wanted else ""
        table.add_row(f"{row.difference:g}", *(f"{cell:,}" for cell in cells), mark)
    echo(_noise_sentence(spec, form, sd, measured))
    print_result(table)
    echo(
        "For each of the compared schedules, with one run per seed, to show the difference with "
        "80 % power (paired t test, two-sided, 5 %)."
        + ("" if measured is None else " From, to: for both ends of the interval of the noise.")
    )


def _noise_sentence(spec: StudySpec, form: MetricFormat, sd: float, measured: Noise | None) -> str:
    noise = f"{sd:.3g}{form.difference_unit}"
    start = f"{spec.name}: two runs on one seed differ by noise of {noise}"
    if measured is None:
        return f"{start} (sd, as given)."
    low, high = measured.interval
    is_error = form.metric.name == "validation error"
    by = "validation errors" if is_error else f"the {form.metric.name} of the search"
    others = "test errors" if is_error else "values on the test set"
    return (
        f"{start} (sd; 95 % interval {low:.3g} to {high:.3g}, "
        f"{measured.degrees_of_freedom} degrees of freedom), by {by}; the noise of {others} may "
        "differ."
    )
