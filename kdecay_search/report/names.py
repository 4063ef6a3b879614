"""What runs, outcomes and levels of the learning rate are called, for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kdecay_search.report import whole
from kdecay_search.report.effort import trials_by_point
from kdecay_search.search import BASELINE_KS, CandidateResult, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import candidate_name, level_name, schedule_name
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial

FORECAST = (
    "P(best) is a forecast, by the smooth curve through the others' runs, where a candidate has no "
    "complete run."
)
"""What ``forecast`` before a P(best) means."""


def counted(count: int, noun: str) -> str:
    """A number of things, such as ``1 run`` or ``2,000 runs``."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def trial_counts(snapshot: StudySnapshot) -> list[tuple[str, int]]:
    """How many trials are in each state, as far as there are any; those that were never started are
    skipped."""
    return [(name, count) for name, count in snapshot.trial_counts.items() if count]


def budget(snapshot: StudySnapshot) -> str:
    """How much of the budget of a search of whole schedules is spent, such as ``9.5 of 30 trainings
    (12 runs begun)``."""
    spent, begun = snapshot.plan.spent, snapshot.plan.begun
    text = f"{spent:.3g} of {snapshot.spec.search.budget} trainings"
    return text if spent == begun else f"{text} ({counted(begun, 'run')} begun)"


def repetition(snapshot: StudySnapshot) -> str:
    """Which runs were trained again from their beginning, in a sentence; empty if none was."""
    again = [trial for trial in snapshot.attempts if trial.repeated_epochs]
    if not again:
        return ""
    length = snapshot.spec.task.length
    epochs = sum(length.position(trial.repeated_epochs) for trial in again)
    return (
        f"{counted(len(again), 'run')} began anew, and trained {length.count(epochs)} twice: the "
        "next worker did not find the checkpoint. Give all workers the same folder (--checkpoints)."
    )


def run_name(trial: Trial, separator: str = "  ") -> str:
    """Which run a trial is an attempt at, such as ``stage 1  k = 2.5  seed 0``."""
    k = "?" if trial.k is None else f"{trial.k:.4g}{level_name(trial.lr_max)}"
    parts = [f"stage {trial.key.stage}", f"k = {k}"]
    if trial.request.point is not None:
        parts[1] = candidate_name(trial.request.point, trial.request.earlier_ks)
    if trial.request.comparator:
        parts = ["confirmation", trial.request.comparator]
    return separator.join([*parts, f"seed {trial.key.seed}"])


def stage_outcome(stage: Stage) -> str:
    """What came of a stage, in a few words such as ``keeps k = 2``."""
    if stage.progress == "running":
        return "running"
    if stage.best is None or stage.best.point is None:
        return "no result"
    if stage.best.whole is not None:
        return whole.outcome(stage)
    if not stage.kept:
        return "keeps no term"
    level = level_name(stage.best.lr_max) if stage.levels else ""
    edge = ", the largest that was tried" if stage.at_edge else ""
    return f"keeps k = {stage.best.k:.4g}{level}{edge}"


def outcomes(candidate: CandidateResult, early: str = "ended early") -> list[str]:
    """How many runs of a candidate have no result, by what became of them.

    Args:
        candidate: A candidate of a stage.
        early: What runs that early stopping ended are called.
    """
    counts = {
        "diverged": candidate.diverged,
        early: candidate.pruned - candidate.skipped,
        "skipped": candidate.skipped,
        "failed": candidate.failed,
        "to go": candidate.unfinished,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def diverged_seeds(snapshot: StudySnapshot, stage: Stage) -> dict[int, list[int]]:
    """The seeds on which candidates of a stage have diverged, ascending, by the candidates' index;
    without candidates that have not."""
    if not any(candidate.diverged for candidate in stage.candidates):
        return {}
    trials = trials_by_point(snapshot, stage)
    return {
        candidate.index: sorted(
            {
                trial.key.seed
                for trial in trials[candidate.point]
                if trial.state == State.COMPLETE and trial.key.seed not in candidate.errors
            }
        )
        for candidate in stage.candidates
        if candidate.diverged and candidate.point in trials
    }


def divergence(stage: Stage) -> str:
    """Which candidates have runs that diverged, in a sentence; empty if there are none."""
    diverged = sorted(
        (c.point, c.diverged) for c in stage.candidates if c.point is not None and c.diverged
    )
    if not diverged:
        return ""
    counts = {candidate_name(at): count for at, count in diverged}
    if sum(counts.values()) == 1:
        return f"A run of {next(iter(counts))} has diverged. It ranks worst and counts in no mean."
    of = ", ".join(f"{count} of {name}" for name, count in counts.items())
    return f"Runs have diverged: {of}. They rank worst and count in no mean."


def is_forecast(candidate: CandidateResult) -> bool:
    """Whether P(best) of a candidate is a forecast: no run of its own is behind it."""
    return candidate.probability is not None and not candidate.errors and not candidate.diverged


def best_chance(candidate: CandidateResult) -> str:
    """P(best) of a candidate as a table shows it, such as ``76%`` or ``forecast 12%``."""
    if candidate.probability is None:
        return ""
    return f"{'forecast ' if is_forecast(candidate) else ''}{candidate.probability:.0%}"


def errors_by_seed(
    stage: Stage, form: MetricFormat, diverged: Mapping[int, Collection[int]]
) -> dict[int, str]:
    """Final values of a stage's runs, as text in one column for each seed.

    A dash stands where a candidate has no result on a seed, but has one on a later seed.

    Args:
        stage: The stage.
        form: The format of the values.
        diverged: Seeds that have diverged, by index of the candidate.

    Returns:
        The texts by index of the candidate.
    """
    texts = {
        candidate.index: {seed: form.number(error) for seed, error in candidate.errors.items()}
        | dict.fromkeys(diverged.get(candidate.index, ()), "diverged")
        for candidate in stage.candidates
    }
    width = max((len(text) for of_candidate in texts.values() for text in of_candidate.values()),
                default=0)  # fmt: skip
    return {
        index: "  ".join(
            by_seed.get(seed, "–").rjust(width) for seed in range(max(by_seed, default=-1) + 1)
        )
        for index, by_seed in texts.items()
    }


def training_data(spec: StudySpec) -> str:
    """What a study trains on: ``images``, or ``data`` where users' code decides."""
    return "data" if spec.task.kind in ("python", "command") else "images"


def tuning(snapshot: StudySnapshot) -> str:
    """How the level of the learning rate was tuned for the original and for the found schedule.

    Returns:
        Sentences that name the levels tried and chosen, and say which choice is at an edge; empty
        if the level was not searched or the original has no result yet.
    """
    levels, plan = snapshot.spec.search.lr_max, snapshot.plan
    baseline, leader = plan.baseline, plan.leader
    if not levels or baseline.lr_max is None or not baseline.errors:
        return ""
    so_far = "" if plan.stages[0].progress == "done" else " so far"
    listed = f"{', '.join(f'{each:.4g}' for each in levels[:-1])} and {levels[-1]:.4g}"
    text = f"k = 1 was tried at the same levels as the others, lr_max {listed}; "
    text += f"it is best at {baseline.lr_max:.4g}{so_far}."
    chosen = {baseline.ks: baseline.lr_max}
    if leader.ks != BASELINE_KS and leader.lr_max is not None:
        chosen[leader.ks] = leader.lr_max
    edges = {levels[0]: ("lowest", "below"), levels[-1]: ("highest", "above")}
    for ks, level in chosen.items():
        if level in edges:
            side, beyond = edges[level]
            text += f" For {schedule_name(ks)}, {level:.4g} is the {side} level of all: "
            text += f"its best may lie {beyond} it."
    return text
