"""A search of whole schedules as text, as JSON and as source."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from kdecay_search.errors import StudyError
from kdecay_search.report import whole
from kdecay_search.report.charts import study_charts
from kdecay_search.report.contents import Facts
from kdecay_search.report.dashboard.note import stage_note
from kdecay_search.report.page import report_page
from kdecay_search.report.summary import summarise
from kdecay_search.report.text import studies_table, study_panel
from kdecay_search.report.winner import winner_as
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.export import Form
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.snapshot import StudySnapshot, overview
from kdecay_search.study.candidate import Candidate
from tests.support.joint_studies import COOLED, RUNS, joint, joint_spec, two_terms
from tests.support.joint_studies import whole as candidate
from tests.support.metric_studies import curves_of

FOUND = "k = 4.1, N = 1.1 at lr_max 0.21, lr_min 1 %"
COOLDOWN = "cooldown over 30 % at lr_max 0.22, lr_min 1 %"
OTHER_FORMS = (Form.JSON, Form.TIMM, Form.KERAS, Form.OPTAX, Form.NANOGPT)
"""Forms without a function learning_rate of a module: tests/schedules executes these."""


def shown(snapshot: StudySnapshot, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(study_panel(snapshot))
    return console.export_text()


# ---- the schedule itself ---------------------------------------------------------------------


def test_the_schedule_of_a_snapshot_has_every_parameter_that_was_found() -> None:
    found, original = joint().schedule, joint().original
    assert found == KDecaySchedule("polynomial", (4.1,), 1.1, 0.21, 0.0021, 0)
    assert original == KDecaySchedule("polynomial", (1.0,), 1.0, 0.2, 0.004, 0)
    cooldown = joint(COOLED).schedule
    assert cooldown == WarmupStableDecay(lr_max=0.22, lr_min=0.0022, decay_share=0.3)


def test_json_states_every_parameter_of_the_schedule_the_candidates_and_the_baselines() -> None:
    stated = json.loads(json.dumps(summarise(joint()), allow_nan=False))
    assert stated["schedule"] == {
        "name": FOUND,
        "family": "polynomial",
        "ks": [4.1],
        "power": 1.1,
        "lr_max": 0.21,
        "lr_min": 0.0021,
        "lr_min_share": 0.01,
        "warmup_epochs": 0.0,
    }
    runs = sum(count for _, count in RUNS)
    assert stated["budget"] == {"runs": runs, "begun": runs, "spent": runs}
    assert stated["epochs"]["planned"] == 3 * runs
    assert stated["baseline"]["lr_min_share"] == 0.02
    (stage,) = stated["stages"]
    assert stage["best"]["name"] == FOUND
    assert stage["edges"] == []
    cooldown = next(c for c in stage["candidates"] if c["lr_max"] == 0.22)
    parameters = {"k": None, "family": "cooldown", "decay_share": 0.3, "lr_min_share": 0.01}
    assert {key: cooldown[key] for key in parameters} == parameters
    assert "power" not in cooldown
    names = [each["name"] for each in stated["baselines"]]
    assert names == ["original", "cosine", "cooldown"]
    cosine = stated["baselines"][1]
    assert (cosine["candidates"], cosine["runs"]) == (2, 3)
    assert cosine["schedule"]["lr_max"] == 0.25
    low, high = cosine["interval95"]
    assert 0 < low < cosine["gain"] < high


def test_json_of_a_cooldown_has_its_length_and_no_terms() -> None:
    stated = summarise(joint(COOLED))["schedule"]
    assert stated["ks"] == []
    assert stated["decay_share"] == 0.3
    assert "power" not in stated


# ---- the terminal ----------------------------------------------------------------------------


def test_the_terminal_shows_the_best_candidates_the_columns_that_vary_and_tuned_baselines() -> None:
    text = shown(joint())
    assert f"stage 1: whole schedules  found {FOUND}" in text
    heading = next(line for line in text.splitlines() if "family" in line)
    assert heading.split()[:6] == ["family", "k", "N", "decay", "lr_max", "lr_min"]
    assert "warm-up" not in heading, "it is the same of all"
    rows = text[text.index(heading) :].splitlines()[1:]
    assert rows[0].split()[:5] == ["polynomial", "4.1", "1.1", "0.21", "1"]
    assert rows[0].rstrip().endswith("best")
    assert f"and {len(RUNS) - whole.MOST_ROWS} other candidates" in text
    tuned = text[text.index("usual schedules, equally tuned") :]
    assert "original, k = 1  lr_max 0.2, lr_min 2 %" in tuned
    assert "budget: 20 of 20 trainings" in text
    assert "polynomial, LR 0.21 to 0.0021" in text


def test_a_baseline_that_is_the_best_is_the_answer() -> None:
    text = shown(joint(COOLED, max_terms=2))
    assert f"found {COOLDOWN}" in text
    assert "it is the best" in text
    assert "No further term was tried: a cooldown has none." in text
    assert "cooldown, LR 0.22 to 0.0022" in text


def test_a_spent_budget_is_why_no_further_term_was_tried() -> None:
    snapshot = joint(max_terms=2)
    reason = "No further term was tried: the budget does not allow it (it is spent)."
    assert whole.no_further_term(snapshot) == reason
    assert whole.no_further_term(joint()) == "", "none was asked for"
    assert whole.no_further_term(joint(runs=9)) == "", "it is running"


def test_a_further_term_is_shown_with_what_it_was_added_to() -> None:
    snapshot = two_terms()
    text = shown(snapshot, width=140)
    assert "stage 1: whole schedules  found k = 4 at lr_max 0.1, lr_min 1 %" in text
    after = "stage 2: term k2 after k = 4 at lr_max 0.1, lr_min 1 %"
    assert f"{after}  a further term is worth nothing" in text
    assert summarise(snapshot)["stages"][1]["best"]["name"].startswith("k = 4, ")
    note = stage_note(snapshot, snapshot.plan.stages[1], {1: 1, 2: 2})
    assert "### Stage 2 of `joint`: the term k2\n" in note
    assert "with one k2 and one of 3 seeds" in note
    assert "a further term is worth nothing" in report_page(
        Facts(snapshot, {}, datetime.now(UTC)), curves_of(snapshot)
    )
    assert study_charts(snapshot, 100) is not None


def test_a_running_study_is_shown_as_far_as_it_is() -> None:
    text = shown(joint(runs=9))
    assert "stage 1: whole schedules  running" in text
    assert "budget: 9 of 20 trainings" in text


@pytest.mark.parametrize(
    ("name", "point", "wanted"),
    [
        (
            "lr_max",
            candidate(lr_max=1.6),
            "may be searched (16 times 0.1, the middle of its range)",
        ),
        (
            "power",
            candidate(power=4.0),
            "was searched, 0.5 to 4, and no budget is left to widen it",
        ),
        ("k", candidate(k=200.0), "may be searched (200)"),
    ],
)
def test_a_best_at_an_edge_is_told(name: str, point: Candidate, wanted: str) -> None:
    stage = joint().plan.stages[0]
    assert stage.best is not None
    at_edge = replace(stage, best=replace(stage.best, whole=point), edges=(name,))
    (sentence,) = whole.edges(at_edge, joint_spec())
    assert wanted in sentence
    assert sentence.startswith(f"The best {'N' if name == 'power' else name}, ")


def test_a_list_of_studies_names_the_whole_schedule() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(studies_table([overview(joint(COOLED)), overview(joint())]))
    text = console.export_text()
    assert COOLDOWN in text
    assert FOUND in text


# ---- best ------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [None, COOLED])
@pytest.mark.parametrize("form", [form for form in Form if form not in OTHER_FORMS])
def test_every_form_has_the_rates_of_the_found_schedule(best: object, form: Form) -> None:
    snapshot = joint() if best is None else joint(COOLED)
    text = winner_as(snapshot, form, 40)
    wanted = [snapshot.schedule(step, 40) for step in range(41)]
    if form == Form.CSV:
        rates = [float(line.split(",")[1]) for line in text.splitlines()[1:]]
    else:
        function = text[text.index("def learning_rate") :].split("\n\n\n")[0]
        names: dict[str, object] = {}
        exec("import math\n" + function, names)
        rates = [names["learning_rate"](step) for step in range(41)]  # type: ignore[operator]
    assert rates == wanted


def test_timm_has_the_found_power_and_a_cooldown() -> None:
    assert "power=1.1" in winner_as(joint(), Form.TIMM)
    assert "Scheduler" in winner_as(joint(COOLED), Form.TIMM)


def test_a_searched_warm_up_is_counted_in_the_updates_of_the_user_s_training() -> None:
    point = candidate(k=4.1, power=1.1, lr_max=0.21, warmup=0.1)
    snapshot = joint()
    runs = tuple(
        replace(t, request=replace(t.request, point=point)) if t.key.candidate == 12 else t
        for t in snapshot.trials
    )
    warmed = StudySnapshot(snapshot.spec, runs, stopped=False)
    assert warmed.plan.leader.name.endswith("warm-up 10 %")
    with pytest.raises(StudyError, match="give --total-steps"):
        winner_as(warmed, Form.PYTHON)
    assert "if step < 40:" in winner_as(warmed, Form.PYTHON, 400)
    stated = summarise(warmed)["schedule"]
    assert (stated["warmup_share"], stated["warmup_epochs"]) == (0.1, 0.3)
