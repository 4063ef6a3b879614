"""What unfinished runs say of the end: final results and looks at averaged errors, judged together.

A *look* is the averaged error of a run after some of its reports. At share u of the training it is
the final error plus a *drift*, which differs from candidate to candidate, and noise:

    look = effect of the seed at this look + f(x) + drift(u) · g(x) + noise

f is the final error as in :mod:`kdecay_search.search.surrogate`. The drift g is as smooth over the
candidates as f, it shrinks towards the end, and what it is for this study is learned from the runs
whose looks and ends are both known. Runs of the same seed are compared at the same look, so what
all candidates have in common cancels. Before any run has ended only the prior speaks, by which a
look at half of a training tells little more than half of what the end would.

This is the autoregressive model of Kennedy and O'Hagan, Biometrika 87 (2000) 1-13, with one drift
for all looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdecay_search.search.coordinates import combinations, coordinates
from kdecay_search.search.looks import Looks
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import Array, Look, Point, Results
from kdecay_search.search.surrogate import Surrogate
from kdecay_search.study.candidate import Candidate

_TINY = 1e-12


def drift_share(share: Array, policy: Policy = POLICY) -> Array:
    """How large the drift is after this share of the training, in units of that at half of it."""
    sizes: Array = (2.0 * (1.0 - share)) ** policy.drift_power
    return sizes


def _kept(share: float | Array, policy: Policy) -> float | Array:
    """Correlation of the noise of a look, after this share of the training, with that of the same
    run's final error."""
    return policy.look_correlation * share


def outlook(
    points: Sequence[Candidate],
    results: Results,
    looks: Looks,
    policy: Policy = POLICY,
    lengths: Sequence[tuple[float, ...]] = (),
    wanted: Sequence[Look] = (),
) -> Surrogate:
    """The joint posterior of the final errors of K points, by the runs that have ended and by the
    looks of the others.

    Args:
        points: K different candidates, among them all that have results or looks.
        results: The runs that have ended; may be none.
        looks: The looks of all runs. There must be one of a run that has not ended.
        policy: The constants of the model.
        lengths: Combinations of length scales, if the most evident ones are known.
        wanted: Looks whose means and samples are wanted, too.
    """
    rows = _Rows.of(results, looks, policy)
    model = _Model(points, wanted, rows, policy, lengths)
    return model.posterior(results)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Results and looks, one row each, in units of the results' spread."""

    items: tuple[Point, ...]
    """What has been measured: candidates' final errors and looks, I of them."""
    own: NDArray[np.intp]
    """Index of each row's item, (N,)."""
    end: NDArray[np.intp]
    """Index of the final error of each row's run among the items; any where ``kept`` is 0; (N,)."""
    kept: Array
    """How much of that final error has been taken from each row, (N,)."""
    group: NDArray[np.intp]
    """Index of each row's group: its seed, at its look; (N,)."""
    error: Array
    """The errors, (N,)."""
    weight: Array
    """Weight of each row: that of a final error is 1; (N,)."""
    drift: Array
    """Size of the drift of each item, (I,); 0 for final errors."""
    spread: float
    """The unit."""

    @staticmethod
    def of(results: Results, looks: Looks, policy: Policy) -> _Rows:
        shares = looks.compared(results)
        at = np.isin(looks.number, list(shares)) & np.isfinite(looks.error)
        number, ended = looks.number[at].astype(int), looks.ends(results)[at]
        share = number / looks.reports
        # The noise that a look has in common with the end of its own run is known once that is.
        kept = np.where(ended >= 0, _kept(share, policy), 0.0)
        run = looks.run[at]
        weight = 1.0 / (np.bincount(run)[run] * (1.0 - kept**2)) if len(run) else kept

        final, place = np.unique(results.place.astype(int), return_inverse=True)
        code = looks.place[at] * (looks.reports + 1) + number
        _, first, seen = np.unique(code, return_index=True, return_inverse=True)
        items: list[Point] = [results.points[i] for i in final.tolist()]
        items += [Look(looks.points[int(looks.place[at][i])], int(number[i])) for i in first]
        own = np.concatenate([place, len(final) + seen])
        none = np.zeros(len(results), int)
        end = np.concatenate([none, place[ended] if len(results) else np.zeros(len(seen), int)])
        drift = np.concatenate([np.zeros(len(final)), drift_share(share[first], policy)])

        numbers = np.concatenate([none, number])
        seeds = np.concatenate([results.seed, looks.seed[at]])
        _, group = np.unique(seeds * (looks.reports + 1) + numbers, return_inverse=True)
        error = np.concatenate([results.error, looks.error[at]])
        for each in np.unique(numbers):
            error[numbers == each] -= np.median(error[numbers == each])
        pairs = len(results) - len(np.unique(results.seed))
        every = Results((), own.astype(float), group.astype(float), error)
        spread = results.spread if pairs > 1 else every.spread
        error = error / spread
        is_whole = any(point.is_whole for point in looks.points)
        beyond = np.maximum(error - policy.far, 0.0)
        drawn_in = np.minimum(error, policy.far) + np.log1p(beyond)
        error = np.where((numbers > 0) | is_whole, drawn_in, error)
        if len(results):
            error[len(results) :] -= kept * error[ended]
        return _Rows(
            items=tuple(items),
            own=own,
            end=end,
            kept=np.concatenate([np.zeros(len(results)), kept]),
            group=group,
            error=error,
            weight=np.concatenate([np.ones(len(results)), weight]),
            drift=drift,
            spread=spread,
        )


class _Model:
    """The model's posterior for every combination of hyperparameters."""

    def __init__(
        self,
        points: Sequence[Candidate],
        wanted: Sequence[Look],
        rows: _Rows,
        policy: Policy,
        lengths: Sequence[tuple[float, ...]],
    ) -> None:
        self.policy, self.rows = policy, rows
        self.points, self.wanted = tuple(points), tuple(wanted)
        targets: tuple[Point, ...] = (*points, *wanted)
        index = {point: i for i, point in enumerate(points)}
        reports = {look.number: drift for look, drift in zip(rows.items, rows.drift, strict=True)
                   if isinstance(look, Look)}  # fmt: skip
        self._of_item = np.array([index[_point(item)] for item in rows.items])
        self._of_target = np.array([index[_point(item)] for item in targets])
        self._drift = np.array(
            [reports.get(t.number, 1.0) if isinstance(t, Look) else 0.0 for t in targets]
        )
        columns = coordinates(points, policy)
        self._values = np.array([column for column, _ in columns])
        is_known = lengths and len(lengths[0]) == len(columns)
        every = lengths if is_known else combinations((each for _, each in columns), policy)
        self.lengths = tuple(every)
        is_whole = any(point.is_whole for point in points)
        sizes = policy.drifts
        if len(rows.items) > policy.max_items:
            self.lengths = self.lengths[:1]
            sizes = policy.drifts[len(sizes) // 2 :][:1]
        signals = np.array([s for s in policy.signals for _ in sizes])
        drifts = np.array([d for _ in policy.signals for d in sizes])
        nugget = np.minimum(policy.whole_nugget if is_whole else policy.nugget, signals)
        own = policy.own_drift * drifts * signals
        # Variances of f, of the smooth drift, of the candidates' own deviations and own drifts.
        self._sizes = np.stack([signals, drifts * signals, nugget, own], axis=1) ** 2
        self._fit()

    def _fit(self) -> None:
        rows, group = self.rows, self.rows.group
        sums = np.bincount(group, rows.weight)
        items, groups = len(rows.items), len(sums)
        terms = (rows.own, 1.0), (rows.end, -rows.kept)  # of each row: its items, how much of each
        counts = _summed(((group, i, rows.weight * a) for i, a in terms), groups, items)
        means = np.bincount(group, rows.weight * rows.error) / sums
        centred, none = rows.error - means[group], np.zeros(len(group), int)
        pulls = _summed(((i, none, rows.weight * a * centred) for i, a in terms), items, 1)
        pairs = ((i, j, rows.weight * a * b) for i, a in terms for j, b in terms)
        matrix = _summed(pairs, items, items) - counts.T / sums @ counts
        information, basis = np.linalg.eigh(matrix)
        kept = information > _TINY * len(group)
        self._root = basis[:, kept] * np.sqrt(information[kept])
        score = basis[:, kept].T @ pulls[:, 0]
        score = score / np.sqrt(information[kept])
        rest = max(0.0, float(rows.weight @ centred**2 - score @ score))
        self.freedom = max(1, len(group) - len(sums))
        logs, noises, solved, factors = [], [], [], []
        for length in self.lengths:
            parts = [self._root.T @ part @ self._root for part in self._parts(length, "items")]
            matrices = np.eye(len(score)) + np.tensordot(self._sizes, np.array(parts), 1)
            factor = np.linalg.cholesky(matrices)
            half = np.linalg.solve(factor, np.broadcast_to(score[:, None], (*factor.shape[:2], 1)))
            residual = rest + (half[..., 0] ** 2).sum(axis=1)
            noise = (residual + self.policy.noise_floor) / self.freedom
            log = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
            logs.append(-log - 0.5 * self.freedom * np.log(noise))
            noises.append(noise)
            factors.append(factor)
            solved.append(np.linalg.solve(factor.transpose(0, 2, 1), half)[..., 0])
        evidence = np.array(logs)
        weights = np.exp(evidence - evidence.max())
        self._weights = weights / weights.sum()
        self._noise, self._factors, self._solved = np.array(noises), factors, solved

    def _parts(self, length: tuple[float, ...], of: str) -> list[Array]:
        """The covariances of f, of the smooth drift, of the own deviations and of the own drifts:
        between the items, the targets, or from targets to items."""
        places = {"items": self._of_item, "targets": self._of_target}
        drifts = {"items": self.rows.drift, "targets": self._drift}
        left, right = (of, of) if of in places else ("targets", "items")
        distance = sum(
            (np.subtract.outer(at[places[left]], at[places[right]]) / scale) ** 2
            for at, scale in zip(self._values, length, strict=True)
        )
        curve = np.exp(-0.5 * distance)
        same = np.equal.outer(places[left], places[right]).astype(float)
        drift = np.multiply.outer(drifts[left], drifts[right])
        return [curve, curve * drift, same, same * drift]

    def posterior(self, results: Results) -> Surrogate:
        policy, spread, random = self.policy, self.rows.spread, np.random.default_rng(0)
        least = (1.0 - 1e-9) / self._weights.size  # all are alike where nothing is known yet
        used = self._weights > least
        total, means, drawn = self._weights[used].sum(), np.zeros(len(self._of_target)), []
        for place, length in enumerate(self.lengths):
            if not used[place].any():
                continue
            across = np.array(self._parts(length, "across"))
            within = np.array(self._parts(length, "targets"))
            for g in np.flatnonzero(used[place]).tolist():
                weight = self._weights[place, g] / total
                size = self._sizes[g]
                pull = np.tensordot(size, across, 1) @ self._root
                mean = pull @ self._solved[place][g]
                means += weight * mean
                half = np.linalg.solve(self._factors[place][g], pull.T)
                covariance = np.tensordot(size, within, 1) - half.T @ half
                count = max(1, round(policy.draws * weight))
                scale = self._noise[place, g] * self.freedom
                scale = np.sqrt(scale / random.chisquare(self.freedom, (count, 1)))
                jitter = 1e-9 * (1 + np.trace(covariance) / len(covariance))
                root = np.linalg.cholesky(covariance + jitter * np.eye(len(covariance)))
                normal = random.standard_normal((count, len(covariance)))
                drawn.append(mean + scale * (normal @ root.T))
        noise = float((self._weights * self._noise).sum()) * spread**2
        return Surrogate(
            points=self.points,
            looks=self.wanted,
            results=results,
            means=spread * (means - means.mean()),
            draws=spread * np.concatenate(drawn),
            noise=noise,
            lengths=self.lengths,
        )


def _summed(
    parts: Iterable[tuple[NDArray[np.intp], NDArray[np.intp], Array]], rows: int, columns: int
) -> Array:
    """Values that are given with their rows and columns, added up: (rows, columns)."""
    total = np.zeros(rows * columns)
    for row, column, values in parts:
        total += np.bincount(row * columns + column, values, len(total))
    return total.reshape(rows, columns)


def _point(item: Point) -> Candidate:
    return item.point if isinstance(item, Look) else item
