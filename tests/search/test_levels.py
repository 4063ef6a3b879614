"""The level of the LR, searched jointly with the first term: the search as a pure function."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kdecay_search.errors import InvalidSpec
from kdecay_search.report import figures
from kdecay_search.report.curves import Curves, shown_trials, thinned
from kdecay_search.report.summary import summarise
from kdecay_search.report.text import study_panel
from kdecay_search.search import Progress, make_plan, runs_at_most
from kdecay_search.search.early_stopping import Curve, should_stop
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage.attributes import read_request, request_attributes
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import AREA_MATCHED, FOUND, ORIGINAL, schedule_of
from kdecay_search.study.file import from_json, load
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, RunKey, RunRequest, State, Trial
from kdecay_search.tasks.simulated import final_error
from tests.search.searches import played
from tests.support.memory_studies import MemoryQueue, completed, failed, simulated, study

LEVELS = (0.05, 0.1, 0.2)


def joint(
    levels: tuple[float, ...] = LEVELS,
    best: float = 3.0,
    best_lr_max: float | None = 0.1,
    noise: float = 0.0,
    prunes: bool = False,
    seeds: int = 3,
    confirm: int = 0,
    **search: Any,
) -> StudySpec:
    surface = {"best_ks": [best], "best_lr_max": best_lr_max, "run_noise": noise,
               "seed_noise": 1.0}  # fmt: skip
    part = {"k_max": 4.0, "k_cap": 4.0, "k_step": 1.0, "max_terms": 1, "lr_max": levels}
    return study(
        surface=surface,
        search=part | {"seeds": seeds} | search,
        pruning={"enabled": prunes},
        confirm={"seeds": confirm, "baselines": ["cosine"]},
    )


def true_error(spec: StudySpec, point: Candidate) -> float:
    assert isinstance(spec.task, SimulatedTask)
    return final_error(spec.task.surface, (point.k,), point.lr_max)


def tried(queue: MemoryQueue) -> dict[Candidate, set[int]]:
    """The seeds on which each candidate of stage 1 ran to its end."""
    found: dict[Candidate, set[int]] = {}
    for trial in queue.trials:
        if trial.state == State.COMPLETE and trial.key.stage == 1:
            assert trial.point is not None
            found.setdefault(trial.point, set()).add(trial.key.seed)
    return found


# ---- what is tried and found ------------------------------------------------------------------


def test_candidates_are_pairs_and_k_1_is_among_them_at_every_level() -> None:
    plan = make_plan(joint(k_min=2.0, k_max=3.0, k_cap=3.0), [])
    points = [candidate.point for candidate in plan.stages[0].candidates]
    assert sorted(p for p in points if p) == [
        Candidate(k, v) for k in (1.0, 2.0, 3.0) for v in LEVELS
    ]
    assert {p.k for p in points[:3] if p} == {1.0}
    assert plan.stages[0].levels == LEVELS


@pytest.mark.parametrize("prunes", [False, True])
def test_the_best_pair_and_the_baseline_s_own_best_level_are_found(prunes: bool) -> None:
    """k = 1 is at its best at 1.35 times the level of the best schedule."""
    spec = joint((0.05, 0.1, 0.135, 0.2), prunes=prunes)
    plan = played(spec).plan()
    assert (plan.incumbent.ks, plan.incumbent.lr_max) == ((3.0,), 0.1)
    assert (plan.baseline.ks, plan.baseline.lr_max) == ((1.0,), 0.135)
    truth = true_error(spec, Candidate(1.0, 0.135)) - true_error(spec, Candidate(3.0, 0.1))
    assert plan.stages[0].gain.mean == pytest.approx(truth)
    assert plan.stages[0].smooth_gain is not None
    assert plan.stages[0].smooth_gain.mean == pytest.approx(truth, abs=0.2)


def test_a_gain_that_a_higher_level_alone_would_give_is_none() -> None:
    """At lr_max 0.1 k = 2 is better than k = 1; but that is better still at 0.2."""
    spec = joint((0.1, 0.2), best=1.0, best_lr_max=0.2)
    assert true_error(spec, Candidate(2.0, 0.1)) < true_error(spec, Candidate(1.0, 0.1))
    plan = played(spec).plan()
    assert (plan.incumbent.ks, plan.incumbent.lr_max) == ((1.0,), 0.2)
    assert not plan.stages[0].kept
    assert plan.leader == plan.baseline


def test_later_stages_keep_the_level_that_was_found() -> None:
    queue = played(joint(best=2.0, max_terms=2, min_gain=0.0, k_step=0.5))
    later = [trial for trial in queue.trials if trial.key.stage == 2]
    assert later
    found = queue.plan().stages[0].best
    assert found is not None
    assert {(t.lr_max, t.request.levels) for t in later} == {(found.lr_max, ())}
    stage = queue.plan().stages[1]
    assert (stage.lr_max, stage.levels) == (found.lr_max, ())
    assert Counter(t.key for t in later) == {t.key: 1 for t in later}


def test_a_grown_grid_tries_the_new_ks_at_every_level_and_keeps_its_numbers() -> None:
    queue = MemoryQueue(joint(best=6.0, k_max=3.0, k_cap=6.0))
    before = [c.point for c in queue.reconcile().stages[0].candidates]
    queue.play()
    after = [c.point for c in queue.plan().stages[0].candidates]
    assert after[: len(before)] == before
    assert sorted(p for p in after if p) == [
        Candidate(float(k), level) for k in range(1, 7) for level in LEVELS
    ]
    assert queue.plan().incumbent.ks == (6.0,)


def test_stated_ks_are_tried_at_every_level() -> None:
    plan = make_plan(joint(ks=[1.0, 2.0, 8.0], k_max=8.0, k_cap=8.0), [])
    assert {c.k for c in plan.stages[0].candidates} == {1.0, 2.0, 8.0}
    assert len(plan.stages[0].candidates) == 9


@pytest.mark.parametrize("prunes", [False, True])
def test_samplers_try_k_1_at_every_level_and_choose_the_rest(prunes: bool) -> None:
    queue = played(joint(sampler="random", trials=8, prunes=prunes))
    assert len(queue.trials) == 8 * 3
    candidates = queue.plan().stages[0].candidates
    assert [c.point for c in candidates if c.k == 1.0] == [
        Candidate(1.0, v) for v in (0.05, 0.2, 0.1)
    ]
    assert all(c.lr_max in LEVELS for c in candidates)
    for candidate in candidates:
        of = {t.point for t in queue.trials if t.key.candidate == candidate.index}
        assert of == {candidate.point}


def test_a_baseline_level_that_always_fails_leaves_the_others() -> None:
    spec = joint()
    works = simulated(spec)

    def run(waiting: Trial) -> Trial:
        return failed(waiting) if waiting.point == Candidate(1.0, 0.1) else works(waiting)

    plan = played(spec, run).plan()
    assert plan.progress == Progress.DONE
    assert plan.baseline.lr_max == 0.2
    assert plan.incumbent.ks == (3.0,)


def test_the_number_of_runs_is_told_beforehand() -> None:
    spec = joint(max_terms=2)
    assert runs_at_most(spec) == [(4 * 3, 4 * 3 * 3), (3, 3 * 3)]
    assert len(played(joint()).trials) == 4 * 3 * 3


# ---- the race ---------------------------------------------------------------------------------


def test_k_1_runs_the_first_seed_at_every_level_and_no_further_one_at_levels_that_lost() -> None:
    queue = played(joint(noise=0.05, prunes=True))
    ran = tried(queue)
    assert all(0 in ran[Candidate(1.0, level)] for level in LEVELS)
    assert ran[Candidate(1.0, 0.1)] == {0, 1}
    assert ran[Candidate(1.0, 0.05)] == ran[Candidate(1.0, 0.2)] == {0}
    assert all(t.request.protected == (t.k == 1.0) for t in queue.trials)


def test_levels_of_the_baseline_that_nobody_can_tell_apart_go_on_together() -> None:
    """By the truth the level makes no difference."""
    together = 0
    for noise_seed in range(5):
        surface = {"best_ks": [3.0], "run_noise": 0.5, "noise_seed": noise_seed}
        spec = study(
            surface=surface,
            search={"k_max": 4.0, "k_cap": 4.0, "k_step": 1.0, "max_terms": 1, "lr_max": LEVELS},
            pruning={"enabled": True},
        )
        ran = tried(played(spec))
        together += sum(1 in ran[Candidate(1.0, level)] for level in LEVELS) > 1
    assert together >= 2


def test_half_of_the_grid_of_pairs_is_trained_at_most() -> None:
    for noise in (0.05, 0.3, 2.0):
        ran = tried(played(joint(noise=noise, prunes=True, k_step=0.5)))
        assert sum(map(len, ran.values())) <= 7 * 3 * 3 / 2


def test_nothing_of_a_further_seed_is_queued_while_it_is_open_at_which_levels() -> None:
    queue = MemoryQueue(joint(prunes=True))
    assert {request.key.seed for request in queue.reconcile().enqueue} == {0}
    queue.work(3)
    assert {request.key.seed for request in queue.reconcile().enqueue} <= {0}


def test_the_baseline_is_the_best_of_its_levels_by_the_model_that_judges_all() -> None:
    plan = played(joint((0.05, 0.1, 0.135, 0.2), noise=0.1, prunes=True)).plan()
    stage = plan.stages[0]
    twice = [c for c in stage.candidates if c.k == 1.0 and len(c.errors) > 1]
    assert plan.baseline.lr_max in {c.lr_max for c in twice}
    assert plan.baseline.errors == next(c.errors for c in twice if c.lr_max == plan.baseline.lr_max)


@settings(deadline=None, max_examples=25)
@given(
    levels=st.lists(st.sampled_from([0.02, 0.05, 0.1, 0.15, 0.3]), min_size=2, max_size=3,
                    unique=True).map(lambda each: tuple(sorted(each))),
    best=st.floats(0.5, 8.0),
    best_lr_max=st.sampled_from([None, 0.05, 0.1, 0.25]),
    seeds=st.integers(1, 4),
    noise=st.sampled_from([0.0, 0.3]),
    terms=st.integers(1, 2),
    prunes=st.booleans(),
    sampler=st.sampled_from(["grid", "random"]),
)  # fmt: skip
def test_any_search_over_levels_accounts_for_every_run_and_compares_with_the_tuned_baseline(
    levels: tuple[float, ...],
    best: float,
    best_lr_max: float | None,
    seeds: int,
    noise: float,
    terms: int,
    prunes: bool,
    sampler: str,
) -> None:
    spec = joint(levels, best, best_lr_max, noise, prunes, seeds, max_terms=terms,
                 sampler=sampler, trials=6)  # fmt: skip
    queue = played(spec)
    plan = queue.plan()
    assert set(Counter(t.key for t in queue.trials).values()) == {1}
    assert all(c.unfinished == 0 for stage in plan.stages for c in stage.candidates)
    assert plan.baseline.lr_max in levels
    assert plan.incumbent.lr_max in levels
    of_baseline = {c.lr_max: c for c in plan.stages[0].candidates if c.k == 1.0}
    assert plan.baseline.errors == of_baseline[plan.baseline.lr_max].errors
    if not prunes and not noise and sampler == "grid":
        lowest = min(true_error(spec, Candidate(1.0, level)) for level in levels)
        assert true_error(spec, Candidate(1.0, plan.baseline.lr_max)) == pytest.approx(lowest)
    if plan.incumbent.ks == (1.0,):
        assert plan.incumbent == plan.baseline


# ---- pruning ----------------------------------------------------------------------------------


def test_a_level_that_is_behind_ends_with_all_its_ks_and_the_baseline_goes_on() -> None:
    spec = study(epochs=12, pruning={"enabled": True})
    ks = (1.0, 2.0, 3.0, 4.0)
    curves = [
        Curve(Candidate(k, level), [10.0 + k + 20 * (level > 0.1)] * 6, protected=k == 1.0)
        for k in ks
        for level in LEVELS
    ]
    ended = {c.point for c in curves if not c.protected and should_stop(spec, c, curves, 9)}
    assert {Candidate(k, 0.2) for k in ks[1:]} <= ended
    assert Candidate(2.0, 0.05) not in ended


# ---- the confirmation -------------------------------------------------------------------------


def test_a_confirmation_trains_every_schedule_at_its_level() -> None:
    spec = joint((0.1, 0.135), best_lr_max=0.1, confirm=3)
    queue = played(spec)
    last = queue.plan().confirmation
    assert last is not None
    requests = {
        t.request.comparator: t.request for t in queue.trials if t.key.stage == CONFIRMATION
    }
    assert {comparator: request.lr_max for comparator, request in requests.items()} == {
        FOUND: 0.1, ORIGINAL: 0.135, AREA_MATCHED: 0.1, "cosine": 0.135
    }  # fmt: skip
    told = {row.comparator: row.lr_max for row in last.rows}
    matched = schedule_of(spec, AREA_MATCHED, (3.0,), lr_max=0.1)
    assert told == {
        FOUND: 0.1,
        ORIGINAL: 0.135,
        AREA_MATCHED: pytest.approx(matched.lr_max),
        "cosine": 0.135,
    }
    assert matched.area(100) == pytest.approx(spec.schedule_for((3.0,), lr_max=0.1).area(100))


def test_a_level_alone_needs_no_confirmation() -> None:
    plan = played(joint(best=1.0, best_lr_max=0.2, confirm=3)).plan()
    assert plan.confirmation is not None
    assert not plan.confirmation.rows
    assert plan.progress == Progress.DONE


# ---- what is told -----------------------------------------------------------------------------


def told(spec: StudySpec) -> tuple[StudySnapshot, str]:
    """The study when it is over, and what ``kdecay status`` prints of it."""
    queue = played(spec)
    snapshot = StudySnapshot(spec, tuple(queue.trials), stopped=False)
    console = Console(width=140, file=io.StringIO())
    console.print(study_panel(snapshot))
    return snapshot, " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_status_names_the_levels_of_both_and_says_that_k_1_was_tuned() -> None:
    _, text = told(joint((0.05, 0.1, 0.135)))
    assert "k = 3 at lr_max 0.1: " in text
    assert "; k = 1 at lr_max 0.135: " in text
    assert "gain on k = 1 at lr_max 0.135" in text
    assert (
        "k = 1 was tried at the same levels as the others, lr_max 0.05, 0.1 and 0.135; it is best "
        "at 0.135. For k = 1, 0.135 is the highest level of all: its best may lie above it." in text
    )


def test_the_json_has_the_level_of_everything() -> None:
    snapshot, _ = told(joint((0.05, 0.1, 0.135), confirm=2))
    summary = summarise(snapshot)
    assert summary["schedule"]["lr_max"] == 0.1
    assert summary["baseline"]["lr_max"] == 0.135
    assert summary["stages"][0]["lr_max"] == 0.1
    pairs = [(c["k"], c["lr_max"]) for c in summary["stages"][0]["candidates"]]
    assert pairs == [(float(k), level) for k in range(1, 5) for level in (0.05, 0.1, 0.135)]
    assert [row["lr_max"] for row in summary["confirm"]["rows"]] == [
        0.1, 0.135, pytest.approx(0.1495), 0.135
    ]  # fmt: skip


def test_figures_have_one_curve_and_one_colour_for_each_level() -> None:
    snapshot, _ = told(joint())
    stage = snapshot.plan.stages[0]
    drawn = {trace.name: trace for trace in figures.error_by_k(snapshot, stage).data}
    colours = {drawn[f"lr_max {level:g}"].line.color for level in LEVELS}
    assert len(colours) == len(LEVELS)
    assert len(drawn["mean"].x) == 4 * len(LEVELS)
    assert set(drawn["mean"].marker.color) == colours
    bars = figures.epochs_by_k(snapshot, stage).data[0]
    assert list(zip(*bars.x, strict=True)) == [
        (f"{k}", f"{level:g}") for k in range(1, 5) for level in LEVELS
    ]
    names = {trace.name for trace in figures.schedules(snapshot).data}
    assert names == {"cosine", "k = 1 at lr_max 0.1, the original", "found: k = 3 at lr_max 0.1"}


def test_curves_of_one_k_at_several_levels_are_told_apart() -> None:
    snapshot, _ = told(joint())
    stage = snapshot.plan.stages[0]
    shown = shown_trials(snapshot, stage)
    assert {t.point for t in shown} >= {Candidate(1.0, 0.1), Candidate(3.0, 0.1)}
    curves = Curves({1: [thinned(t, {"training_loss": [3.0], "averaged_error": [9.0]}, {})
                         for t in shown]})  # fmt: skip
    legend = [
        t for t in figures.training_loss(snapshot, curves, stage).data if t.showlegend is None
    ]
    assert len({t.legendgroup for t in legend}) == len({t.point for t in shown}) == 12
    assert len({t.line.color for t in legend}) == 12


# ---- what tells trainings apart ---------------------------------------------------------------


def test_a_run_at_a_level_is_the_run_of_a_study_with_that_level() -> None:
    spec = joint()
    plain = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"lr_max": 0.2})})
    assert spec.fingerprint((2.0,), 0, lr_max=0.2) == plain.fingerprint((2.0,), 0)
    assert spec.schedule_for((2.0,), lr_max=0.2) == plain.schedule_for((2.0,))
    prints = {spec.fingerprint((2.0,), 0, lr_max=level) for level in LEVELS}
    assert len(prints) == len(LEVELS)


def test_studies_without_levels_are_told_apart_and_stored_as_before_there_were_any() -> None:
    """The digests are those of version 0.1.0 before search.lr_max."""
    spec = study()
    assert spec.fingerprint().hex().startswith("ada4e7b03a23c6c5")
    assert spec.fingerprint((1.0, 2.0), 3).hex().startswith("eb846fb744d3ae38")
    stored = json.loads(spec.to_json())
    assert "lr_max" not in stored["search"]
    assert "best_lr_max" not in stored["task"]["surface"]
    request = RunRequest(RunKey(1, 0, 0), (), 2.0, (1.0, 5.0))
    assert set(request_attributes(request)) == {
        "stage", "candidate", "seed", "earlier_ks", "k", "bounds", "protected"
    }  # fmt: skip


def test_a_spec_with_levels_is_read_back_from_its_storage() -> None:
    spec = joint()
    assert from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "run_request",
    [
        RunRequest(RunKey(1, 4, 0), (), 2.0, (1.0, 5.0), lr_max=0.1, levels=LEVELS),
        RunRequest(RunKey(1, 4, 0), (), None, (1.0, 5.0), levels=LEVELS),
        RunRequest(RunKey(2, 4, 0), (2.0,), 3.0, (1.0, 5.0), lr_max=0.1),
        RunRequest(RunKey(0, 1, 1000), (), 3.0, (3.0, 3.0), True, ORIGINAL, 0.2),
    ],
)
def test_a_token_with_a_level_is_read_back_from_its_attributes(run_request: RunRequest) -> None:
    attributes = json.loads(json.dumps(request_attributes(run_request)))
    assert read_request(attributes) == run_request
    for wrong in (0, -0.1, "0.1", True, [0.1], float("inf"), float("nan")):
        assert read_request(attributes | {"lr_max": wrong}) is None
        assert read_request(attributes | {"levels": [wrong]}) is None
        assert read_request(attributes | {"levels": wrong if wrong != [0.1] else 0.1}) is None


def test_a_foreign_trial_without_a_level_does_not_disturb_a_sampler_s_study() -> None:
    queue = MemoryQueue(joint(sampler="random", trials=5))
    queue.reconcile()
    request = next(trial.request for trial in queue.waiting if trial.k is None)
    stray = Trial(len(queue.trials), request, State.COMPLETE, 1.0, trial_id=99, lr_max=None)
    queue.trials.append(completed(stray, 1.0))
    assert queue.plan().stages[0].candidates[request.key.candidate].point is None


# ---- the study file ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("lr_max = [0.1]", "search.lr_max = [0.1]: must hold 2 to 16 levels; one alone is"),
        ("lr_max = [0.2, 0.1]", "search.lr_max = [0.2, 0.1]: must strictly increase"),
        ("lr_max = [0.0, 0.1]", "search.lr_max.0 = 0.0: must be greater than 0"),
        ("lr_max = 0.1", "search.lr_max = 0.1: must be a valid"),
        ("lr_max = [0.0001, 0.1]", "lr_max = 0.0001 must be at least schedule.lr_min = 0.001"),
        (
            'sampler = "tpe"\ntrials = 3\nlr_max = [0.05, 0.1, 0.2]',
            "needs search.trials of 4 or more: k = 1 is tried at every level",
        ),
        ("k_step = 0.01\nlr_max = [0.1, 0.2]", "gives more than 1000 candidates"),
    ],
)
def test_levels_that_cannot_be_searched_are_refused_in_one_line(
    tmp_path: Any, search: str, message: str
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f'name = "x"\n[task]\nkind = "simulated"\nepochs = 3\n[search]\n{search}\n')
    with pytest.raises(InvalidSpec) as refused:
        load(file)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
