"""What your own training code gets: ``def train(run): ...``. See docs/own-code.md.

:class:`TaskRun` wraps the :class:`kdecay_search.tasks.protocol.Run` that a worker hands to a task;
:func:`run_function` calls your function with it and settles what came of it.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kdecay_search.errors import TaskError
from kdecay_search.schedules.base import Schedule
from kdecay_search.study.base import AVERAGING_SHARE
from kdecay_search.study.comparators import schedule_of
from kdecay_search.study.user_tasks import PythonTask
from kdecay_search.tasks.protocol import Epoch, Interruption, Released, Run
from kdecay_search.user_code import state as states
from kdecay_search.user_code.numbers import check_percent, epoch_of, number

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from kdecay_search.training.lr_driver import LRDriver, ScheduleLR
    from kdecay_search.training.averaging import SwappedAverage

logger = logging.getLogger(__name__)


class Diverged(Interruption):
    """The loss or the error is no longer a number: the run ends here, with 100 % error."""


class Stateful(Protocol):
    """A model, an optimizer, a scheduler, …: whatever gives its state and takes it back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class TaskRun:
    """One training from its first update to its last, as your own code sees it.

    ``schedule`` gives the LR of an update, and ``report`` records an epoch; all else spares work.
    Any call may raise a :class:`kdecay_search.tasks.protocol.Interruption`, when the run is ended early or
    its worker stops: let it pass. What a task must not do raises :class:`TaskError`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._steps_per_epoch: int | None = getattr(run.spec.task, "steps_per_epoch", None)
        self._in_file = self._steps_per_epoch
        self._schedule: Schedule | None = None
        self._curve: list[Epoch] = []
        self._drivers: list[LRDriver] = []
        self._scheduler: ScheduleLR | None = None
        self._updates: list[int] = []
        self._kept: tuple[Stateful, ...] = ()
        self._will_save = False
        self._end: Interruption | None = None
        self._scratch: Path | None = None

    # ---- what to train ----------------------------------------------------------------------

    @property
    def args(self) -> Mapping[str, Any]:
        """``task.args`` of the study file."""
        task = self._run.spec.task
        return task.args if isinstance(task, PythonTask) else {}

    @property
    def seed(self) -> int:
        """First weights, order of the data and augmentation shall follow from it alone."""
        return self._run.seed

    @property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``cuda:1``."""
        return self._run.device

    @property
    def purpose(self) -> Literal["search", "confirmation"]:
        """``search``: train on a part of the training data and report the error on the rest.
        ``confirmation``: train on all training data and report the error on the test set."""
        return "confirmation" if self._run.comparator else "search"

    @property
    def epochs(self) -> int:
        """``task.epochs`` of the study file."""
        return self._run.spec.task.epochs

    @property
    def epochs_done(self) -> int:
        """Epochs that were reported, by an earlier attempt at this run too (:meth:`keep`)."""
        return len(self._curve)

    def remaining_epochs(self) -> range:
        """Numbers of the epochs to train, from 1; fewer in a run that is gone on with."""
        return range(self.epochs_done + 1, self.epochs + 1)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer updates of an epoch: ``task.steps_per_epoch``, or what your code sets."""
        if self._steps_per_epoch is None:
            raise TaskError(
                "the number of updates is not known yet: set run.steps_per_epoch = len(loader) "
                "first, or task.steps_per_epoch in the study file"
            )
        return self._steps_per_epoch

    @steps_per_epoch.setter
    def steps_per_epoch(self, steps: int) -> None:
        if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
            raise TaskError(f"run.steps_per_epoch = {steps!r}: must be a whole number, 1 or more")
        if self._in_file not in (None, steps):
            raise TaskError(
                f"run.steps_per_epoch = {steps}: the study file says {self._in_file}; "
                "take task.steps_per_epoch out there, or do not set it here"
            )
        if self._schedule is not None and self._steps_per_epoch != steps:
            raise TaskError(
                f"run.steps_per_epoch = {steps}: was {self._steps_per_epoch} when the schedule "
                "was first asked; set it once, before that"
            )
        self._steps_per_epoch = int(steps)

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole training."""
        return self.epochs * self.steps_per_epoch

    # ---- the learning rate ------------------------------------------------------------------

    def schedule(self, step: int) -> float:
        """LR of update ``step``, counted from 0. From ``total_steps`` on it stays at the end."""
        if self._schedule is None:
            run, steps = self._run, self.steps_per_epoch
            self._schedule = schedule_of(run.spec, run.comparator, run.ks, steps, run.lr_max)
        return self._schedule(min(step, self.total_steps), self.total_steps)

    def drive(self, optimizer: Optimizer) -> None:
        """Let the schedule set the LR of a torch optimizer before each of its updates.

        Each update also polls. The optimizer's own ``lr`` does not matter; parameter groups that
        differ in it keep their ratio to the first. The count of updates is a part of what
        :meth:`keep` and :meth:`save` keep.
        """
        from kdecay_search.training.lr_driver import LRDriver  # noqa: PLC0415 - torch

        driver = LRDriver(optimizer, self.schedule, self.poll)
        if len(self._drivers) < len(self._updates):
            driver.updates = self._updates[len(self._drivers)]
        self._drivers.append(driver)

    def scheduler(self, optimizer: Optimizer) -> ScheduleLR:
        """The same as a torch ``LRScheduler``: call ``step()`` after every update, which also
        polls. Its state is its own: ``state_dict()``."""
        from kdecay_search.training.lr_driver import ScheduleLR  # noqa: PLC0415 - torch

        self._scheduler = ScheduleLR(optimizer, self.schedule, self.poll)
        return self._scheduler

    # ---- what came of it --------------------------------------------------------------------

    def report(
        self,
        epoch: int,
        validation_error: float,
        averaged_error: float | None = None,
        *,
        loss: float | None = None,
        lr: float | None = None,
        **metrics: float,
    ) -> None:
        """Record an epoch; every epoch once, in order, counted from 1.

        ``validation_error``: in percent (%), of the weights as they are; ``averaged_error``: of
        averaged weights (:meth:`average`): without it no run is ended early. ``loss``: the epoch's
        mean training loss; ``lr``: at its last update. Other ``metrics`` go to the worker's log.
        NaN or infinity ends the run as diverged.
        """
        self.raise_end()
        rate = self._rate() if lr is None else lr
        told = epoch_of(self._due(epoch), validation_error, averaged_error, loss, rate)
        others = {name: number(name, value) for name, value in metrics.items()}
        if others:
            shown = ", ".join(f"{name} {value:g}" for name, value in others.items())
            logger.info("epoch %d: %s", told.number, shown)
        self._curve.append(told)
        try:
            self._guarded(self._run.report, told)
        except Released:
            self._save_kept()
            if not self._will_save or self._kept:
                raise  # else :meth:`save` raises it, once the epoch is kept
        else:
            self._save_kept()
        if told.diverged:
            self._guarded(_diverge)

    def poll(self) -> None:
        """Raise if the run shall end; cheap enough for every batch."""
        self.raise_end()
        self._guarded(self._run.poll)

    # ---- going on after an interruption -----------------------------------------------------

    @property
    def checkpoint_dir(self) -> Path:
        """A folder of this run's own, also for later attempts at it; removed when it has ended."""
        if self._run.checkpoint is not None:
            folder = self._run.checkpoint.folder
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="kdecay-run-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch

    def keep(self, *objects: Stateful) -> None:
        """Save these objects' state after every epoch; put it back if this run was interrupted.

        ``objects``: model, optimizer, :meth:`average`'s, …, always in this order. The random
        generators' states of Python, numpy and torch are kept with them. Call it before the first
        epoch, and train :meth:`remaining_epochs`.
        """
        found = self._resume()
        if found is not None:
            self._put_back(objects, found)
        self._kept = objects

    def _put_back(self, objects: tuple[Stateful, ...], found: Any) -> None:
        """What does not fit is of other code: it fails this attempt, and not the next."""
        try:
            for thing, state in zip(objects, found["objects"], strict=True):
                thing.load_state_dict(state)
            states.set_random_state(found["random"])
        except Exception:
            if self._run.checkpoint is not None:
                self._run.checkpoint.set_aside("does not fit this code")
            raise

    def save(self, state: Any) -> None:
        """Keep ``state``, anything that can be pickled, with the epochs reported so far: call it
        after :meth:`report`, and within a long epoch. It replaces what was saved before."""
        if self._kept:
            raise TaskError("run.save: run.keep saves by itself after every report; use one")
        self._write(state)
        self._will_save = True
        self.raise_end()

    def resume(self) -> Any:
        """What an interrupted attempt at this run saved last, or None; tensors are on the CPU."""
        self._will_save = True
        return self._resume()

    # ---- averaged weights -------------------------------------------------------------------

    def average(self, model: nn.Module, optimizer: Optimizer | None = None) -> SwappedAverage:
        """Averaged weights of a torch model, batch norm's statistics included.

        ``with average: error = evaluate(model)`` evaluates the model with them, in eval mode.
        After every update of ``optimizer`` they are updated; without it, call ``update()``.
        Call it when the model is on its device.
        """
        from kdecay_search.training.averaging import SwappedAverage  # noqa: PLC0415 - torch

        share = getattr(self._run.spec.task, "averaging_share", AVERAGING_SHARE)
        return SwappedAverage(model, share * self.total_steps, optimizer)

    def seed_everything(self) -> None:
        """Seed Python's, numpy's and torch's global generators with the run's seed."""
        states.seed_random(self.seed)

    # ---- inside -----------------------------------------------------------------------------

    def _due(self, number: int) -> int:
        due = self.epochs_done + 1
        if number != due or due > self.epochs:
            rule = f"epoch {due} is next" if due <= self.epochs else f"the last was {due - 1}"
            raise TaskError(
                f"run.report(epoch={number!r}): {rule}; report every epoch once, in order, from 1"
            )
        return due

    def _rate(self) -> float | None:
        if self._drivers:
            return self._drivers[0].rate
        return None if self._scheduler is None else self._scheduler.rate

    def _guarded(self, call: Callable[..., None], *arguments: object) -> None:
        """An interruption is raised again by every later call, should your code have caught it."""
        try:
            call(*arguments)
        except Interruption as interruption:
            self._end = interruption
            raise

    def raise_end(self) -> None:
        """Raise what ended this run, if anything did."""
        if self._end is not None:
            raise self._end

    def _save_kept(self) -> None:
        if self._kept:
            objects = [thing.state_dict() for thing in self._kept]
            self._write({"objects": objects, "random": states.random_state()})

    def _write(self, state: Any) -> None:
        if self._run.checkpoint is None:
            return
        curve = [astuple(epoch) for epoch in self._curve]
        updates = [driver.updates for driver in self._drivers]
        whole = {"curve": curve, "updates": updates, "state": state}
        self._run.checkpoint.write(states.pack(whole))

    def _resume(self) -> Any:
        if self._curve:
            raise TaskError("run.keep and run.resume come before the first report")
        checkpoint = self._run.checkpoint
        payload = None if checkpoint is None else checkpoint.read()
        if checkpoint is None or payload is None:
            return None
        try:
            found = states.unpack(payload)
        except Exception:  # whatever unpickling raises: the code has changed since, say
            checkpoint.set_aside("cannot be loaded")
            return None
        self._curve = [Epoch(*values) for values in found["curve"]]
        self._updates = found["updates"]
        for driver, updates in zip(self._drivers, self._updates, strict=False):
            driver.updates = updates
        self._run.restore(self._curve)
        return found["state"]

    def settled(self, result: object) -> float | None:
        """What the function returned, checked; a run that reported nothing has one epoch then."""
        self.raise_end()
        if result is not None:
            error = number("the returned validation error", result)
            if not self._curve:
                self.report(1, error)
            elif math.isfinite(error):
                check_percent("the returned validation error", error)
            return error if math.isfinite(error) else None
        if not self._curve:
            raise TaskError(
                "the function reported no epoch and returned no number: call run.report every "
                "epoch, or return the validation error in percent"
            )
        return None


def run_function(function: Callable[[TaskRun], object], run: Run) -> float | None:
    """Call your ``function`` on a run; return the final validation error (%), if it did.

    Raises what the function raises; an :class:`Interruption` also if your code caught it.
    """
    task_run = TaskRun(run)
    try:
        return task_run.settled(function(task_run))
    except Diverged:
        return None
    except Exception:
        with suppress(Diverged):
            task_run.raise_end()
            raise
        return None


def _diverge() -> None:
    raise Diverged
