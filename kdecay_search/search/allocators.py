"""The field of a stage's race: who takes part in it, and what they run next."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdecay_search.search import allocation as race
from kdecay_search.search.allocation import Track
from kdecay_search.search.knowledge_gradient import Posterior, Run
from kdecay_search.search.selection import Selection, posterior_of
from kdecay_search.search.stage import CandidateResult
from kdecay_search.search.surrogate import Results
from kdecay_search.study.candidate import Candidate

RUNS_TO_WIN = 2
"""Complete runs without which no candidate is chosen where others have them."""

LIKELY_GAIN = 0.8
"""Probability from which on a gain on the rival is looked into further."""


@dataclass(frozen=True)
class Field:
    """Those of a stage's candidates that may still be chosen."""

    judged: Selection
    """By the results so far; of its points, the first is the rival that all are to beat."""
    known: tuple[tuple[Candidate, ...], Results]
    """What that was judged from."""
    candidates: Mapping[Candidate, CandidateResult]
    baselines: frozenset[Candidate]
    """Of these, those with k = 1: one for each level of the LR, in stage 1."""
    rival: Mapping[int, float]
    """Errors (%) of what is to be beaten, by seed."""
    track: Track

    def next_runs(self, size: int) -> list[Run]:
        """What is queued next, about ``size`` runs; none if the race is over."""
        due, leader = self._due(), self._for_leader()
        are_last = self.track.left - len(due) <= size
        chosen = [run for run in leader if run not in due] if are_last else []
        certain = [*due, *chosen]
        chosen += race.next_runs(self._belief(certain), self.track, size - len(chosen), certain)
        runs = [*due, *chosen, *self._of_levels(size, due, len(chosen))]
        return list(dict.fromkeys(runs)) or leader or self._pairs(size)

    def _belief(self, certain: Iterable[Run]) -> Posterior:
        """About the rival, those that may well be the best and those that run in any case."""
        points = race.likely(self.judged, self.candidates)
        run = (point for point, _ in certain)
        return posterior_of(*self.known, dict.fromkeys((self.judged.points[0], *points, *run)))

    def _challenger(self) -> Candidate | None:
        """The best but for the baselines."""
        others = self.candidates.keys() - self.baselines
        return min(others, key=lambda point: (self.judged.mean(point), point), default=None)

    def _due(self) -> list[Run]:
        """Of the baseline, at the level that is best for it: it runs twice, however clear it is."""
        rival = self.judged.points[0]
        seeds = self.track.lacking.get(rival, ()) if rival in self.baselines else ()
        return [(rival, seed) for seed in sorted(seeds)[: max(0, RUNS_TO_WIN - len(self.rival))]]

    def _of_levels(self, size: int, due: Sequence[Run], others: int) -> list[Run]:
        """The baseline's levels have a race of their own, by the same rules, while it is open
        whether another candidate is better. ``others``: runs that are begun elsewhere."""
        challenger = self._challenger()
        is_open = challenger is not None and not self.judged.gain(challenger).is_sure
        if len(self.baselines) < 2 or not is_open:  # noqa: PLR2004
            return []
        track = replace(self.track, left=self.track.left - others)
        return race.next_runs(posterior_of(*self.known, sorted(self.baselines)), track, size, due)

    def _for_leader(self) -> list[Run]:
        """Before the race is over, the one that leads is to meet its rival on two seeds; and where
        the rival leads, some other candidate is to run on two."""
        challenger = self._challenger()
        if challenger is None or self.track.left_for_leader <= 0:
            return []
        leads = self._leads(challenger)
        errors = self.candidates[challenger].errors
        met = errors.keys() & self.rival.keys() if leads else errors.keys()
        wanted = min(RUNS_TO_WIN, len(self.rival)) if leads else RUNS_TO_WIN
        others = (c for point, c in self.candidates.items() if point not in self.baselines)
        is_settled = not leads and any(len(c.errors) >= RUNS_TO_WIN for c in others)
        if is_settled or (len(met) >= wanted and len(errors) >= RUNS_TO_WIN):
            return []
        return self._meetings(challenger, self.rival)[:1]

    def _pairs(self, size: int) -> list[Run]:
        """What is left of the race's runs makes pairs of the one that leads and its rival, while
        a gain is likely and not sure."""
        challenger = self._challenger()
        if challenger is None or not self._leads(challenger):
            return []
        gain = self.judged.gain(challenger)
        if gain.is_sure or gain.probability < LIKELY_GAIN:
            return []
        met = self.candidates[challenger].errors
        runs = self._meetings(self.judged.points[0], met) + self._meetings(challenger, self.rival)
        pairs = [run for run in runs if run[1] in met.keys() | self.rival.keys()]
        return pairs[: max(0, min(size, self.track.left))]

    def _leads(self, challenger: Candidate) -> bool:
        return self.judged.mean(challenger) < self.judged.mean(self.judged.points[0])

    def _meetings(self, point: Candidate, others: Container[int]) -> list[Run]:
        """What the candidate may still run, first on the seeds that others have run on."""
        lacking = self.track.lacking.get(point, ())
        return [(point, s) for s in sorted(lacking, key=lambda seed: (seed not in others, seed))]
