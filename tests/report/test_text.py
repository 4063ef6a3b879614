from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from kdecay_search.report.text import (
    news,
    studies_table,
    study_panel,
)
from kdecay_search.search import Progress
from kdecay_search.snapshot import StudySnapshot, overview
from kdecay_search.study.trials import State, Trial
from tests.support.memory_studies import (
    MemoryQueue,
    completed,
    failed,
    pruned,
    simulated,
    stated,
    study,
    trial,
)
from tests.support.snapshots import ended, seen, spec


def begun(**keys: Any) -> MemoryQueue:
    queue = MemoryQueue(spec(**keys))
    queue.reconcile()
    return queue


def rendered(renderable: RenderableType, width: int = 120) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def line_with(text: str, part: str) -> str:
    return next(line for line in text.splitlines() if part in line)


BETTER = stated({1.0: [10.0, 12.0, 11.0], 2.0: [8.0, 10.1, 8.9], 3.0: [9.0, 11.0, 10.0]})
UNCLEAR = stated({1.0: [10.0, 12.0, 11.0], 2.0: [8.0, 12.5, 11.2], 3.0: 20.0})
WORSE = stated({1.0: [10.0, 12.0, 11.0], 2.0: 20.0, 3.0: 30.0})


# ---- the verdict ----------------------------------------------------------------------------


def test_study_without_a_result_says_so() -> None:
    assert seen(begun()).verdict.sentence == "No run is complete yet."


def test_original_that_is_best_is_called_so_with_its_error() -> None:
    sentence = ended(WORSE).verdict.sentence
    assert (
        sentence
        == "No detectable difference: nothing is better than the original, k = 1: 11.00 ± 1.00 %."
    )


def test_clear_gain_is_told_with_interval_and_number_of_seeds() -> None:
    """By the smooth curve, which k = 3 has a say in; of the pairs alone the gain is 2.00."""
    snapshot = ended(BETTER)
    gain = snapshot.plan.stages[0].smooth_gain
    assert gain is not None
    assert 1.5 < gain.interval[0] < gain.mean < gain.interval[1] < 2.5
    assert snapshot.verdict.sentence == (
        "k = 2: 9.00 ± 1.05 %; k = 1: 11.00 ± 1.00 %. "
        f"Better by {gain.mean:.2f} points (95 % interval {gain.interval[0]:.2f} to "
        f"{gain.interval[1]:.2f}, by a smooth curve through all runs; paired over 3 seeds: +2.00)."
    )


def test_gain_of_two_terms_is_the_sum_of_the_stages_gains() -> None:
    """Gains 2.0, 1.9, 2.1 on k = 1; of the stages one and one."""
    second = stated(
        {1.0: [10.0, 12.0, 11.0], 2.0: [9.0, 11.1, 10.0], 3.0: [9.5, 11.6, 10.5]},
        {3.0: [8.0, 10.1, 8.9]},
    )
    snapshot = ended(second, max_terms=2)
    gains = [stage.smooth_gain for stage in snapshot.plan.stages]
    assert len(gains) == 2
    mean = sum(gain.mean for gain in gains if gain is not None)
    assert mean == pytest.approx(2.0, abs=0.3)
    sentence = snapshot.verdict.sentence
    assert f"Better by {mean:.2f} points (95 % interval " in sentence
    assert "by the stages' smooth curves through all runs; paired over 3 seeds: +2.00)." in sentence


def test_gain_within_the_noise_is_no_detectable_difference() -> None:
    """Gains 2.0, −0.5, −0.2: the mean is 0.43, and the interval holds 0."""
    sentence = ended(UNCLEAR).verdict.sentence
    assert sentence.startswith("k = 2: ")
    assert "No detectable difference: +" in sentence
    assert "points (95 % interval -" in sentence
    assert sentence.endswith("paired over 3 seeds: +0.43).")


def test_gain_of_one_seed_is_too_few_to_tell() -> None:
    sentence = ended(BETTER, seeds=1).verdict.sentence
    assert sentence.startswith("Too few runs to tell a gain from noise: ")
    assert sentence.endswith(", +2.00 points paired over 1 seed.")


def test_result_without_the_original_to_compare_with_says_so() -> None:
    snapshot = ended(lambda waiting: failed(waiting) if waiting.k == 1.0 else BETTER(waiting))
    assert snapshot.verdict.sentence == (
        "Too few runs: k = 2: 9.00 ± 1.05 %; the original, k = 1, has no result to compare with."
    )


def test_complete_run_of_another_candidate_is_a_complete_run() -> None:
    """The original is still running; another candidate has finished first."""
    queue = begun()
    other = next(t for t in queue.waiting if t.k == 2.0)
    queue.put(completed(other, 9.0))
    assert seen(queue).verdict.sentence != "No run is complete yet."


def test_better_candidate_of_a_running_stage_is_not_denied() -> None:
    queue = begun()
    for waiting in queue.waiting:
        if waiting.key.seed < 2:
            queue.put(BETTER(waiting))
    assert seen(queue).state == "running"
    assert "No detectable difference" not in seen(queue).verdict.sentence


# ---- news -----------------------------------------------------------------------------------


def test_news_tells_each_ended_trial_once() -> None:
    queue = begun(seeds=1)
    before = seen(queue)
    first, second, third = queue.waiting
    queue.put(completed(first, 10.456))
    queue.put(replace(pruned(second), epochs=2))
    now = seen(queue)
    assert news(before, now) == [
        f"stage 1  k = {first.k:g}  seed 0  10.46 %",
        f"stage 1  k = {second.k:g}  seed 0  pruned after 2 epochs",
    ]
    assert news(now, now) == []
    queue.put(replace(third, state=State.RUNNING))
    assert news(now, seen(queue)) == []


def test_news_of_a_failure_give_its_reason() -> None:
    queue = begun()
    before = seen(queue)
    queue.put(failed(queue.waiting[0], "error"))
    assert news(before, seen(queue)) == ["stage 1  k = 1  seed 0  failed, error: it broke"]


def test_news_of_a_failure_before_the_sampler_chose_have_no_k() -> None:
    queue = begun(sampler="tpe", trials=3)
    before = seen(queue)
    queue.put(failed(next(t for t in queue.waiting if t.k is None)))
    assert news(before, seen(queue)) == ["stage 1  k = ?  seed 0  failed, error: it broke"]


def test_news_from_the_beginning_are_everything() -> None:
    snapshot = ended(BETTER)
    lines = news(None, snapshot)
    assert len(lines) == 9 + 1
    assert lines[-1] == "stage 1 is over: keeps k = 2"


def test_news_of_a_stage_come_once_and_in_order() -> None:
    better = stated({1.0: 10.0, 2.0: 5.0, 3.0: 9.0}, {3.0: 5.0})
    queue = MemoryQueue(spec(max_terms=2), better)
    before, lines = seen(queue), []
    while queue.reconcile().progress == Progress.RUNNING:
        queue.work(1)
        now = seen(queue)
        lines += news(before, now)
        before = now
    over = [line for line in lines if "is over" in line]
    assert over == ["stage 1 is over: keeps k = 2", "stage 2 is over: keeps no term"]
    assert len(lines) == len(queue.trials) + 2


def test_news_of_a_term_at_the_edge_say_so() -> None:
    snapshot = ended(stated({1.0: 10.0, 2.0: 5.0, 3.0: 4.0}))
    assert news(None, snapshot)[-1] == "stage 1 is over: keeps k = 3, the largest that was tried"


def test_news_of_a_stage_in_which_all_failed() -> None:
    assert news(None, ended(failed))[-1] == "stage 1 is over: no result"


# ---- the panel ------------------------------------------------------------------------------


def test_panel_of_a_study_that_has_not_begun_renders() -> None:
    text = rendered(study_panel(StudySnapshot(spec(), (), False)))
    assert "small  running  trials: none" in text
    assert "epochs: 0 of 27 planned" in text
    assert "No run is complete yet." in text


def test_panel_of_a_finished_study_has_every_candidate_with_its_errors() -> None:
    snapshot = ended(BETTER)
    gain = snapshot.plan.stages[0].smooth_gain
    assert gain is not None
    text = rendered(study_panel(snapshot))
    assert "small  done  trials: 9 complete" in text
    assert "stage 1: term k1  keeps k = 2" in text
    row = line_with(text, "8.00  10.10   8.90")
    assert row.split() == ["2", "8.00", "10.10", "8.90", "9.00", "+2.00", "100%", "best"]
    assert "█" in line_with(text, "polynomial, LR 0.1 to 0.001")
    assert f"Better by {gain.mean:.2f} points" in text


def test_panel_of_a_running_study_shows_running_trials_and_time_left() -> None:
    queue = begun()
    first, second = queue.waiting[:2]
    queue.put(replace(first, state=State.RUNNING, epochs=2, averaged_error=33.333, worker="me-1"))
    queue.put(completed(second, 10.0))
    text = rendered(study_panel(seen(queue), seconds_left=42.0))
    assert "1 complete" in text
    assert "1 running" in text
    assert "7 waiting" in text
    assert "about 42 s left in this stage" in text
    assert line_with(text, "me-1").split() == ["1", "0", "2/3", "33.33", "me-1"]
    assert "2 to go" in text


def test_panel_shows_some_of_many_running_trials() -> None:
    queue = begun(seeds=5)
    for waiting in queue.waiting:
        queue.put(replace(waiting, state=State.RUNNING))
    text = rendered(study_panel(seen(queue)))
    assert "and 7 more" in text


def test_panel_of_a_stopped_study_says_stopped() -> None:
    assert "small  stopped" in rendered(study_panel(seen(begun(), stopped=True)))


def test_panel_of_a_study_that_ended_before_it_was_stopped_says_done() -> None:
    queue = MemoryQueue(spec(), BETTER)
    queue.play()
    assert "small  done" in rendered(study_panel(seen(queue, stopped=True)))


def test_panel_of_a_study_of_one_candidate_renders() -> None:
    text = rendered(study_panel(ended(stated({1.0: 10.0}), k_max=1.0, k_cap=1.0)))
    assert "keeps no term" in text
    assert "nothing is better than the original" in text


def test_panel_of_a_failed_study_gives_the_last_reason() -> None:
    text = rendered(study_panel(ended(failed)))
    assert "small  failed  trials: 27 failed" in text
    assert "27 failed trials; the last: stage 1  k = " in text
    assert line_with(text, "27 failed trials").rstrip().endswith("seed 2  failed, error: it broke")
    assert "no result" in text


def test_panel_of_a_failure_with_brackets_in_its_message_renders() -> None:
    queue = begun()
    queue.put(replace(failed(queue.waiting[0]), message="bad shape [/3, 4] in [bold]conv1"))
    assert "bad shape [/3, 4] in [bold]conv1" in rendered(study_panel(seen(queue)))


def test_panel_of_a_failure_before_the_sampler_chose_does_not_speak_of_none() -> None:
    queue = begun(sampler="tpe", trials=3)
    queue.put(failed(next(t for t in queue.waiting if t.k is None)))
    assert "None" not in rendered(study_panel(seen(queue)))


def test_panel_of_a_worker_with_brackets_in_its_name_renders() -> None:
    queue = begun()
    queue.put(replace(queue.waiting[0], state=State.RUNNING, worker="node[/7]-42"))
    assert "node[/7]-42" in rendered(study_panel(seen(queue)))


def test_panel_of_a_sampler_counts_what_is_still_to_be_chosen() -> None:
    queue = begun(sampler="tpe", trials=5)
    assert "4 still to be chosen by the sampler" in rendered(study_panel(seen(queue)))


def test_panel_of_a_finished_sampler_study_is_sorted_by_k() -> None:
    queue = MemoryQueue(spec(sampler="random", trials=5))
    queue.play()
    text = rendered(study_panel(seen(queue)))
    ks = sorted(c.k for c in seen(queue).plan.stages[0].candidates if c.k is not None)
    header = next(i for i, row in enumerate(text.splitlines()) if "errors by seed" in row)
    rows = text.splitlines()[header + 1 : header + 6]
    assert [row.split()[0] for row in rows] == [f"{k:.4g}" for k in ks]
    assert "still to be chosen" not in text


def test_panel_of_several_stages_names_the_terms_before() -> None:
    better = stated({1.0: 10.0, 2.0: 5.0, 3.0: 9.0}, {3.0: [4.0, 4.5, 5.0]})
    snapshot = ended(better, max_terms=2)
    best = snapshot.plan.stages[1].best
    assert best is not None
    assert best.probability is not None
    text = rendered(study_panel(snapshot))
    assert "stage 2: term k2 after k = 2" in text
    assert "gain on k = 2" in text
    row = line_with(text, "4.00  4.50  5.00")
    chance = f"{best.probability:.0%}"
    assert row.split() == ["3", "4.00", "4.50", "5.00", "4.50", "+0.50", chance, "best"]
    assert "k = 2, 3: 4.50 ± 0.50 %" in text


def test_panel_notes_what_was_pruned_and_what_failed() -> None:
    def outcome(waiting: Trial) -> Trial:
        if waiting.k == 2.0:
            return pruned(waiting)
        return failed(waiting) if waiting.k == 3.0 else simulated(spec())(waiting)

    text = rendered(study_panel(ended(outcome)))
    assert "3 pruned" in text
    assert "3 failed" in text


def test_panel_calls_runs_that_were_never_started_skipped() -> None:
    search = {"k_max": 3.0, "k_cap": 3.0, "k_step": 0.5, "max_terms": 1, "seeds": 3}
    queue = MemoryQueue(study(search=search, pruning={"enabled": True}))
    queue.play()
    snapshot = seen(queue)
    skipped = sum(candidate.skipped for candidate in snapshot.plan.stages[0].candidates)
    assert skipped > 0
    text = rendered(study_panel(snapshot))
    assert f" {skipped} skipped  epochs:" in text
    assert "pruned" not in text
    assert sum(map(int, re.findall(r"(\d+) skipped *$", text, re.MULTILINE))) == skipped


@pytest.mark.parametrize("width", [20, 60, 200])
def test_panel_renders_at_any_width(width: int) -> None:
    lines = rendered(study_panel(ended(BETTER)), width).splitlines()
    assert max(map(len, lines)) <= width


def test_table_of_studies_has_a_row_each() -> None:
    text = rendered(studies_table(map(overview, [ended(BETTER), seen(begun()), ended(failed)])))
    assert line_with(text, "done").split()[:2] == ["small", "done"]
    assert "9.00 ± 1.05" in line_with(text, "done")
    assert "11.00 ± 1.00" in line_with(text, "done")
    assert "9 waiting" in text
    assert line_with(text, "failed").split()[-2:] == ["27", "failed"]


def test_trials_withdrawn_are_not_called_failures() -> None:
    queue = begun()
    queue.trials.append(replace(trial(99, 1.0), state=State.FAILED, reason="withdrawn"))
    assert "failed trials; the last" not in rendered(study_panel(seen(queue)))
