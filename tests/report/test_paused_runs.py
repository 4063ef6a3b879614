"""Running, paused, pruned and never-started runs are told apart wherever a study is shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from kdecay_search.report import contents, figures
from kdecay_search.report.contents import Facts
from kdecay_search.report.curves import shown_trials, thinned
from kdecay_search.report.dashboard.publication import content_of
from kdecay_search.report.forecast import forecast
from kdecay_search.report.summary import summarise
from kdecay_search.report.text import news, study_panel
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from tests.support.memory_studies import study, trial

EPOCHS = 10
SECONDS = {0: 100.0, 1: 100.0, 2: 60.0}


def spec() -> StudySpec:
    search = {"ks": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0], "seeds": 2, "max_terms": 1}
    return study(epochs=EPOCHS, search=search, pruning={"enabled": True})


def shown(*others: Trial) -> StudySnapshot:
    """Two complete runs, one of each other kind, and ``others``."""
    trials = [
        trial(0, 1.0, 12.0, candidate=0, epochs=EPOCHS),
        trial(1, 2.0, 10.0, candidate=1, epochs=EPOCHS),
        trial(2, 1.5, candidate=2, state=State.PAUSED, epochs=6, looks={5: 50.0, 6: 48.0}),
        trial(3, 3.0, candidate=3, state=State.PRUNED, epochs=5),
        trial(4, 4.0, candidate=4, state=State.PRUNED),
        trial(5, 5.0, candidate=5, state=State.RUNNING, epochs=2, worker="me-1"),
    ]
    known = {each.number: each for each in (*trials, *others)}
    return StudySnapshot(spec(), tuple(known.values()), stopped=False)


def rendered(snapshot: StudySnapshot) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(study_panel(snapshot))
    return console.export_text()


def test_status_counts_and_lists_each_kind() -> None:
    text = rendered(shown())
    assert "trials: 1 running, 1 paused, 2 complete, 1 pruned, 1 skipped" in text
    lines = text.splitlines()
    paused = next(i for i, line in enumerate(lines) if line.startswith("paused: "))
    assert lines[paused + 2].split()[:3] == ["1.5", "0", "6/10"]
    assert summarise(shown())["trials"] == {
        "waiting": 0, "running": 1, "paused": 1, "complete": 2, "pruned": 1, "failed": 0,
        "skipped": 1,
    }  # fmt: skip


def test_lines_tell_of_a_pause_and_of_what_becomes_of_it() -> None:
    before = shown()
    assert any(line.endswith("paused after 6 epochs") for line in news(None, before))
    assert news(before, shown()) == []
    (paused,) = [each for each in before.trials if each.state == State.PAUSED]
    done = shown(replace(paused, state=State.COMPLETE, error=11.0, epochs=EPOCHS))
    assert [line.rpartition("  ")[2] for line in news(before, done)] == ["11.00 %"]
    assert content_of(before) != content_of(shown(replace(paused, state=State.PRUNED)))


def test_the_report_states_what_was_saved_in_epochs_and_in_time() -> None:
    """At 10 s an epoch; 5 and 10 epochs were not trained."""
    values = contents.of(Facts(shown(), SECONDS, datetime(2026, 5, 17, tzinfo=UTC)))
    assert values["pruning"] == (
        "1 run ended early, after epoch 5 of 10, and 1 run was skipped. That saved 15 epochs or "
        "2 min of device time, 31 % of what the study would have taken so far. "
        "1 run is paused, after epoch 6 of 10."
    )
    cost = dict(values["cost"])
    assert (cost["epochs trained"], cost["epochs in runs that are paused"]) == ("33", "6")
    assert cost["device-seconds saved"] == "150"


def test_a_run_that_began_anew_says_so() -> None:
    snapshot = shown(trial(5, 5.0, candidate=5, state=State.RUNNING, epochs=2, repeated_epochs=7))
    assert snapshot.epochs_trained == 33 + 7
    sentence = "1 run began anew, and trained 7 epochs twice"
    assert sentence in rendered(snapshot)
    facts = Facts(snapshot, SECONDS, datetime(2026, 5, 17, tzinfo=UTC))
    assert sentence in contents.of(facts)["repetition"]
    assert contents.of(Facts(shown(), SECONDS, facts.written))["repetition"] == ""


def test_figures_show_the_curves_of_paused_and_pruned_runs() -> None:
    snapshot = shown()
    (stage,) = snapshot.plan.stages
    chosen = shown_trials(snapshot, stage)
    assert {each.state for each in chosen} == {
        State.COMPLETE, State.PAUSED, State.PRUNED, State.RUNNING,
    }  # fmt: skip
    curves = [thinned(t, {}, {n: 50.0 - n for n in range(1, t.epochs + 1)}) for t in chosen]
    assert {run.state: run.epochs[-1] for run in curves}[State.PAUSED] == 6
    drawn = figures.epochs_by_k(snapshot, stage, 10.0)
    bars = {bar.name: bar for bar in drawn.data}
    assert sum(bars["paused runs"].y) == 6
    assert bars["complete runs"].customdata[0].startswith(": 2 min<br>")


def test_the_forecast_counts_what_is_left() -> None:
    found = forecast(shown(), SECONDS, workers=4)
    assert found.seconds_per_run == 100.0
    assert found.seconds is not None
    assert found.queued + found.later > 0
    assert found.seconds >= 100.0 * (found.queued + found.later) / 4
