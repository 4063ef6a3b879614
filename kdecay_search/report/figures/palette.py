"""One colour for each candidate, the same in every figure of a study.

Colours run from blue by magenta to orange. The order is also seen with a red-green deficiency,
where it runs from blue to yellow, and all of them stand out from white and from black.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from kdecay_search.report.whole import featured, lateness
from kdecay_search.search import BASELINE_KS
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate

STOPS = ((46, 111, 214), (124, 92, 214), (184, 80, 168), (219, 92, 98), (220, 134, 38))
"""Colours that the others lie between, as red, green and blue from 0 to 255."""
INK = "#737b87"
"""Colour of what belongs to no k; contrast 4.2 : 1 on white, 4.5 : 1 on the report's dark page."""
FAINT = "rgba(128,136,148,0.22)"
"""Colour of grids and bands."""
WARNING = "#c8413b"
"""Colour of what is worse, or failed."""


class Palette:
    """Colours of candidates, evenly spaced in the order of their k, then of their level.

    Whole schedules are ordered by their lateness in place of k: the later the rate falls, the more
    orange.
    """

    def __init__(self, points: Iterable[Candidate]) -> None:
        self._places = sorted({_place(point) for point in points})

    @staticmethod
    def of(snapshot: StudySnapshot) -> Palette:
        """The colours of a study's candidates and of the original.

        Of whole schedules, only those have their own whose curves are shown: colours that differ
        little would tell none of them apart.
        """
        if snapshot.is_joint and any(stage.candidates for stage in snapshot.plan.stages):
            return Palette(point for stage in snapshot.plan.stages for point in featured(stage))
        tried = [c.point for stage in snapshot.plan.stages for c in stage.candidates if c.point]
        baseline = snapshot.plan.baseline
        original = baseline.point or Candidate(*BASELINE_KS, baseline.lr_max)
        return Palette((original, *tried))

    def __call__(self, k: float, lr_max: float | None = None) -> str:
        """The colour of a candidate of a grid, as :meth:`at` says it."""
        return self.at(Candidate(k, lr_max))

    def at(self, point: Candidate) -> str:
        """The colour of a candidate, as ``#rrggbb``; an unknown one has that of the next."""
        last = len(self._places) - 1
        return blend(min(bisect_left(self._places, _place(point)), last) / last if last else 0)


def _place(point: Candidate) -> tuple[float, ...]:
    if point.is_whole:
        shares = (point.lr_min or 0.0, point.warmup or 0.0, point.power or 0.0)
        return lateness(point), point.lr_max or 0.0, *shares
    return point.k or 0.0, point.lr_max or 0.0


def blend(share: float) -> str:
    """The colour at a share (0 to 1) of the way through :data:`STOPS`, as ``#rrggbb``."""
    position = share * (len(STOPS) - 1)
    index = min(int(position), len(STOPS) - 2)
    part = position - index
    pairs = zip(STOPS[index], STOPS[index + 1], strict=True)
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in pairs)


def evenly(count: int) -> list[str]:
    """A number of colours, evenly spaced."""
    return [blend(i / (count - 1) if count > 1 else 0.0) for i in range(count)]


def translucent(colour: str, opacity: float) -> str:
    """A colour ``#rrggbb`` with an opacity from 0 to 1, as Plotly reads it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
