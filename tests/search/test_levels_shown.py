"""A searched level in the confirmation, in what is shown, in storage and in the study file."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from kdecay_search.errors import InvalidSpec
from kdecay_search.report import figures
from kdecay_search.report.curves import Curves, shown_trials, thinned
from kdecay_search.report.summary import summarise
from kdecay_search.report.text import study_panel
from kdecay_search.search import Progress
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage.attributes import read_request, request_attributes
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import AREA_MATCHED, FOUND, ORIGINAL, schedule_of
from kdecay_search.study.file import from_json, load
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, RunKey, RunRequest, State, Trial
from tests.search.levels import LEVELS, joint
from tests.search.searches import played
from tests.support.memory_studies import MemoryQueue, completed, study

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
