"""When a run is paused, and what unfinished runs say of their ends."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from kdecay_search.search import make_plan
from kdecay_search.search.early_stopping import goes_on
from kdecay_search.search.forecast import outlook
from kdecay_search.search.looks import Looks, look_rows
from kdecay_search.search.results import Result, Results
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from tests.support.memory_studies import study

KS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
EPOCHS, HALF = 12, 6


def spec(epochs: int = EPOCHS, **pruning: object) -> StudySpec:
    search = {"ks": KS, "k_max": 5.0, "k_cap": 5.0, "seeds": 3, "max_terms": 1}
    return study(epochs=epochs, search=search, pruning={"enabled": True, **pruning})


def first_looks(errors: dict[float, float], **changes: object) -> list[Trial]:
    """The first runs of a study, at half of their trainings; those up to k = 2 have ended as they
    stood there."""
    trials = []
    for number, request in enumerate(make_plan(spec(), []).enqueue):
        assert request.k is not None
        if request.key.seed > 0:
            continue
        trial = Trial(number, request, State.RUNNING, request.k, trial_id=number)
        trial = replace(trial, epochs=HALF, looks={HALF: errors[request.k]}, **changes)
        if request.k <= 2.0:
            trial = replace(trial, state=State.COMPLETE, epochs=EPOCHS, error=errors[request.k])
        trials.append(trial)
    return trials


def going_on(trials: list[Trial]) -> set[float | None]:
    running = [t for t in trials if t.state == State.RUNNING]
    return {t.k for t in running if goes_on(spec(), trials, t.trial_id)}


def test_who_is_clearly_behind_is_paused_and_who_may_be_the_best_goes_on() -> None:
    rising = going_on(first_looks({k: 10.0 + k for k in KS}))
    falling = going_on(first_looks({k: 20.0 - k for k in KS}))
    assert not {4.0, 5.0} & rising
    assert 5.0 in falling


def test_the_original_and_runs_without_averaged_errors_go_on() -> None:
    trials = first_looks({k: 10.0 + k for k in KS})
    first = replace(trials[0], state=State.RUNNING, error=None, epochs=HALF)
    assert first.request.protected
    assert goes_on(spec(), [first, *trials[1:]], first.trial_id)
    last = max(trials, key=lambda t: t.k or 0)
    raw = [replace(t, looks={}) if t is last else t for t in trials]
    assert goes_on(spec(), raw, last.trial_id)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 12, 30, 200])
def test_looks_lie_between_the_first_share_and_the_end(epochs: int) -> None:
    asked = spec(epochs)
    looks = list(asked.looks)
    assert len(looks) <= asked.pruning.looks
    assert all(asked.pruning.first_share * epochs - 1e-9 <= look < epochs for look in looks)
    assert bool(looks) == (epochs > 1)
    assert not spec(epochs, enabled=False).looks


# ---- the forecast -------------------------------------------------------------------------------

POINTS = tuple(Candidate(k) for k in KS)


def surface(point: Candidate) -> float:
    assert point.k is not None
    return 3.0 * (math.log(point.k) - 1.0) ** 2


def seen(ended: int, drift: float, random: np.random.Generator) -> tuple[Results, Looks]:
    """Two seeds at half of a training, of which the first ``ended`` candidates have gone on."""
    results: list[Result] = []
    looks: dict[Candidate, dict[int, dict[int, float]]] = defaultdict(dict)
    for seed in range(2):
        for number, point in enumerate(POINTS):
            assert point.k is not None
            noise = random.normal(0.0, 0.1, 2)
            off = drift * math.log(point.k) + 7.0
            looks[point][seed] = {HALF: surface(point) + off + float(noise[0])}
            if number < ended:
                results.append((point, seed, surface(point) + float(noise[1])))
    shown = [(point, look_rows(runs)) for point, runs in looks.items()]
    return Results.of(results), Looks.of(EPOCHS, shown)


def test_the_drift_of_averaged_errors_is_learned_from_the_runs_that_have_ended() -> None:
    """By their looks alone the last candidates would be the worst."""
    random = np.random.default_rng(0)
    results, looks = seen(6, 3.0, random)
    found = outlook(POINTS, results, looks)
    truth = np.array([surface(point) for point in POINTS])
    worst = np.abs(found.means - (truth - truth.mean())).max()
    assert worst < 0.8
    last = len(POINTS) - 1
    by_look = float(looks.error[2 * last] - looks.error[2 * 2])
    assert by_look > truth[last] - truth[2] + 1.5


def test_before_a_run_has_ended_looks_tell_the_less_the_earlier_they_are() -> None:
    random = np.random.default_rng(0)
    _, looks = seen(1, 0.0, random)
    none = Results.by_seed([(point, {}) for point in POINTS])

    def width(number: int) -> float:
        moved = replace(looks, number=np.full(len(looks), float(number)))
        draws = outlook(POINTS, none, moved).draws
        return float((draws[:, 0] - draws[:, 4]).std())

    assert width(5) > width(8) > width(11)
