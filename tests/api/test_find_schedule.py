"""A search in this process: what it returns, what it raises, and what it leaves alone."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import kdecay_search as kd
from kdecay_search.api.result import Result
from kdecay_search.errors import InvalidSpec, TaskError
from kdecay_search.search.verdict import Outcome

STEPS, EVERY = 60, 10
KEYS: dict[str, Any] = {
    "steps": STEPS,
    "report_every": EVERY,
    "direction": "minimize",
    "metric": "loss",
    "lr_max": (0.1, 1.0),
    "budget": 10,
    "max_terms": 1,
    "progress": False,
}


def area(run: kd.TaskRun) -> float:
    """A loss that a schedule with the right area minimises, with a little noise of the seed."""
    done = sum(run.schedule(step) for step in range(run.total_steps))
    noise = random.Random(f"{run.seed} {done:.6g}").gauss(0, 0.02)
    return abs(math.log(done / 25)) + 0.1 * run.seed + noise


def train(run: kd.TaskRun) -> None:
    loss = area(run)
    for step in range(1, run.total_steps + 1):
        if run.is_report_due(step):
            left = 1 - step / run.total_steps
            run.report(step=step, value=loss + left, averaged_value=loss + left / 2)


@cache
def found() -> Result:
    return kd.find_schedule(train, **KEYS)


def test_a_search_ends_with_a_schedule_a_verdict_and_its_runs() -> None:
    result = found()
    assert result.state == "done"
    assert len(result.runs) == KEYS["budget"]
    assert [run.number for run in result.runs] == list(range(1, 11))
    assert all(run.state == "complete" and run.reports == 6 for run in result.runs)
    assert all(len(run.values) == len(run.averaged_values) == 6 for run in result.runs)
    assert result.runs[0].values[-1] == result.runs[0].value
    assert result.schedule in [run.schedule for run in result.runs]
    assert result.schedule(0, STEPS) == result.schedule.lr_max
    assert result.verdict.sentence in " ".join(str(result).split())
    assert result.verdict.outcome in Outcome
    assert result.verdict.sentence in repr(result)
    assert result.confirmed is None
    assert {run.stage for run in result.runs} == {1}


def test_the_same_search_gives_the_same_answer_and_leaves_the_generators_alone() -> None:
    def noisy(run: kd.TaskRun) -> float:
        return area(run) + random.random() / 50

    random.seed(5)
    first = kd.find_schedule(noisy, **KEYS)
    after = random.random()
    random.seed(6)
    second = kd.find_schedule(noisy, **KEYS)
    assert [run.value for run in first.runs] == [run.value for run in second.runs]
    assert first.verdict == second.verdict
    assert after == random.Random(5).random()


def test_ctrl_c_returns_what_there_is() -> None:
    runs = 0

    def interrupted(run: kd.TaskRun) -> float:
        nonlocal runs
        runs += 1
        if runs == 6:
            raise KeyboardInterrupt
        return area(run)

    result = kd.find_schedule(interrupted, **KEYS)
    assert result.state == "stopped"
    assert len(result.runs) == 5
    assert result.verdict.sentence.startswith("So far, ")
    assert result.schedule.lr_max
    assert "stopped" in result._repr_html_()


def test_ctrl_c_in_the_first_run_returns_the_original() -> None:
    def interrupted(run: kd.TaskRun) -> float:
        raise KeyboardInterrupt

    result = kd.find_schedule(interrupted, **KEYS)
    assert (result.state, len(result.runs)) == ("stopped", 0)
    assert result.schedule == result.original
    assert "No run is complete yet" in result._repr_html_()


def test_an_exception_comes_out_as_it_is_with_its_run() -> None:
    mine = ValueError("mine")

    def broken(run: kd.TaskRun) -> float:
        if run.schedule(0) != run.schedule(1):
            raise mine
        return 1.0

    with pytest.raises(ValueError, match="mine") as raised:
        kd.find_schedule(broken, **KEYS)
    assert raised.value is mine
    (note,) = raised.value.__notes__
    assert note.startswith("kdecay_search: raised in run 1, k = 1 at lr_max 0.316")
    assert note.endswith("seed 0")


def test_a_caught_exception_fails_an_attempt() -> None:
    def flaky(run: kd.TaskRun) -> float:
        if run.schedule(0) > 0.5:
            raise ArithmeticError("too hot")
        return area(run)

    result = kd.find_schedule(flaky, **KEYS, catch=ArithmeticError)
    failed = [run for run in result.runs if run.state == "failed"]
    assert failed
    assert all("too hot" in (run.message or "") and run.value is None for run in failed)
    assert result.state == "done"
    assert result.schedule.lr_max <= 0.5


def test_a_run_that_diverges_ranks_last() -> None:
    def explosive(run: kd.TaskRun) -> float:
        return math.nan if run.schedule(0) > 0.5 else area(run)

    result = kd.find_schedule(explosive, **KEYS)
    values = [run.value for run in result.runs]
    assert math.inf in values
    assert result.schedule.lr_max <= 0.5


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda run: None, "the function reported nothing and returned no number"),
        (lambda run: run.report(step=EVERY, value=1.0), "the last report was after step 10 of"),
        (lambda run: run.report(epoch=1, value=1.0), "this study has task.steps = 60"),
        (lambda run: "good", "the returned value = 'good': must be a number"),
    ],
)
def test_a_function_that_uses_its_run_wrongly_is_told(function: Any, text: str) -> None:
    with pytest.raises(TaskError) as raised:
        kd.find_schedule(function, **KEYS)
    assert text in str(raised.value)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TaskError, match="must be a function"):
        kd.find_schedule("mine:train", **KEYS)  # type: ignore[arg-type]
    with pytest.raises(InvalidSpec, match="classes of exceptions"):
        kd.find_schedule(train, **KEYS, catch=(3,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lr_mxa"):
        kd.find_schedule(train, lr_mxa=1)  # type: ignore[call-arg]


def test_the_confirmation_runs_on_fresh_seeds_and_knows_its_purpose() -> None:
    purposes = []

    def noted(run: kd.TaskRun) -> float:
        purposes.append((run.purpose, run.seed >= 1000))
        return area(run)

    keys = {**KEYS, "confirm_seeds": 3}
    result = kd.find_schedule(noted, **keys)
    assert set(purposes) == {("search", False), ("confirmation", True)}
    assert result.confirmed is not None
    assert result.confirmed.pairs in (0, 3)
    assert sum(run.stage == 0 for run in result.runs) == purposes.count(("confirmation", True))
    assert result.confirmed.sentence in result._repr_html_()


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_every_sampler_works_here(sampler: str) -> None:
    keys = {**KEYS, "lr_max": 0.5, "sampler": sampler, "trials": 4, "seeds": 2}
    del keys["budget"]
    result = kd.find_schedule(train, **keys)
    assert result.state == "done"
    assert result.runs[0].ks == (1.0,)
    assert len({run.ks for run in result.runs}) > 3


@pytest.mark.parametrize("sampler", ["joint-random", "joint-tpe", "joint-gp"])
def test_a_sampler_of_optunas_proposes_whole_schedules(sampler: str) -> None:
    """The last quarter of the budget repeats what it has found; its proposals differ from those of
    the joint search after the design."""
    keys = {**KEYS, "budget": 16, "seeds": 2, "max_terms": 1}
    result = kd.find_schedule(train, **keys, sampler=sampler)
    assert result.state == "done"
    assert 12 <= len(result.runs) <= 16
    assert {run.seed for run in result.runs} == {0, 1}
    assert len({str(run.schedule) for run in result.runs}) >= 10
    tried = [(run.schedule, run.seed) for run in result.runs]
    again = kd.find_schedule(train, **keys, sampler=sampler)
    assert tried == [(run.schedule, run.seed) for run in again.runs]
    assert tried != [(run.schedule, run.seed) for run in kd.find_schedule(train, **keys).runs]


def test_a_study_of_epochs_knows_how_long_its_warm_up_is() -> None:
    def by_epochs(run: kd.TaskRun) -> None:
        run.steps_per_epoch = 8
        for epoch in run.remaining_epochs():
            run.report(epoch, area(run))

    result = kd.find_schedule(
        by_epochs, epochs=4, lr_max=0.4, warmup_epochs=1, budget=4, progress=False
    )
    assert result.schedule.warmup_steps == 8
    assert {run.schedule.warmup_steps for run in result.runs} == {8}


def test_a_result_is_written_as_a_report_and_as_source_and_as_a_study_file(tmp_path: Path) -> None:
    result = found()
    path = result.report(tmp_path / "new" / "report.html")
    page = path.read_text()
    assert result.verdict.sentence[:20] in page
    assert "this process" in page
    scope: dict[str, Any] = {}
    exec(result.source(), scope)
    assert scope["learning_rate"](30, STEPS) == pytest.approx(result.schedule(30, STEPS))
    again = tmp_path / "again.toml"
    again.write_text(result.study_file())
    assert kd.find_schedule(train, study_file=again, progress=False).verdict == result.verdict
    with pytest.raises(kd.KDecayError, match="cannot be written"):
        result.report(path / "below.html")


def test_a_result_drives_a_torch_optimizer() -> None:
    import torch

    result, total = found(), 2 * STEPS
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=7.0)
    scheduler = result.scheduler(optimizer, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [result.schedule(step, total) for step in range(total)]
    assert optimizer.param_groups[0]["lr"] == result.schedule.lr_min


def test_the_runs_become_a_table_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    table = found().runs.to_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == KEYS["budget"]
    assert {"value", "lr_max", "seed", "name"} <= set(table.columns)


def test_without_pandas_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(kd.KDecayError, match="pip install pandas"):
        found().runs.to_dataframe()


def test_nothing_is_written_and_no_database_is_started(tmp_path: Path) -> None:
    """In a process of its own: a lambda in __main__, a folder that stays empty."""
    program = (
        "import kdecay_search as kd\n"
        "found = kd.find_schedule(lambda run: run.schedule(0), epochs=2, steps_per_epoch=3, "
        "budget=4)\n"
        "import sys, json\n"
        "print(json.dumps([found.state, 'torch' in sys.modules, 'plotly' in sys.modules]))\n"
    )
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "KDECAY_HOME": str(home)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == ["done", False, False]
    assert list(tmp_path.iterdir()) == []
