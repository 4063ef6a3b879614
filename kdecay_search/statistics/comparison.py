"""Is one schedule better than another? Paired comparisons over seeds, and families of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kdecay_search.statistics.power import detectable_difference
from kdecay_search.statistics.sample import paired_gain, rounding

SIGNIFICANT = 0.05
"""p value below which a difference is called better or worse."""
MIN_PAIRS_SIGNED_RANK = 6
"""Pairs that the signed-rank test needs: with fewer it cannot reject, since 2 · 2⁻⁵ > 0.05."""
MIN_PAIRS_BOOTSTRAP = 5
"""Pairs that the bootstrap needs; :func:`_studentised_bootstrap` says why."""
RESAMPLES = 4000
"""Number of the bootstrap's resamples."""


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of a new schedule with an old one, over the seeds that both have.

    Where all pairs differ by the same amount, nothing shows how noisy they are: there is no t test
    and no interval, and ``p`` is that of the exact signed-rank test, which is below 5 % from six
    pairs on. A pair with an error that is not a finite number leaves everything but ``n`` None.
    """

    difference: float | None
    """Mean of old − new in the metric's unit; positive where new is better, None without pairs."""
    sd: float | None
    """Standard deviation of the paired differences; None below two pairs."""
    n: int
    """Number of pairs."""
    interval: tuple[float, float] | None
    """95 % interval of the difference by Student's t; None below two pairs, and if all differences
    are equal."""
    bootstrap: tuple[float, float] | None
    """95 % interval by the studentised bootstrap; None below :data:`MIN_PAIRS_BOOTSTRAP` pairs, and
    if so many differences are equal that the interval has no end."""
    p: float | None
    """Two-sided p value of the paired t test; None below two pairs."""
    p_wilcoxon: float | None
    """Two-sided p value of the exact signed-rank test; None below :data:`MIN_PAIRS_SIGNED_RANK`
    pairs that differ."""
    p_adjusted: float | None = None
    """``p`` after Holm's correction over a family of comparisons; None outside a family."""
    detectable: float | None = None
    """Smallest true difference that this number of pairs with this sd shows with 80 % power at 5 %;
    None without an interval."""

    @property
    def verdict(self) -> Literal["better", "no detectable difference", "worse"]:
        """What the comparison shows, at 5 %.

        It goes by ``p_adjusted`` in a family, else by ``p``, which agrees with ``interval``.
        """
        p = self.p if self.p_adjusted is None else self.p_adjusted
        if self.difference is None or p is None or p >= SIGNIFICANT:
            return "no detectable difference"
        return "better" if self.difference > 0 else "worse"


def compare(old: Mapping[int, float], new: Mapping[int, float]) -> Comparison:
    """Compare two schedules on the seeds that both have.

    The same errors always give the same answer: the bootstrap's draws have a fixed seed.

    Args:
        old: Errors of the schedule that is compared with, by seed; lower is better.
        new: Errors of the other schedule, by seed.
    """
    seeds = sorted(old.keys() & new.keys())
    differences = [old[seed] - new[seed] for seed in seeds]
    if not all(math.isfinite(d) for d in differences):
        return Comparison(None, None, len(differences), None, None, None, None)
    sample = paired_gain(old, new)
    if sample.mean is None or sample.sd is None:
        return Comparison(sample.mean, None, sample.n, None, None, None, None)
    equal = rounding(old, new)
    differ = sum(abs(d) > equal for d in differences)  # Wilcoxon left out the pairs that do not
    p_wilcoxon = _signed_rank_p(differences, equal) if differ >= MIN_PAIRS_SIGNED_RANK else None
    if max(differences) - min(differences) <= equal:
        p = _signed_rank_p(differences, equal)
        return Comparison(sample.mean, 0.0, sample.n, None, None, p, p_wilcoxon)
    return Comparison(
        difference=sample.mean,
        sd=sample.sd,
        n=sample.n,
        interval=sample.interval(),
        bootstrap=_studentised_bootstrap(differences, equal),
        p=_t_test_p(sample.mean, sample.sd, sample.n),
        p_wilcoxon=p_wilcoxon,
        detectable=detectable_difference(sample.sd, sample.n),
    )


def holm(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Correct a family of comparisons by Holm's step-down procedure.

    The chance that any of the family's "better" or "worse" is wrong stays below 5 %, however the
    comparisons depend on each other (S. Holm, Scand. J. Statist. 6, 1979).

    Args:
        comparisons: The family by name. Those without a p value do not count.

    Returns:
        The same comparisons in the same order, with ``p_adjusted`` where there is a p value.
    """
    ps = sorted((c.p, name) for name, c in comparisons.items() if c.p is not None)
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (p, name) in enumerate(ps):
        largest = max(largest, min(1.0, (len(ps) - rank) * p))
        adjusted[name] = largest
    return {name: replace(c, p_adjusted=adjusted.get(name)) for name, c in comparisons.items()}


def _t_test_p(mean: float, sd: float, n: int) -> float:
    """Two-sided p value of the t test that the mean of n differences is zero."""
    from scipy.special import stdtr  # noqa: PLC0415 - 0.1 s, only where needed

    return 2 * float(stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n))))


def _signed_rank_p(differences: Sequence[float], equal: float) -> float:
    """Two-sided p value of the signed-rank test; exact also with ties, which scipy's is not.
    Differences within ``equal`` of each other are ties.

    It is the distribution of the positive ranks' sum over all choices of signs, by convolution.
    Ranks count double, since those of ties are halves.
    """
    import numpy as np  # noqa: PLC0415 - 0.1 s, only where needed

    differ = [d for d in differences if abs(d) > equal]
    sizes = np.array([round(abs(d) / equal) for d in differ])
    below = (sizes[:, None] > sizes).sum(axis=1)
    ranks = 2 * below + (sizes[:, None] == sizes).sum(axis=1) + 1
    shares = np.zeros(int(ranks.sum()) + 1)
    shares[0] = 1.0
    for rank in ranks.tolist():
        shares[rank:] = (shares[rank:] + shares[:-rank]) / 2
        shares[:rank] /= 2
    found = int(ranks[np.array(differ) > 0].sum()) if differ else 0
    return min(1.0, 2 * float(min(shares[: found + 1].sum(), shares[found:].sum())))


def _studentised_bootstrap(
    differences: Sequence[float], equal: float
) -> tuple[float, float] | None:
    """95 % interval of the mean from resampled t statistics.

    Its coverage was measured beside BCa's with 1500 samples each of n = 5, 6, 8 and 10 differences.
    Of normal differences, BCa covers the mean in 84, 86, 87 and 90 %, and this interval in 95 %
    throughout; of exponential ones, BCa in 78 to 86 %, this one in 91 to 93 %, and Student's t in
    88 %. With four pairs it is nearly twice as wide as Student's t, and with three it covers
    nothing or everything.
    """
    n = len(differences)
    if n < MIN_PAIRS_BOOTSTRAP:
        return None
    import numpy as np  # noqa: PLC0415 - 0.1 s, only where needed

    values = np.array(differences)
    drawn = values[np.random.default_rng(0).integers(0, n, (RESAMPLES, n))]
    gaps = drawn.mean(axis=1) - values.mean()
    spreads = drawn.std(axis=1, ddof=1)
    known = spreads > equal
    t = np.copysign(np.inf, gaps)  # a resample of one value alone has no spread
    t[known] = gaps[known] / spreads[known]
    low, high = np.quantile(t, (0.025, 0.975), method="inverted_cdf").tolist()
    if not math.isfinite(low) or not math.isfinite(high):
        return None
    spread = float(values.std(ddof=1))
    return float(values.mean()) - high * spread, float(values.mean()) - low * spread
