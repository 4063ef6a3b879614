"""``kdecay try``: what one short run shows about a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.tasks.simulated import train as simulated
from kdecay_search.user_code.findings import Severity, findings
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.run import TaskRun
from kdecay_search.user_code.tryout import (
    Tryout,
    shortened,
    try_another_seed,
    try_function,
    try_task,
)
from tests.support.memory_studies import study

TASK = {"kind": "python", "epochs": 2, "entry": "mine:train"}
STEPS = 4


def observed(function: Callable[[TaskRun], object], epochs: int = 2, **table: Any) -> Tryout:
    """Return what a short run of ``function`` showed."""
    seen = Tryout(study(task=TASK | {"epochs": epochs} | table))
    try_function(seen, function, 2.0, "cpu", lambda text: None)
    return seen


def texts(seen: Tryout) -> dict[str, str]:
    """Return the severity of each finding by its text."""
    return {finding.text: str(finding.severity) for finding in findings(seen)}


def complete(run: TaskRun) -> None:
    """A task that does everything that it should, without torch."""
    assert run.purpose == "search"
    assert run.device == "cpu"
    assert run.seed == 0
    run.steps_per_epoch = STEPS
    done = run.resume() or 0
    for number in run.remaining_epochs():
        assert number == done + 1
        rates = [run.schedule(step) for step in range(STEPS)]
        run.report(number, 40.0 / number, averaged_error=30.0 / number, lr=rates[-1])
        run.save(done := number)


def bare(run: TaskRun) -> None:
    """A task that does as little as works."""
    run.steps_per_epoch = STEPS
    for number in range(1, run.epochs + 1):
        run.schedule(0)
        run.report(number, 40.0 / number)


def optimized(run: TaskRun, updates: int = STEPS, factor: float = 1.0) -> None:
    """A task with a torch optimizer, whose LR is ``factor`` times the schedule's."""
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    run.steps_per_epoch = STEPS
    step = 0
    for number in run.remaining_epochs():
        for _ in range(updates):
            optimizer.param_groups[0]["lr"] = factor * run.schedule(step)
            optimizer.step()
            step += 1
        run.report(number, 40.0 / number)


def test_a_complete_task_lacks_nothing() -> None:
    seen = observed(complete)
    assert set(texts(seen).values()) == {Severity.GOOD}
    assert (seen.restored, [epoch.number for epoch in seen.epochs]) == (1, [1, 2])
    assert "interrupted after a report, it resumed from there" in texts(seen)


def test_a_bare_task_works_and_lacks_five_things() -> None:
    found = texts(observed(bare)).items()
    missing = {text for text, severity in found if severity == Severity.MISSING}
    for words in ("no validation error of averaged weights was reported, so no run can be paused",
                  "no state is saved", "run.seed was", "run.purpose was",
                  "run.device was"):  # fmt: skip
        assert sum(words in text for text in missing) == 1, words
    assert len(missing) == 5


def test_a_task_that_saves_no_state() -> None:
    def train(run: TaskRun) -> None:
        run.resume()
        bare(run)

    seen = observed(train)
    assert any("it started over; call run.save" in text for text in texts(seen))
    assert [epoch.number for epoch in seen.epochs] == [1, 2]


def test_a_task_without_the_schedule_is_wrong() -> None:
    seen = observed(lambda run: 12.0)
    assert texts(seen)[
        "the schedule was never used, so every k trains alike; call run.drive(optimizer)"
    ] == Severity.WRONG  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words", "severity"),
    [
        ({}, "all 8 optimizer updates used the schedule's LR", Severity.GOOD),
        ({"factor": 2.0}, "update 0 used the LR 0.2, but run.schedule(0) is 0.1", Severity.WRONG),
        ({"updates": 3}, "6 updates were made, but run.total_steps is 8", Severity.MISSING),
        ({"updates": 6}, "12 updates were made, but run.total_steps is 8", Severity.MISSING),
    ],
)
def test_a_torch_optimizer_s_rates_are_checked(
    options: dict[str, Any], words: str, severity: Severity
) -> None:
    found = texts(observed(lambda run: optimized(run, **options)))
    assert [found_as for text, found_as in found.items() if words in text] == [severity]


NATS = {"name": "loss", "unit": "nats"}
ACCURACY = {"name": "accuracy", "direction": "max"}
DEFAULT = {"name": "validation error", "unit": "%", "decimals": 2}


@pytest.mark.parametrize(
    ("metric", "values", "severity", "words"),
    [
        (
            DEFAULT,
            [40.0, 20.0],
            "good",
            "the metric is validation error, where lower is better, in %; it went from 40.00 % to ",
        ),
        (
            NATS,
            [2.874, 1.5],
            "good",
            "the metric is loss, where lower is better, in nats; it went from 2.874 nats to 1.5",
        ),
        (
            ACCURACY,
            [0.5, 0.75],
            "good",
            "the metric is accuracy, where higher is better; it went from 0.5000 to 0.7500",
        ),
        (
            DEFAULT,
            [20.0],
            "good",
            "the metric is validation error, where lower is better, in %; it is 20.00 %",
        ),
        (NATS, [-3.0, -5.0], "good", "it went from -3.000 nats to -5.000 nats"),
        (DEFAULT, [50.0, 50.0], "missing", "but it never changed: 50.00 % in every report"),
        (
            DEFAULT,
            [0.5, 0.25],
            "missing",
            "no value is above 0.5 %: report percent, such as 12.5",
        ),
        (
            DEFAULT,
            [40.0, 90.0],
            "missing",
            'but it rose from 40.00 % to 90.00 %: if higher is better, set direction = "max" under',
        ),
        (
            NATS,
            [0.52, 0.55],
            "missing",
            'if higher is better, set direction = "max" under [task.met',
        ),
        (
            ACCURACY,
            [0.5, 0.25],
            "missing",
            'but it fell from 0.5000 to 0.2500: if lower is better, set direction = "min"',
        ),
        (DEFAULT, [40.0, float("nan")], "wrong", "the training diverged: lower schedule.lr_max"),
    ],
)
def test_what_the_metric_is_taken_to_be(
    metric: dict[str, Any], values: list[float], severity: str, words: str
) -> None:
    def train(run: TaskRun) -> None:
        for number, value in enumerate(values, start=1):
            run.report(number, value)

    found = texts(observed(train, epochs=len(values), metric=metric)).items()
    assert [each for text, each in found if words in text] == [severity]
    about = [text for text, _ in found if "the metric is" in text or "diverged" in text]
    assert len(about) == 1


@pytest.mark.parametrize(
    ("metric", "reports", "severity"),
    [
        (NATS, [(40.0, 50.0), (20.0, 30.0)], "missing"),
        (NATS, [(40.0, 50.0), (20.0, 21.0)], "good"),
        (NATS, [(40.0, 50.0), (20.0, 19.0)], "good"),
        (ACCURACY, [(0.2, 0.1), (0.6, 0.4)], "missing"),
        (ACCURACY, [(0.2, 0.3), (0.6, 0.4)], "good"),
    ],
)
def test_averaged_weights_that_are_worse_throughout(
    metric: dict[str, Any], reports: list[tuple[float, float]], severity: str
) -> None:
    def train(run: TaskRun) -> None:
        for number, (raw, averaged) in enumerate(reports, start=1):
            run.report(number, raw, averaged)

    found = texts(observed(train, metric=metric))
    assert [found[text] for text in found if "averaged weights" in text] == [severity]
    assert severity == "good" or any("worse in every report (" in text for text in found)


@pytest.mark.parametrize("uses_seed", [True, False])
def test_another_seed(uses_seed: bool) -> None:
    trained: list[int] = []

    def train(run: TaskRun) -> None:
        for number in run.remaining_epochs():
            trained.append(number)
            run.report(number, 40.0 / number + run.seed * uses_seed)

    seen = observed(train)
    try_another_seed(seen, lambda run: run_function(train, run), 2.0, "cpu", lambda text: None)
    words = "another seed gives other values" if uses_seed else "another seed changes nothing, so"
    severity = Severity.GOOD if uses_seed else Severity.MISSING
    assert [each for text, each in texts(seen).items() if words in text] == [severity]
    assert trained == ([1, 2, 1] if uses_seed else [1, 2, 1, 2]), "it ends where the reports differ"
    assert [epoch.number for epoch in seen.epochs] == [1, 2]


def test_a_second_run_that_fails_says_so() -> None:
    lines: list[str] = []

    def train(run: TaskRun) -> None:
        assert run.seed == 0, "it cannot be called twice"
        bare(run)

    seen = observed(train)
    try_another_seed(seen, lambda run: run_function(train, run), 2.0, "cpu", lines.append)
    assert any("it failed, so what the seed changes is not known: it cannot be" in s for s in lines)
    assert not any("another seed" in text for text in texts(seen))


def test_too_few_epochs() -> None:
    def train(run: TaskRun, result: float | None) -> float | None:
        run.report(1, 40.0)
        return result

    line = "1 of 3 epochs were reported; train run.epochs epochs, and report each"
    assert texts(observed(lambda run: train(run, None), epochs=3))[line] == Severity.WRONG
    assert texts(observed(lambda run: train(run, 40.0), epochs=3))[line] == Severity.MISSING


def test_too_many_epochs_are_refused() -> None:
    def train(run: TaskRun) -> None:
        for number in range(1, 91):
            run.report(number, 40.0 / number)

    with pytest.raises(TaskError, match=r"\(epoch=3\): all of 2 epochs were reported before"):
        observed(train)


def test_a_short_run_shortens_the_warm_up() -> None:
    spec = study(epochs=90, schedule={"warmup_epochs": 9.0})
    short = shortened(spec, 3)
    assert (short.task.epochs, short.schedule.warmup_epochs) == (3, 0.3)
    assert shortened(spec, 90) is spec


def test_a_short_run_of_steps() -> None:
    task = {"kind": "python", "entry": "a:b", "steps": 2000, "report_every": 300}
    spec = study(task=task, schedule={"warmup_steps": 200})
    short = shortened(spec, 600)
    assert short.task.length == TrainingLength("step", 600, 300)
    assert short.schedule.warmup_steps == 60
    assert shortened(spec, 100).task.length == TrainingLength("step", 100, 100)
    assert shortened(spec, 2000) is spec


def test_steps_that_are_left_out() -> None:
    task = {"epochs": None, "steps": 100, "report_every": 50}

    def train(run: TaskRun) -> float:
        run.report(step=50, value=40.0)
        return 40.0

    seen = Tryout(study(task={k: v for k, v in (TASK | task).items() if v is not None}))
    try_function(seen, train, 2.0, "cpu", lambda text: None)
    line = "50 of 100 steps were reported; make run.total_steps updates, and report at the end"
    assert texts(seen)[line] == Severity.MISSING


def test_a_built_in_task() -> None:
    lines: list[str] = []
    seen = Tryout(study(epochs=3))
    try_task(seen, simulated, 1.0, "cpu", lines.append)
    assert [line.partition(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert not any(finding.severity == Severity.WRONG for finding in findings(seen))
