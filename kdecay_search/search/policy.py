"""Every tuned constant of the search, in one frozen object.

Whatever decides takes a :class:`Policy` and reads its numbers from it, so that an ablation or a
benchmark changes a rule by passing another policy. docs/pruning.md has the measurements that are
cited here, docs/tried.md what was tried and left.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdecay_search.study.own_parameters import OwnAxis


@dataclass(frozen=True)
class Policy:
    """The constants behind the decisions of a search.

    Numbers without a unit are counts, and shares are between 0 and 1. What has the dimension of the
    metric is stated in units of the study's own noise or spread, so that no decision depends on the
    metric's scale.
    """

    # The search space (search/space.py)
    growth_share: float = 0.5
    """Share of its width by which a grid grows whose best candidate is its largest. Not tuned."""
    min_growth_steps: int = 2
    """Smallest number of steps by which a grid grows. Not tuned."""

    # Allocation of runs (search/stage_planner.py, search/allocation.py)
    first_share: float = 0.5
    """Share of the exponents that run on the first seed before any run is chosen by its worth.
    Measured in docs/pruning.md, "The rules"."""
    first_extra: int = 1
    """Exponents that run on the first seed beyond ``first_share``."""
    min_runs_to_win: int = 2
    """Complete runs without which no candidate is chosen while another has them. With one, the
    luckiest single run wins."""
    grid_share: float = 0.5
    """Largest share of the grid's runs that are trained when pruning is on. Required by the users:
    half of the full grid's cost."""
    extra_runs: int = 2
    """Extra runs allowed beyond one per candidate; they matter to grids that are so small that
    ``grid_share`` allows fewer."""
    extra_runs_for_leader: int = 4
    """The same where the last of them make sure of the leader. On 15 recorded grids of 4 to 6
    exponents, with 2 instead, fewer replays find an exponent near the best (docs/pruning.md)."""
    min_worth: float = 0.015
    """Smallest expected gain for which a further run is trained: by how much the chosen candidate's
    error falls for each training of full length, in standard deviations of the noise of a run."""
    verdict_share: float = 0.25
    """Share of what a grid may train that goes to the leader and to its reference in the end, so
    that the verdict can say by how much they differ; two runs of each at least."""
    max_considered: int = 16
    """Number of candidates, the most probable to be the best, whose further runs are considered. A
    bound on computing time: it changes nothing for smaller grids."""
    max_seed_kinds: int = 8
    """Number of seeds, among those that differ in who has run on them, that are considered for a
    candidate's next run. A bound on computing time."""
    min_batch: int = 2
    """Smallest number of runs that are chosen together."""
    max_batch: int = 8
    """Largest number of runs that are chosen together. More keep more workers busy, fewer train
    less."""
    candidates_per_batched_run: int = 4
    """Candidates for each of the runs that are chosen together."""
    knowledge_gradient_samples: int = 2048
    """Antithetic pairs of samples behind an expected gain (search/knowledge_gradient.py)."""

    # The joint search (search/joint_planner.py)
    baseline_share: float = 0.25
    """Share of the budget within which each baseline has its own runs, if it is large enough."""
    baseline_runs: tuple[int, int] = (2, 5)
    """Smallest and largest number of runs that each baseline is tuned with."""
    design_share: float = 1 / 3
    """Largest share of the budget that goes to the space-filling design."""
    design_per_axis: int = 2
    """Candidates of the design for each searched parameter."""
    proposals: int = 160
    """New candidates, spread over the whole space, that are considered at each decision."""
    proposals_nearby: int = 16
    """New candidates that are considered around each of the best ones, and of each baseline."""
    leaders: int = 3
    """Number of the best candidates that new ones are considered around."""
    runs_per_decision: int = 10
    """Budgeted runs for each of the runs that are chosen together."""
    min_budget: int = 4
    """Runs without which no further term is looked for."""
    edge: float = 0.1
    """Share of a range's width within which its best candidate counts as at the edge."""
    widening: float = 0.5
    """Share of its width by which a range grows whose best candidate is at its edge."""

    # The surrogate (search/surrogate.py)
    k_lengths: tuple[float, ...] = (0.35, 0.7, 1.4, 2.8)
    """Length scales of the smooth curve in log k, averaged by their evidence."""
    lr_max_lengths: tuple[float, ...] = (0.5, 2.0)
    """Length scales in log lr_max, where candidates differ in it."""
    lateness_lengths: tuple[float, ...] = (1.4, 2.8)
    """Length scales, for whole schedules, in how late the rate falls (search/coordinates.py)."""
    sharpness_lengths: tuple[float, ...] = (4.0, 10.0)
    """The same in how sharply it falls."""
    level_lengths: tuple[float, ...] = (0.7, 1.4, 2.8)
    """The same in log lr_max."""
    floor_lengths: tuple[float, ...] = (2.5,)
    """The same in the floor's and in the warm-up's coordinate."""
    own_lengths: tuple[float, ...] = (0.4, 1.5)
    """The same in a parameter of the user's own, in units of the width of its range. Not tuned."""
    own_distance: float = 1.0
    """The length scale between two values without an order, whose distance is one. Not tuned."""
    own: tuple[OwnAxis, ...] = ()
    """The user's own parameters of the study that is searched: the one thing here that is no
    constant, since where a candidate lies follows from their ranges."""
    far: float = 2.0
    """Units of spread above the median beyond which the results of whole schedules are drawn in."""
    whole_min_worth: float = 0.003
    """The same as ``min_worth`` for whole schedules, whose budget the study file states."""
    whole_draws: int = 2000
    """Joint samples of the errors of whole schedules. A bound on computing time."""
    max_lengths: int = 24
    """Largest number of combinations of length scales that are tried; only a user's own parameters
    make more. A bound on computing time."""
    lengths_kept: int = 4
    """Number of these, the most evident, that whole schedules are judged by. A bound on computing
    time."""
    signals: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0)
    """Standard deviations of the curve in units of the noise's, averaged by their evidence."""
    whole_nugget: float = 0.03
    """The same as ``nugget`` for whole schedules, whose shapes have many neighbours."""
    nugget: float = 0.5
    """Standard deviation of a candidate's own deviation from the curve in units of the noise's; at
    most the curve's."""
    noise_floor: float = 0.01
    """Sum of squares that is added to the residuals, so that a single seed is not taken for
    noise-free; in squared units of the results' spread (search/results.py)."""
    noise_freedom: float = 2.0
    """Degrees of freedom with which the noise that all candidates have in common counts where the
    noise of two that are compared is judged by their few runs. Where k = 1 is three times as noisy
    as the others and nothing is better, "better" is claimed in 4.8 % of 400 studies; without any
    widening in 6.0 %."""
    min_draw_weight: float = 0.32
    """Smallest weight of hyperparameters that are sampled from, in units of the weight that each
    has if all are alike. A bound on computing time."""
    draws: int = 4000
    """Joint samples of the candidates' errors behind probabilities and intervals."""

    # Looks at unfinished runs (search/forecast.py)
    drift_power: float = 1.5
    """How the drift of averaged errors shrinks towards the end: with this power of the share of the
    training that is left."""
    drifts: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Sizes of the drift at half of a training, in units of the curve's size, averaged by their
    evidence."""
    max_items: int = 120
    """Measured schedules and looks beyond which one length scale and one size of the drift, the
    middle one, are tried. A bound on computing time."""
    own_drift: float = 0.3
    """The drift that a candidate has for itself, in units of the smooth one."""
    look_correlation: float = 0.8
    """Correlation of the noise of a look with that of the same run's final error, as it would be at
    the end; it grows with the share of the training."""
    clear: float = 0.5
    """A run is paused at a look if going on is worth less than this share of what the best other
    run is worth, for each epoch. 0 in a joint search, where some new candidate nearly always
    promises more: there a run is paused if its rest is worth nothing."""

    # Runs that diverge (search/results.py)
    blow_up: float = 10.0
    """A run that ended worse than it began counts as diverged if it lies this many times as far
    above the median of the other runs as the best of them lies below it. Not tuned: runs that
    merely overfit lie among others that do."""

    # Keeping a term (search/stage_results.py)
    min_gain_errors: float = 1.0
    """Standard errors of a difference by which a term must lower the mean error to be kept, where
    ``min_gain`` is ``auto``: the one-standard-error rule (Breiman et al., Classification and
    Regression Trees, 1984)."""

    # Failures (search/tally.py)
    memory_attempts: int = 2
    """Attempts at a run whose device's memory is full. The second may meet a larger device."""
    losses_per_attempt: int = 5
    """Trials lost with their worker that count as one failed attempt: a loss says little about the
    run."""

    # Machines that fail every run (search/machines.py)
    failing_streak: int = 3
    """Failed attempts in succession, at two runs or more, after which the machine is at fault. Not
    tuned: runs that are at fault themselves lie among others that succeed."""
    repeats_per_attempt: int = 5
    """Failures of a run that count as one attempt while machines on which it has not failed have
    trained, but train nothing now. A bound: they may never come back. Not tuned."""


POLICY = Policy()
"""What a search decides by unless it is told otherwise."""
