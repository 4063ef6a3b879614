"""Schedules of every kind that a search can find, and their generated source, executed."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.kdecay import FAMILIES, KDecaySchedule

MOST_WARMUP = 20


def _rates(draw: st.DrawFn) -> dict[str, Any]:
    """The settings that all kinds have: a level, a floor from 0 up to it, and a warm-up."""
    lr_max = draw(st.floats(1e-5, 10.0))
    share = draw(st.sampled_from([0.0, 0.01, 1.0]) | st.floats(0.0, 1.0))
    return {
        "lr_max": lr_max,
        "lr_min": lr_max * share,
        "warmup_steps": draw(st.sampled_from([0, 1]) | st.integers(0, MOST_WARMUP)),
    }


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule that a search can find, with warm-ups of up to ``MOST_WARMUP`` updates."""
    kind = draw(st.sampled_from([*FAMILIES, "cooldown"]))
    if kind == "cooldown":
        return WarmupStableDecay(
            decay_share=draw(st.floats(0.01, 1.0)),
            decay=draw(st.sampled_from(["1-sqrt", "linear"])),
            **_rates(draw),
        )
    terms = st.lists(st.floats(0.1, 100.0), min_size=1, max_size=4, unique=True)
    power = draw(st.floats(0.2, 8.0)) if kind == "polynomial" else 1.0
    return KDecaySchedule(kind, tuple(draw(terms.map(sorted))), power, **_rates(draw))


def executed(source: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """The names that the source defines, beside those given. It must not need this package."""
    assert "kdecay_search" not in source
    names = dict(names or {})
    exec(source, names)
    return names


def all_rates(schedule: Schedule, total_steps: int) -> list[float]:
    """The schedule's rate at every step from 0 to ``total_steps``."""
    return [schedule(step, total_steps) for step in range(total_steps + 1)]
