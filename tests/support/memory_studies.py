"""Plain values for tests: study specs, trials, and a queue in memory that plays a study.

Nothing here knows a database. The queue does what the driver and the workers do between them:
it brings its trials to the plan, and turns waiting trials into finished ones.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdecay_search.search import Plan, Progress, make_plan
from kdecay_search.study.builtin_tasks import SimulatedTask
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import FOUND
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import WITHDRAWN, RunKey, RunRequest, State, Trial
from kdecay_search.tasks.simulated import comparator_curve

NOISELESS = {"seed_noise": 0.0, "run_noise": 0.0, "epoch_noise": 0.0}
EPOCHS = 3
JOINT_KEYS = {"sampler", "space", "budget", "baselines"}
"""Keys of a search table that do not mean a grid."""
MOST_TRIALS = 5000
"""A study of these tests that has more will never end."""

Outcome = Callable[[Trial], Trial]
"""What becomes of a trial whose k is known: the same trial, finished."""


def study_table(name: str = "small", **tables: Any) -> dict[str, Any]:
    """A minimal study file as nested dicts; ``tables`` replace or add top-level keys.

    It searches a grid, unless its search table states a sampler or a key of the joint search.
    """
    task = {"kind": "simulated", "epochs": EPOCHS}
    search = tables.pop("search", {})
    if isinstance(search, dict) and not JOINT_KEYS & search.keys():
        search = {"sampler": "grid"} | search
    table = {"name": name, "task": task, "pruning": {"enabled": False}}
    return table | tables | {"search": search}


def study(
    name: str = "small",
    surface: dict[str, Any] | None = None,
    epochs: int = EPOCHS,
    **tables: Any,
) -> StudySpec:
    """A valid simulated study. ``surface``: keys of ``[task.surface]``, without noise else."""
    task = {"kind": "simulated", "epochs": epochs, "surface": NOISELESS | (surface or {})}
    return StudySpec.model_validate_json(json.dumps(study_table(name, **{"task": task} | tables)))


def images_table(**data: Any) -> dict[str, Any]:
    """A minimal study file of an image task; ``data``: keys of ``[task.data]``."""
    return study_table(task={"kind": "images", "epochs": 2, "data": {"name": "digits"} | data})


def trial(
    number: int,
    k: float | None,
    error: float | None = None,
    *,
    stage: int = 1,
    candidate: int = 0,
    seed: int = 0,
    earlier: tuple[float, ...] = (),
    state: State | None = None,
    **more: Any,
) -> Trial:
    """A trial as the storage holds it: complete if it has an error, else waiting."""
    request = RunRequest(RunKey(stage, candidate, seed), earlier, k, (1.0, 5.0))
    state = state or (State.WAITING if error is None else State.COMPLETE)
    return Trial(number, request, state, k, error, trial_id=number, **more)


def left_by_a_race(runs: Mapping[float, Sequence[float | None]]) -> list[Trial]:
    """What a race left of candidates, in their order: errors by seed, None where a run was not
    needed."""
    return [
        trial(
            100 * index + seed,
            k,
            error,
            candidate=index,
            seed=seed,
            state=State.PRUNED if error is None else None,
        )
        for index, (k, errors) in enumerate(runs.items())
        for seed, error in enumerate(errors)
    ]


def simulated(spec: StudySpec) -> Outcome:
    """Every trial runs to its end on the simulated surface."""

    def run(waiting: Trial) -> Trial:
        assert isinstance(spec.task, SimulatedTask)
        request, k = waiting.request, waiting.k
        assert k is not None or request.point is not None
        ks = (*request.earlier_ks, *(() if k is None else (k,)))
        name = request.comparator or FOUND
        seed = waiting.key.seed
        last = comparator_curve(spec, name, ks, seed, waiting.lr_max, request.point)[-1]
        return completed(waiting, last.validation_error)

    return run


def stated(*tables: dict[float, float | list[float]]) -> Outcome:
    """Errors by k, a table per stage; a list holds one error per seed."""

    def run(waiting: Trial) -> Trial:
        assert waiting.k is not None
        errors = tables[waiting.key.stage - 1][waiting.k]
        return completed(
            waiting, errors[waiting.key.seed] if isinstance(errors, list) else float(errors)
        )

    return run


def completed(waiting: Trial, error: float) -> Trial:
    return replace(waiting, state=State.COMPLETE, error=error, averaged_error=error, epochs=EPOCHS)


def failed(waiting: Trial, reason: str = "error") -> Trial:
    return replace(waiting, state=State.FAILED, reason=reason, message="it broke")


def pruned(waiting: Trial) -> Trial:
    return replace(waiting, state=State.PRUNED, averaged_error=50.0, epochs=EPOCHS - 1)


class MemoryQueue:
    """The trials of one study in a list; ``outcome`` says what becomes of each that is worked."""

    def __init__(self, spec: StudySpec, outcome: Outcome | None = None, seed: int = 0) -> None:
        self.spec = spec
        self.trials: list[Trial] = []
        self.outcome = outcome or simulated(spec)
        self._random = random.Random(seed)

    @property
    def waiting(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == State.WAITING]

    def plan(self) -> Plan:
        return make_plan(self.spec, self.trials)

    def reconcile(self) -> Plan:
        """Bring the trials to the plan, as the driver does; return the plan it acted on."""
        plan = self.plan()
        for redundant in plan.withdraw:
            self.put(replace(redundant, state=State.FAILED, reason=WITHDRAWN))
        for paused in plan.resume:
            self.put(replace(paused, state=State.WAITING))
        for paused in plan.close:
            self.put(replace(paused, state=State.PRUNED))
        self._add(plan.enqueue, State.WAITING)
        self._add(plan.skip, State.PRUNED)
        return plan

    def _add(self, requests: Iterable[RunRequest], state: State) -> None:
        for request in requests:
            number = len(self.trials)
            self.trials.append(
                Trial(number, request, state, request.k, trial_id=number, lr_max=request.lr_max)
            )

    def put(self, changed: Trial) -> None:
        self.trials[changed.number] = changed

    def work(self, most: int | None = None) -> int:
        """Work the first waiting trials, as workers do; return how many."""
        claimed = self.waiting[:most]
        for trial in claimed:
            point = self.choose(trial.request) if trial.request.is_open else trial.point
            assert point is not None
            self.put(self.outcome(replace(trial, k=point.k, lr_max=point.lr_max)))
        return len(claimed)

    def choose(self, request: RunRequest) -> Candidate:
        """The sampler: any k within the request's bounds, at any of its levels."""
        k = self._random.uniform(*request.bounds)
        return Candidate(
            k, self._random.choice(request.levels) if request.levels else request.lr_max
        )

    def play(self, at_once: int | None = None) -> Plan:
        """Tick and work until the study no longer runs; ``at_once``: trials between two ticks."""
        while (plan := self.reconcile()).progress == Progress.RUNNING:
            done = self.work(at_once) + len(plan.skip) + len(plan.close)
            assert done, "the study runs, but nothing is left to work on"
            assert len(self.trials) < MOST_TRIALS, "the study does not come to an end"
        return self.plan()

    def runs(self) -> Counter[RunKey]:
        """How many trials each run was given."""
        return Counter(trial.key for trial in self.trials)

    def ks_of(self, stage: int) -> set[float]:
        return {t.k for t in self.trials if t.key.stage == stage and t.k is not None}
