"""``find_schedule``: a search from Python.

tests/support/find_schedule_file.py writes this file from the keys of a study file. Change it there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kdecay_search.api.result import Result
    from kdecay_search.study.search_spec import Sampler
    from kdecay_search.user_code.run import TaskRun


def find_schedule(
    train: Callable[[TaskRun], object] | None = None,
    *,
    study_file: str | Path | None = None,
    workers: int | None = None,
    storage: str | None = None,
    device: str | None = None,
    space: Mapping[str, Any] | None = None,
    catch: type[Exception] | tuple[type[Exception], ...] = (),
    progress: bool | None = None,
    name: str | None = None,
    description: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    report_every: int | None = None,
    args: Mapping[str, Any] | None = None,
    steps_per_epoch: int | None = None,
    averaging_share: float | None = None,
    epoch_timeout: float | None = None,
    fork: bool | None = None,
    metric: str | None = None,
    direction: Literal["min", "max", "minimize", "maximize"] | None = None,
    unit: str | None = None,
    decimals: int | None = None,
    family: Literal["polynomial", "cosine", "exponential"] | None = None,
    power: float | None = None,
    lr_min: float | None = None,
    lr_max: float | tuple[float, float] | None = None,
    warmup_epochs: float | None = None,
    warmup_steps: int | None = None,
    sampler: Sampler | None = None,
    budget: int | None = None,
    baselines: Sequence[str] | None = None,
    ks: Sequence[float] | None = None,
    k_min: float | None = None,
    k_max: float | None = None,
    k_cap: float | None = None,
    k_step: float | None = None,
    trials: int | None = None,
    sampler_seed: int | None = None,
    max_terms: int | None = None,
    seeds: int | None = None,
    min_gain: Literal["auto"] | float | None = None,
    search_lr_max: Sequence[float] | None = None,
    space_k: float | Sequence[float | str] | None = None,
    space_power: float | Sequence[float | str] | None = None,
    space_lr_max: float | Sequence[float | str] | None = None,
    space_lr_min: float | Sequence[float | str] | None = None,
    space_warmup: float | Sequence[float | str] | None = None,
    space_decay_share: float | Sequence[float | str] | None = None,
    space_family: Sequence[str] | None = None,
    pruning_enabled: bool | None = None,
    pruning_first_share: float | None = None,
    pruning_looks: int | None = None,
    pruning_keep_at_least: int | None = None,
    confirm_seeds: int | None = None,
    confirm_first_seed: int | None = None,
    confirm_area_matched: bool | None = None,
    confirm_baselines: Sequence[str] | None = None,
    workers_heartbeat_seconds: float | None = None,
    workers_grace_seconds: float | None = None,
    workers_max_attempts: int | None = None,
    workers_checkpoint_seconds: float | None = None,
    workers_decoders: int | None = None,
) -> Result:
    """Find the learning-rate schedule that trains a network best.

    The search runs in this process: it needs no database, writes no file, and gives the same answer
    each time, which is that of ``kdecay launch`` with one worker. Ctrl-C ends it early, with a
    result of the runs so far. See docs/python.md.

    Args:
        train: Trains one run: a function of a :class:`~kdecay_search.TaskRun`, as ``task.entry`` of
            a study file names it. None takes what ``study_file`` trains.
        study_file: A study file (TOML). The keywords overrule what it says.
        workers: Number of worker processes on this machine that train, with the embedded database
            between them unless ``storage`` names another; None trains in this process.
        storage: URL of a Postgres database, ``postgresql://…``: the study is kept there, and any
            other worker may train its runs, too.
        device: Device to train on: ``cpu``, ``cuda`` or ``cuda:N``; None is a GPU if there is one.
        space: Parameters of your own that are searched together with the schedule, by name, such as
            ``{"weight_decay": (1e-5, 1e-2, "log"), "batch_size": [64, 128, 256]}``: ``train`` gets
            the values of its run in ``run.args``, and the result has the best in ``result.args``.
            Each is a list of values or a range, ``(low, high, "log")`` or ``(low, high,
            "linear")``, of integers if both ends are; its usual value may be stated in ``args``.
        catch: Exceptions that fail an attempt at a run and do not end the search.
        progress: Whether to show a progress bar; None shows one in a terminal and in a notebook.
        name: Name of the study; its stages are stored as NAME/k1, NAME/k2, … and NAME/confirm.
        description: Free text for people.
        epochs: Number of epochs of every run, which reports after each; None if ``steps`` counts.
        steps: Number of optimizer updates of every run; None if ``epochs`` counts.
        report_every: Steps from one report of a run to the next; None if ``epochs`` counts.
        args: JSON-serialisable values by name, which the function gets unchanged.
        steps_per_epoch: Optimizer updates per epoch; None means that the function sets them, or
            that ``steps`` counts.
        averaging_share: Half-life, as a share of the training, of the averaged weights of
            ``run.average`` (default ``0.08``).
        epoch_timeout: Seconds without a report after which a run has failed (default ``7200.0``).
        fork: Whether a worker may import the code's libraries once and fork its runs from there,
            instead of starting Python anew for each (default ``True``).
        metric: Name of the metric, as tables and axes show it.
        direction: Whether a lower or a higher value is better (default ``'min'``).
        unit: Unit behind every value, such as ``%`` or ``nats``; empty for none.
        decimals: Decimals of every value; None means as many as show the noise of a run in two
            digits.
        family: Ordinary schedule that k-decay is applied to (eq. 11, 12, 13) (default
            ``'polynomial'``).
        power: N of the polynomial family (eq. 11); 1 in the others (default ``1.0``).
        lr_min: Learning rate at the end, Le, that you would train with today; 1 % of ``lr_max`` if
            only that is stated.
        lr_max: Learning rate at the start of the decay that you would train with today, L0. Or
            ``(low, high)``: the range is searched, and its geometric middle is what you would train
            with.
        warmup_epochs: Epochs of linear warm-up before the decay (default ``0.0``).
        warmup_steps: Optimizer updates of linear warm-up before the decay, if ``task.steps``
            counts.
        sampler: How candidates are chosen: ``joint`` searches whole schedules on a budget; ``grid``
            tries every k of a grid, as the paper does, and is the default where a key of the grid
            is stated; the others let a sampler of Optuna's choose, ``joint-tpe``, ``joint-gp`` and
            ``joint-random`` whole schedules, ``tpe``, ``gp`` and ``random`` each k alone.
        budget: Trainings of full length that ``joint`` may spend, those of the baselines included
            (default ``30``).
        baselines: Usual schedules whose level and floor ``joint`` tunes as well, to compare with
            (default ``['linear', 'cosine', 'cooldown']``).
        ks: Candidates of stage 1, in place of a grid from ``k_min`` to ``k_max`` by ``k_step``.
        k_min: Smallest k of stage 1; the baseline k = 1 is tried in any case (default ``1.0``).
        k_max: Largest k of stage 1 at its start (default ``5.0``).
        k_cap: Largest k that the grid may grow to while the best k is its largest; None means twice
            ``k_max``.
        k_step: Step of the grid, and the least distance between two terms (default ``0.5``).
        trials: Candidates per stage that tpe, gp and random try; a grid has its own number (default
            ``10``).
        sampler_seed: Seed of the sampler (default ``0``).
        max_terms: Largest number of terms, and so of stages (default ``2``).
        seeds: Number of seeds that every candidate is run on, its replicates (default ``3``).
        min_gain: By how much a term must improve the paired mean to be kept, in the metric's unit;
            ``auto`` means one standard error of that difference, by the noise of the study's own
            runs (default ``'auto'``).
        search_lr_max: Learning-rate levels that a grid searches jointly with the first term:
            ``search.lr_max`` of a study file.
        space_k: Exponent of the first term; below 1 the rate falls at once, above 1 it is held for
            longer (default ``[0.3, 30.0, 'log']``).
        space_power: N of the polynomial family (eq. 11) (default ``[0.5, 4.0, 'log']``).
        space_lr_max: Highest learning rate; None means a quarter of to four times
            ``schedule.lr_max``.
        space_lr_min: Lowest learning rate, as a share of ``lr_max`` (default ``[0.0, 0.1,
            'linear']``).
        space_warmup: Length of the warm-up, as a share of the training; None means that of
            ``schedule``.
        space_decay_share: Length of a cooldown's decay, as a share of the updates after the warm-up
            (default ``[0.05, 0.6, 'log']``).
        space_family: Families that are searched, by name (default ``['polynomial', 'cooldown']``).
        pruning_enabled: Whether runs are chosen as the search proceeds, and may be paused and end
            early. If not, every candidate runs to the end on every seed (default ``True``).
        pruning_first_share: Share of a run's length before which it is never paused (default
            ``0.5``).
        pruning_looks: Number of evenly spaced moments of a run, its end included, at which it may
            be paused; those before ``first_share`` are left out (default ``12``).
        pruning_keep_at_least: Has no effect any more; files of earlier versions may state it
            (default ``6``).
        confirm_seeds: Trainings of each schedule; 0 means no confirmation, and the test set stays
            closed (default ``0``).
        confirm_first_seed: Seed of the first training of each schedule; the others count up from
            it. Another first seed repeats the comparison (default ``1000``).
        confirm_area_matched: Whether to compare also with the original at a higher rate, raised so
            that its mean rate is the found schedule's (default ``True``).
        confirm_baselines: Names of usual schedules to compare with as well, between the same rates
            (default ``[]``).
        workers_heartbeat_seconds: Seconds between two heartbeats of a worker (default ``10.0``).
        workers_grace_seconds: Seconds of silence after which a worker's trial is given to another
            worker (default ``120.0``).
        workers_max_attempts: Trials that may fail with an error before their run counts as failed
            (default ``3``).
        workers_checkpoint_seconds: Seconds between two checkpoints of an image task within an
            epoch; there is also one at the end of every epoch (default ``300.0``).
        workers_decoders: Processes, at most one per core, that decode imagenet's images for each
            worker; with 0 the worker decodes them itself (default ``8``).

    Returns:
        What was found: ``schedule``, ``verdict``, ``confirmed``, ``runs``, ``scheduler(…)``,
        ``report(path)``.

    Raises:
        KDecayError: A value is wrong, or ``train`` has used its run wrongly.
        Exception: What ``train`` has raised, as it is, with a note of the run that raised it.

    Example:
        A whole search, whose training is a formula here::

            import math
            import kdecay_search as kd

            def train(run):
                done = sum(run.schedule(step) for step in range(run.total_steps))
                return abs(math.log(done / 20))

            result = kd.find_schedule(train, steps=100, report_every=10, lr_max=(0.1, 1), budget=12)
    """
    own = ("train", "study_file", "workers", "storage", "device", "catch", "progress")
    stated = {key: value for key, value in locals().items() if key not in (*own, "own")}
    with warnings.catch_warnings():
        # Of tqdm, which Optuna imports: we show a bar of our own.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from kdecay_search.api.find import find  # noqa: PLC0415 - slow

    return find(train, study_file, workers, storage, device, catch, progress, stated)
