"""A search in this process: no database, no files, one run after another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import Protocol

from kdecay_search.api.memory import MemoryCheckpoint, MemoryStore
from kdecay_search.errors import TaskError
from kdecay_search.search import Memo
from kdecay_search.search.early_stopping import goes_on
from kdecay_search.search.store import carry_out, wants_changes
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.outcome import is_worsened, may_be_paused, reported_value, result_of
from kdecay_search.tasks.protocol import Epoch, Paused, Run, TrainFunction
from kdecay_search.user_code.entry import InvalidEntry, import_function
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.random_state import random_state_preserved, seed_all
from kdecay_search.user_code.reports import too_few_reports
from kdecay_search.user_code.run import TaskRun
from kdecay_search.worker.sampling import MemorySampler
from kdecay_search.worker.train import describe_failure, keeps_state, ks_of, load_task

WORKER = "this process"
"""Name of the worker that all runs have."""

UserFunction = Callable[[TaskRun], object]
"""The user's training function."""


class Listener(Protocol):
    """Is told how a search goes on."""

    def planned(self, snapshot: StudySnapshot) -> None:
        """Note a study in which runs have just been planned, or have ended."""
        ...

    def began(self, trial: Trial, name: str) -> None:
        """Note that a run begins, which people know by a name."""
        ...

    def reported(self, share: float) -> None:
        """Note how much of the run is trained."""
        ...


class InProcessSearch:
    """A study that is searched in this process."""

    def __init__(
        self,
        spec: StudySpec,
        train: UserFunction | None,
        device: str | None,
        catch: tuple[type[Exception], ...],
        listener: Listener,
    ) -> None:
        """
        Args:
            spec: The study.
            train: The user's training function; None for the task of the study file.
            device: The device to train on; None for a GPU if torch finds one, else the CPU.
            catch: Exceptions that fail an attempt at a run and do not end the search.
            listener: Is told how the search goes on.
        """
        self.spec, self.store, self.stopped = spec, MemoryStore(), False
        self.steps_per_epoch: int | None = None
        """Updates per epoch, as the training function has stated them; None if it has not."""
        self._task = _task_of(spec, train, self._note_steps)
        self.device, self.listener = device, listener
        self._catch = catch
        self._memo, self._sampler = Memo(), MemorySampler(spec)

    def run(self) -> None:
        """Train until the study is done, or until Ctrl-C.

        Raises:
            Exception: What the training function has raised, with a note of its run.
        """
        try:
            with random_state_preserved():
                while (trial := self._next()) is not None:
                    self._train(trial)
        except KeyboardInterrupt:
            self.stopped = True

    def snapshot(self) -> StudySnapshot:
        """The study as it is now."""
        return StudySnapshot(self.spec, self.store.trials, self.stopped, self._memo)

    def _next(self) -> Trial | None:
        """The trial to train next; None if the study is over."""
        while (trial := self.store.next_waiting()) is None:
            snapshot = self.snapshot()
            self.listener.planned(snapshot)
            if not wants_changes(snapshot.plan):
                return None
            carry_out(snapshot.plan, self.store)
        return trial

    def _train(self, waiting: Trial) -> None:
        """Train one run to its end, or until it is paused, and keep what came of it."""
        trial = replace(waiting, state=State.RUNNING, worker=WORKER)
        if trial.request.is_open and trial.k is None:
            chosen = self._sampler.choose(trial.request, self.store.trials)
            request = trial.request.chosen(chosen) if chosen.is_whole else trial.request
            trial = replace(trial, request=request, k=chosen.k, lr_max=chosen.lr_max)
        self.store.put(trial)
        name = run_name(trial)
        self.listener.began(trial, name)
        run, began = _MemoryRun(self, trial), time.monotonic()
        try:
            seed_all(trial.key.seed)
            value = self._task(run)
            ended = self._completed(trial, run.curve, value)
        except Paused:
            ended = replace(run.trial, state=State.PAUSED)
        except KeyboardInterrupt:
            self.store.put(waiting)
            raise
        except self._catch as error:
            reason, message = describe_failure(error, run.device)
            ended = _with_reports(trial, run.curve, self.spec)
            ended = replace(ended, state=State.FAILED, reason=reason, message=message)
        except BaseException as error:
            error.add_note(f"kdecay_search: raised in run {trial.trial_id + 1}, {name}")
            raise
        self.store.put(ended)
        self.store.curves[trial.trial_id] = run.curve
        seconds = self.store.seconds
        seconds[trial.trial_id] = seconds.get(trial.trial_id, 0.0) + time.monotonic() - began
        if ended.state != State.PAUSED:
            self.store.checkpoints.pop(trial.trial_id, None)

    def _completed(self, trial: Trial, curve: Sequence[Epoch], value: float | None) -> Trial:
        metric = self.spec.task.metric
        if not curve:
            raise TaskError("the run has ended without a report")
        return replace(
            _with_reports(trial, curve, self.spec),
            state=State.COMPLETE,
            error=metric.error(result_of(metric, curve, value)),
            worsened=is_worsened(metric, curve),
        )

    def goes_on(self, trial: Trial) -> bool:
        """Whether a run that has just reported at a look trains on, by what is known now.

        Args:
            trial: The run, with its reports so far.
        """
        self.store.put(trial)
        return goes_on(self.spec, self.store.trials, trial.trial_id, self._memo)

    def _note_steps(self, run: TaskRun) -> None:
        self.steps_per_epoch = run._steps_per_epoch or self.steps_per_epoch


def run_name(trial: Trial) -> str:
    """A run's name for people, such as ``k = 2.5 at lr_max 0.1, seed 1``."""
    request, point = trial.request, trial.point or Candidate(trial.k, trial.lr_max)
    name = candidate_name(point, request.earlier_ks)
    if request.comparator is not None:
        name = f"confirmation, {request.comparator}: {name}"
    return f"{name}, seed {trial.key.seed}"


def _with_reports(trial: Trial, curve: Sequence[Epoch], spec: StudySpec) -> Trial:
    """A trial with what its run has reported."""
    if not curve:
        return trial
    metric, looks = spec.task.metric, set(spec.looks)
    last = metric.error(reported_value(curve[-1]))
    is_raw = any(epoch.averaged_error is None for epoch in curve)
    at_looks = [epoch for epoch in curve if epoch.number in looks and not is_raw]
    return replace(
        trial,
        epochs=len(curve),
        averaged_error=None if is_raw else last,
        raw_error=last if is_raw else None,
        looks={epoch.number: metric.error(reported_value(epoch)) for epoch in at_looks},
    )


class _MemoryRun:
    """The :class:`kdecay_search.tasks.protocol.Run` of a search in this process."""

    def __init__(self, search: InProcessSearch, trial: Trial) -> None:
        request = trial.request
        self.spec, self.seed, self.comparator = search.spec, trial.key.seed, request.comparator
        self.lr_max, self.point = trial.lr_max, request.point
        self.ks = ks_of(request, trial.point or Candidate(trial.k))
        self.checkpoint: Checkpoint | None = None
        if self.spec.looks and self.comparator is None:
            kept = search.store.checkpoints
            self.checkpoint = kept.setdefault(trial.trial_id, MemoryCheckpoint())
        self.curve: list[Epoch] = []
        """The reports so far."""
        self.trial = trial
        """The trial, with its reports up to the last look."""
        self._search, self._restored = search, 0

    @cached_property
    def device(self) -> str:
        """The device that was asked for, or else a GPU, or the CPU; torch is imported only if the
        training function wants to know."""
        if self._search.device is not None:
            return self._search.device
        if "torch" not in sys.modules and find_spec("torch") is None:
            return "cpu"
        import torch  # noqa: PLC0415 - slow

        return "cuda" if torch.cuda.is_available() else "cpu"

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self.curve[:] = epochs
        self._restored = len(epochs)

    def report(self, epoch: Epoch) -> None:
        self.curve.append(epoch)
        self._search.listener.reported(epoch.number / self.spec.task.length.reports)
        is_decision = may_be_paused(self.spec, epoch, self._restored)
        if is_decision and self.checkpoint and keeps_state(self.spec, self.checkpoint):
            self.trial = _with_reports(self.trial, self.curve, self.spec)
            if not self._search.goes_on(self.trial):
                raise Paused

    def poll(self) -> None:
        """Nothing: Ctrl-C arrives by itself."""


def _task_of(
    spec: StudySpec, train: UserFunction | None, note: Callable[[TaskRun], None]
) -> TrainFunction:
    """The task that trains the study's runs here."""
    task = spec.task
    if not isinstance(task, PythonTask):
        return load_task(spec)
    if train is None:
        try:
            function: UserFunction = import_function(task.entry)
        except InvalidEntry as error:
            raise TaskError(str(error)) from None
    else:
        function = train

    def observed(run: TaskRun) -> object:
        try:
            return function(run)
        finally:
            note(run)

    def train_run(run: Run) -> float | None:
        value = run_function(observed, run)
        curve: Sequence[Epoch] = run.curve if isinstance(run, _MemoryRun) else ()
        has_diverged = bool(curve) and curve[-1].diverged
        if value is None and not has_diverged and len(curve) < task.length.reports:
            name = getattr(function, "__name__", task.entry)
            raise TaskError(too_few_reports(name, task.length, len(curve)))
        return value

    return train_run
