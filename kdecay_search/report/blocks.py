"""Bars and curves drawn with block characters."""

from __future__ import annotations

from kdecay_search.schedules.base import Schedule

BLOCKS = "▁▂▃▄▅▆▇█"
"""Block characters by height."""
CURVE_WIDTH = 32
"""Characters of a curve."""


def bar(share: float, width: int) -> str:
    """A horizontal bar that fills a share (0 to 1) of ``width`` characters."""
    return "█" * round(share * width)


def curve(schedule: Schedule, width: int = CURVE_WIDTH) -> str:
    """The schedule over training as one line of blocks, without its warm-up."""
    steps = width - 1
    shares = (
        schedule(i + schedule.warmup_steps, steps + schedule.warmup_steps) for i in range(width)
    )
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round(rate / schedule.lr_max * top)] for rate in shares)
