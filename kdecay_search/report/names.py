"""What schedules and outcomes are called, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdecay_search.search import BASELINE_KS, CandidateResult, Stage
from kdecay_search.snapshot import StudySnapshot


def terms(ks: Iterable[float], lr_max: float | None = None) -> str:
    """``k = 2`` or ``k = 2, 6.5``; ``k = 2 at lr_max 0.1`` where the level was searched."""
    return "k = " + ", ".join(f"{k:.4g}" for k in ks) + level(lr_max)


def level(lr_max: float | None) -> str:
    """`` at lr_max 0.1``; nothing where the level was not searched."""
    return "" if lr_max is None else f" at lr_max {lr_max:.4g}"


def tuning(snapshot: StudySnapshot) -> str:
    """That k = 1 was tuned as the others were, and with what result; nothing where the level was
    not searched, or has no result yet."""
    levels, plan = snapshot.spec.search.lr_max, snapshot.plan
    base = plan.baseline
    if not levels or base.lr_max is None or not base.errors:
        return ""
    so_far = "" if plan.stages[0].progress == "done" else " so far"
    listed = f"{', '.join(f'{each:.4g}' for each in levels[:-1])} and {levels[-1]:.4g}"
    text = f"k = 1 was tried at the same levels as the others, lr_max {listed}; "
    text += f"it is best at {base.lr_max:.4g}{so_far}."
    names = {terms(base.ks): base.lr_max}
    if plan.leader.ks != BASELINE_KS and plan.leader.lr_max is not None:
        names[terms(plan.leader.ks)] = plan.leader.lr_max
    for name, chosen in names.items():
        text += _edge(name, chosen, levels)
    return text


def _edge(name: str, chosen: float, levels: Sequence[float]) -> str:
    if levels[0] < chosen < levels[-1]:
        return ""
    side, beyond = ("highest", "above") if chosen == levels[-1] else ("lowest", "below")
    return f" For {name}, {chosen:.4g} is the {side} level of all: its best may lie {beyond} it."


def errors_by_seed(stage: Stage) -> dict[int, str]:
    """Final errors (%) by candidate, a column for each seed: a dash where the candidate has none,
    but has on a later one."""
    told = {c.index: {s: f"{error:.2f}" for s, error in c.errors.items()} for c in stage.candidates}
    width = max((len(text) for each in told.values() for text in each.values()), default=0)
    return {
        index: "  ".join(
            own.get(seed, "–").rjust(width) for seed in range(max(own, default=-1) + 1)
        )
        for index, own in told.items()
    }


def outcomes(candidate: CandidateResult, early: str = "ended early") -> list[str]:
    """How many runs of a candidate have no result, by what became of them."""
    counts = {
        early: candidate.pruned - candidate.skipped,
        "not needed": candidate.skipped,
        "failed": candidate.failed,
        "to go": candidate.unfinished,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def rival(stage: Stage, snapshot: StudySnapshot) -> str:
    """What the stage is compared with."""
    if stage.earlier_ks:
        return terms(stage.earlier_ks, stage.lr_max)
    return terms(BASELINE_KS, snapshot.plan.baseline.lr_max)
