"""The joint search of whole schedules: budget, baselines, edges, further terms."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kdecay_search.search import Progress, make_plan
from kdecay_search.search.coordinates import coordinates
from kdecay_search.search.early_stopping import goes_on
from kdecay_search.search.policy import POLICY
from kdecay_search.search.verdict import Outcome, judge, judge_confirmation
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import FOUND, GIVEN, ORIGINAL
from kdecay_search.study.space import SEARCHED_FAMILIES
from kdecay_search.study.spec import ConfirmSpec, PruningSpec, StudySpec
from kdecay_search.study.trials import RunKey, RunRequest, State, Trial
from tests.support.memory_studies import MemoryQueue, completed, failed, study

LEVEL = 0.1


def joint(**keys: Any) -> StudySpec:
    """A joint study with a budget of 14 runs."""
    settings = {"sampler": "joint", "budget": 14, "seeds": 3}
    return study(search=settings | keys, schedule={"lr_max": LEVEL, "lr_min": 0.001})


def on(surface: Callable[[Candidate], float], noise: float = 0.05, of_seed: float = 0.3) -> Any:
    """Every run ends at a stated error of its candidate, with noise of its own and of its seed."""

    def run(waiting: Trial) -> Trial:
        point, seed = waiting.point, waiting.key.seed
        assert point is not None
        own = random.Random(f"{point} {waiting.request.earlier_ks} {seed}").gauss(0, noise)
        return completed(waiting, surface(point) + own + random.Random(seed).gauss(0, of_seed))

    return run


def place(point: Candidate) -> tuple[float, float, float]:
    """Lateness, sharpness and log level of a candidate, which every family has."""
    other = Candidate(1.7, 0.37, "polynomial", 1.3, None, 0.05)
    columns = [column[0] for column, _ in coordinates([point, other])]
    return columns[0], columns[1], columns[2]


def bowl(lateness: float, level: float, sharpness: float = 0.0) -> Callable[[Candidate], float]:
    """A smooth surface over the coordinates with its lowest point, 5, at a stated place."""

    def error(point: Candidate) -> float:
        late, sharp, log_level = place(point)
        distance = (late - lateness) ** 2 + 0.3 * (sharp - sharpness) ** 2
        return float(5 + distance + 2 * (log_level - np.log(level)) ** 2)

    return error


def played(spec: StudySpec, outcome: Any, at_once: int | None = None) -> MemoryQueue:
    queue = MemoryQueue(spec, outcome)
    queue.play(at_once)
    return queue


# ---- where candidates lie ---------------------------------------------------------------------

FAMILIES = {
    "polynomial": Candidate(2.3, LEVEL, "polynomial", 1.7, lr_min=0.0),
    "cosine": Candidate(2.3, LEVEL, "cosine", lr_min=0.0),
    "exponential": Candidate(0.6, LEVEL, "exponential", lr_min=0.0),
    "cooldown": Candidate(None, LEVEL, "cooldown", decay_share=0.3, lr_min=0.0),
    "linear-cooldown": Candidate(None, LEVEL, "linear-cooldown", decay_share=0.3, lr_min=0.0),
}


@pytest.mark.parametrize("family", SEARCHED_FAMILIES)
def test_coordinates_are_those_of_the_schedule_s_own_shape(family: str) -> None:
    """Lateness and sharpness in closed form equal those read off the schedule itself."""
    point = FAMILIES[family]
    schedule = joint().candidate_schedule(point)
    times = np.linspace(0, 1, 200_001)
    weights = np.array([schedule.weight(u) for u in times])

    def kappa(q: float) -> float:
        time = times[np.searchsorted(-weights, -q)]
        return float(np.log(np.log(1 - q) / np.log(time)))

    lateness, sharpness, level = place(point)
    assert lateness == pytest.approx(kappa(0.5), abs=1e-3)
    assert sharpness == pytest.approx(kappa(0.9) - kappa(0.25), abs=1e-3)
    assert level == pytest.approx(np.log(LEVEL))


def test_lateness_of_the_plain_polynomial_is_log_k() -> None:
    for k in (0.3, 1.0, 20.0):
        lateness, sharpness, _ = place(Candidate(k, LEVEL, "polynomial", 1.0, lr_min=0.0))
        assert lateness == pytest.approx(np.log(k))
        assert sharpness == pytest.approx(0, abs=1e-9)


# ---- the budget and the baselines -------------------------------------------------------------


@pytest.mark.parametrize("budget", [4, 7, 26])
def test_the_budget_is_kept(budget: int) -> None:
    queue = played(joint(budget=budget), on(bowl(1.0, 0.2), noise=0.5))
    assert queue.plan().progress == Progress.DONE
    assert len(queue.trials) <= budget
    assert len(queue.runs()) == len(queue.trials)  # no run twice


def test_a_search_ends_before_its_budget_when_no_run_is_worth_it() -> None:
    space = {"k": [1.0, 2.0, 4.0], "power": 1.0, "lr_max": LEVEL, "lr_min": 0.0}
    spec = joint(budget=60, space=space | {"family": ["polynomial"]}, baselines=[], max_terms=1)
    queue = played(spec, on(bowl(1.0, 0.1), noise=0.01))
    assert queue.plan().progress == Progress.DONE
    assert len(queue.trials) <= 9


def test_every_baseline_has_its_runs_and_its_own_best_level() -> None:
    plan = played(joint(budget=30), on(bowl(1.2, 0.25), noise=0.3)).plan()
    tuned = {each.name: each for each in plan.stages[0].baselines}
    assert set(tuned) == {"original", "cosine", "cooldown"}  # linear is the original
    fewest = POLICY.baseline_runs[0]
    for each in tuned.values():
        assert each.runs >= fewest
        assert each.candidates >= 2
        assert each.gain is not None
    levels = [each.best.lr_max or 0.0 for each in tuned.values()]
    assert sum(levels) > 2 * len(levels) * LEVEL  # the best level is 2.5 times the file's


def test_baselines_are_those_that_the_study_names() -> None:
    spec = joint(baselines=["exponential"])
    plan = played(spec, on(bowl(1.0, 0.1))).plan()
    assert [each.name for each in plan.stages[0].baselines] == ["original", "exponential"]


def test_a_baseline_that_is_the_best_is_the_answer() -> None:
    """The best place of all is a cooldown's, and only cosines are searched beside the baselines."""
    lateness, sharpness, _ = place(Candidate(None, LEVEL, "cooldown", decay_share=0.2, lr_min=0.0))
    space = {"family": ["cosine"], "k": [0.3, 2.0]}
    surface = bowl(lateness, LEVEL, sharpness)
    plan = played(joint(budget=16, space=space), on(surface)).plan()
    assert plan.incumbent.point is not None
    assert plan.incumbent.point.family == "cooldown"
    assert plan.incumbent.ks == ()
    assert len(plan.stages) == 1
    assert "cooldown over" in plan.incumbent.name
    verdict = judge(plan, "done")
    assert verdict.outcome == Outcome.BETTER
    assert "it is the best cooldown" in verdict.sentence


# ---- what is found ----------------------------------------------------------------------------


@pytest.mark.parametrize(("lateness", "level"), [(-0.9, 0.1), (1.5, 0.3), (0.3, 0.04)])
def test_the_best_of_the_whole_space_is_found(lateness: float, level: float) -> None:
    surface = bowl(lateness, level)
    plan = played(joint(budget=30), on(surface)).plan()
    assert plan.leader.point is not None
    assert surface(plan.leader.point) < 5.2


def test_a_range_is_widened_where_its_best_lies_at_its_edge() -> None:
    space = {"k": [1.0, 4.0, "log"], "family": ["polynomial"]}
    surface = bowl(np.log(0.3), LEVEL)
    plan = played(joint(budget=40, space=space), on(surface)).plan()
    assert plan.leader.point is not None
    assert plan.leader.point.k is not None
    assert plan.leader.point.k < 0.6
    assert plan.stages[0].edges == ()


def test_an_edge_that_a_cap_keeps_is_told() -> None:
    space = {"k": 2.0, "power": 1.0, "family": ["polynomial"], "lr_min": 0.0}
    plan = played(joint(budget=40, space=space), on(bowl(np.log(2), 1000 * LEVEL))).plan()
    assert plan.stages[0].edges == ("lr_max",)
    assert plan.leader.point is not None
    assert plan.leader.point.lr_max is not None
    assert plan.leader.point.lr_max > 8 * LEVEL


def test_lists_and_fixed_values_are_kept_to() -> None:
    space = {"k": [1, 2, 4], "power": 1.0, "lr_max": [0.05, 0.1], "family": ["cosine"]}
    queue = played(
        joint(space=space, lr_min=0.0) if False else joint(space=space), on(bowl(1, 0.1))
    )
    points = [
        trial.point for trial in queue.trials if trial.point and trial.point.family == "cosine"
    ]
    assert {point.k for point in points} <= {1.0, 2.0, 4.0}
    assert {point.lr_max for point in points} == {0.05, 0.1}


def test_a_further_term_is_tried_with_what_is_left_and_all_else_fixed() -> None:
    """The first term settles at once, so that the second stage has runs; it gains nothing."""
    space = {
        "k": [2.0, 4.0],
        "power": 1.0,
        "lr_max": LEVEL,
        "lr_min": 0.0,
        "family": ["polynomial"],
    }

    def error(point: Candidate) -> float:
        return 5.0 + abs((point.k or 1) - 2)

    spec = joint(budget=40, space=space, baselines=[])
    plan = played(spec, on(error, noise=0.02)).plan()
    assert [stage.n for stage in plan.stages] == [1, 2]
    further = plan.stages[1]
    assert plan.leader.ks == (2.0,)
    assert not further.kept
    assert further.earlier_ks == (2.0,)
    assert further.candidates
    for candidate in further.candidates:
        assert candidate.point is not None
        assert candidate.point.k is not None
        assert candidate.point.k > 2.0
        assert candidate.point.without_term() == further.base
    assert further.base == Candidate(None, LEVEL, "polynomial", 1.0, lr_min=0.0)


def test_nothing_is_better_where_nothing_matters() -> None:
    better = 0
    for draw in range(8):
        spec = joint(sampler_seed=draw, budget=12)
        plan = played(spec, on(lambda _point: 10.0, noise=1.0)).plan()
        better += judge(plan, "done").outcome == Outcome.BETTER
    assert better <= 2


# ---- the same for everybody -------------------------------------------------------------------


def runs_of(queue: MemoryQueue) -> list[tuple[RunKey, Candidate | None]]:
    return sorted(((t.key, t.point) for t in queue.trials), key=str)


def test_the_number_of_workers_changes_nothing() -> None:
    spec, outcome = joint(), on(bowl(1.0, 0.2), noise=0.4)
    assert runs_of(played(spec, outcome, 1)) == runs_of(played(spec, outcome, 16))


@pytest.mark.parametrize(("factor", "shift"), [(1e-6, 0.0), (1000.0, -5e6)])
def test_the_metric_s_scale_changes_nothing(factor: float, shift: float) -> None:
    spec, outcome = joint(), on(bowl(1.0, 0.2), noise=0.4)

    def scaled(waiting: Trial) -> Trial:
        done = outcome(waiting)
        assert done.error is not None
        return replace(done, error=done.error * factor + shift)

    plain, other = played(spec, outcome), played(spec, scaled)
    assert runs_of(plain) == runs_of(other)
    assert plain.plan().leader.point == other.plan().leader.point


def test_a_plan_asks_for_nothing_while_runs_are_under_way() -> None:
    queue = MemoryQueue(joint(), on(bowl(1.0, 0.2)))
    queue.reconcile()
    while queue.waiting:
        assert queue.plan().enqueue == ()
        queue.work(1)
    assert queue.plan().enqueue


def test_a_failed_run_is_tried_again_and_then_given_up() -> None:
    spec, good = joint(), on(bowl(1.0, 0.2))
    broken = RunKey(1, 4, 0)
    queue = played(spec, lambda t: failed(t) if t.key == broken else good(t))
    attempts = Counter(trial.key for trial in queue.trials)
    assert attempts[broken] == spec.workers.max_attempts
    assert queue.plan().progress == Progress.DONE


def diverging_above(
    level: float, surface: Callable[[Candidate], float]
) -> Callable[[Trial], Trial]:
    """What ends a run: at a level above this one it diverges."""

    def run(waiting: Trial) -> Trial:
        point = waiting.point
        assert point is not None
        done = on(surface)(waiting)
        return replace(done, error=np.inf) if (point.lr_max or 0) > level else done

    return run


def test_levels_at_which_runs_diverge_are_left() -> None:
    """Everything above a level blows up: the search goes below it, the baselines too."""
    plan = played(joint(budget=40), diverging_above(0.09, bowl(1.0, 0.3))).plan()
    assert plan.leader.errors
    assert plan.leader.lr_max is not None
    assert plan.leader.lr_max <= 0.09
    assert plan.baseline.errors, "the original has a level at which it trains"
    diverged = sum(candidate.diverged for candidate in plan.stages[0].candidates)
    assert diverged < 12, "half of the levels diverge, and no longer draw runs once that is known"


def test_a_design_that_diverges_everywhere_is_followed_by_lower_levels() -> None:
    plan = played(joint(budget=40), diverging_above(LEVEL / 10, bowl(1.0, 0.01))).plan()
    assert plan.progress == Progress.DONE
    assert plan.leader.lr_max is not None
    assert plan.leader.lr_max <= LEVEL / 10
    assert plan.baseline.errors, "the original has a level at which it trains"


def test_a_search_fails_where_every_level_that_may_be_tried_diverges() -> None:
    queue = played(joint(budget=40), diverging_above(0.0, bowl(1.0, 0.01)))
    assert queue.plan().progress == Progress.FAILED
    assert len(queue.trials) < 40


def test_plans_repeat_from_the_records_alone() -> None:
    spec = joint()
    queue = played(spec, on(bowl(1.0, 0.2), noise=0.4))
    shuffled = random.Random(1).sample(queue.trials, len(queue.trials))
    assert make_plan(spec, shuffled) == make_plan(spec, queue.trials)


def test_the_confirmation_compares_with_each_baseline_at_its_own_best() -> None:
    table = json.loads(joint(budget=30).to_json())
    table["confirm"]["seeds"] = 4
    spec = StudySpec.model_validate_json(json.dumps(table))
    plan = played(spec, on(bowl(1.0, 0.3), noise=0.05)).plan()
    assert plan.confirmation is not None
    rows: Mapping[str, Any] = {row.comparator: row for row in plan.confirmation.rows}
    found = plan.incumbent.point
    assert found is not None
    assert {"found", "original", "given"} <= set(rows)
    assert rows["given"].lr_max == LEVEL
    tuned = {each.name: each.best.whole for each in plan.stages[0].baselines}
    assert rows["original"].lr_max == tuned["original"].lr_max  # type: ignore[union-attr]
    assert all(len(row.errors) == 4 for row in rows.values())
    if tuned["cooldown"] != found:
        assert rows["warmup-stable-decay"].name.startswith("cooldown over")


def test_the_confirmation_tells_the_level_s_part_from_the_shape_s() -> None:
    """The surface depends on the level alone: any shape will do at the best level."""
    table = json.loads(joint(budget=24).to_json())
    table["confirm"]["seeds"] = 6
    spec = StudySpec.model_validate_json(json.dumps(table))

    def error(point: Candidate) -> float:
        return float(5 + 3 * np.log((point.lr_max or LEVEL) / (3 * LEVEL)) ** 2)

    plan = played(spec, on(error, noise=0.5)).plan()
    assert plan.confirmation is not None
    told = judge_confirmation(plan.confirmation, plan.format)
    assert told.outcome == Outcome.NO_DIFFERENCE
    assert told.sentence.startswith(
        "On the test set, 6 fresh seeds: better than the study file's own schedule, k = 1 at "
        "lr_max 0.1, lr_min 1 %, by "
    )
    assert "No detectable difference to the original at its own best level, k = 1" in told.sentence
    assert "So the level may be all of the gain." in told.sentence


def test_an_original_that_is_the_best_is_confirmed_against_its_level_in_the_study_file() -> None:
    def error(point: Candidate) -> float:
        is_original = (point.family, point.k, point.power) == ("polynomial", 1.0, 1.0)
        return 5 + 2 * (place(point)[2] - np.log(0.3)) ** 2 + (0 if is_original else 3)

    spec = joint(max_terms=1).model_copy(update={"confirm": ConfirmSpec(seeds=2)})
    queue = played(spec, on(error, noise=0.01))
    plan = queue.plan()
    assert plan.incumbent.point == plan.baseline.point != spec.original
    assert plan.confirmation is not None
    rows = {row.comparator: row for row in plan.confirmation.rows}
    assert {FOUND, ORIGINAL, "cosine"} <= rows.keys()
    assert GIVEN not in rows
    assert rows[ORIGINAL].lr_max == LEVEL
    verdict = judge_confirmation(plan.confirmation, plan.format)
    assert verdict.outcome == Outcome.BETTER
    assert verdict.sentence.startswith("Confirmed: on the test set, 2 fresh seeds, better than k =")


def test_runs_of_the_design_and_of_tuned_baselines_are_not_paused_and_others_are() -> None:
    spec = joint().model_copy(update={"pruning": PruningSpec(enabled=True)})
    half, trials = spec.looks[0], []

    def ended(request: RunRequest) -> Trial:
        error = 5.0 + len(trials) / 10
        return Trial(
            len(trials),
            request,
            State.COMPLETE,
            request.k,
            error=error,
            epochs=20,
            looks={half: error},
            trial_id=len(trials),
        )

    def goes(request: RunRequest) -> bool:
        looked = replace(ended(request), state=State.RUNNING, error=None, epochs=half)
        looked = replace(looked, looks={half: 50.0})
        return goes_on(spec, [*trials, looked], looked.trial_id)

    later = {}
    for decision in range(5):
        requests = make_plan(spec, trials).enqueue
        for request in requests:
            if decision == 0:
                assert goes(request), "what averaged errors tell is learned from the design"
            else:
                later[request.point] = goes(request)
            trials.append(ended(request))
    tuned = spec.schedule_space().baselines
    of_baselines = {p: on for p, on in later.items() if p and any(b.holds(p) for b in tuned)}
    assert of_baselines
    assert all(of_baselines.values())
    assert not all(on for p, on in later.items() if p not in of_baselines)
