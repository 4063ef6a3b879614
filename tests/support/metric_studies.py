"""Finished studies on metrics of any scale and direction, for tests of what is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdecay_search.report.curves import Curves, shown_trials, thinned
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.comparators import FOUND
from kdecay_search.study.spec import FIRST_CONFIRMATION_SEED
from kdecay_search.study.trials import State, Trial
from tests.support.memory_studies import MemoryQueue, study

Values = Mapping[float, Sequence[float]]
"""Values as runs report them, one for each seed, by k."""

SEARCH = {"k_max": 3.0, "k_cap": 3.0, "k_step": 1.0, "max_terms": 1, "min_gain": 0.0}
EPOCHS = {"epochs": 8}
STEPS = {"steps": 2000, "report_every": 300}

NATS = {"name": "validation loss", "unit": "nats"}
LOSSES: Values = {
    1.0: [2.8741, 2.8795, 2.8702],
    2.0: [2.8659, 2.8717, 2.8624],
    3.0: [2.8702, 2.8752, 2.8667],
}
ACCURACY = {"name": "validation accuracy", "direction": "max"}
ACCURACIES: Values = {
    1.0: [0.912, 0.903, 0.921],
    2.0: [0.931, 0.923, 0.939],
    3.0: [0.922, 0.914, 0.929],
}
RMSE = {"name": "RMSE"}
RMSES: Values = {
    1.0: [434.4, 431.2, 437.9],
    2.0: [140.3, 138.0, 143.1],
    3.0: [182.6, 179.0, 186.5],
}
LIKELIHOOD = {"name": "log-likelihood", "direction": "max", "unit": "nats"}
LIKELIHOODS: Values = {
    1.0: [-105.31, -104.92, -105.77],
    2.0: [-101.02, -100.60, -101.41],
    3.0: [-103.20, -102.74, -103.58],
}


def study_of(
    metric: Mapping[str, Any],
    values: Values,
    length: Mapping[str, int] = EPOCHS,
    test: Values | None = None,
    **tables: Any,
) -> StudySnapshot:
    """A finished study whose runs report these values: NaN and infinity are runs that diverged.

    Args:
        metric: The study's ``task.metric``.
        values: Last values of the search's runs.
        length: Keys of ``task`` that state the length of a run.
        test: Values of a confirmation with three seeds, if there is one; k = 2 is found in it.
        tables: Further tables of the study file.
    """
    task = {"kind": "python", "entry": "mine:train", "metric": metric, **length}
    confirm = {"seeds": 3} if test is not None else {}
    spec = study(task=task, search=SEARCH | tables.pop("search", {}), confirm=confirm, **tables)

    def outcome(waiting: Trial) -> Trial:
        table, seed, k = values, waiting.key.seed, waiting.k
        if waiting.request.comparator is not None:
            assert test is not None
            table, seed = test, seed - FIRST_CONFIRMATION_SEED
            k = waiting.k if waiting.request.comparator == FOUND else 1.0
        assert k is not None
        error = spec.task.metric.error(table[k][seed])
        state, reports = State.COMPLETE, spec.task.length.reports
        return replace(waiting, state=state, error=error, averaged_error=error, epochs=reports)

    queue = MemoryQueue(spec, outcome)
    queue.play()
    return StudySnapshot(queue.spec, tuple(queue.trials), stopped=False)


def curves_of(snapshot: StudySnapshot) -> Curves:
    """Curves that come to each trial's value, as a worker would have left them."""
    metric, reports = snapshot.spec.task.metric, snapshot.spec.task.length.reports

    def of_trial(trial: Trial) -> dict[str, list[float]]:
        assert trial.error is not None
        last = metric.value(trial.error)
        size = abs(last) if math.isfinite(last) else 1.0
        away = [metric.sign * size * 0.5**number for number in range(1, trial.epochs + 1)]
        if not math.isfinite(last):
            half = [metric.sign * size * 40.0**number for number in range(1, reports // 2 + 1)]
            lost = half + [math.nan] * (trial.epochs - len(half))
            return dict.fromkeys(("averaged_error", "validation_error", "training_loss"), lost)
        averaged = [last + step - away[-1] for step in away]
        raw = [value + metric.sign * size * 0.02 for value in averaged]
        return {
            "averaged_error": averaged,
            "validation_error": raw,
            "training_loss": [abs(step) + 0.1 for step in away],
        }

    shown: Callable[[Trial], Any] = lambda trial: thinned(trial, of_trial(trial), {})  # noqa: E731
    stages = snapshot.plan.stages
    return Curves({s.n: [shown(trial) for trial in shown_trials(snapshot, s)] for s in stages})
