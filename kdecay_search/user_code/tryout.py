"""One short run in this process, without a database, to see whether a task suits a search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from kdecay_search.study.candidate import Candidate
from kdecay_search.study.file import changed
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Interruption, Released, TrainFunction
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.instrumentation import LearningRates, Log, LoggingTaskRun
from kdecay_search.user_code.run import TaskRun

SEED, OTHER_SEED = 0, 1
PREFIX = "kdecay-try-"


@dataclass
class Tryout:
    """What was observed of a task in a short run."""

    spec: StudySpec
    """The study, with a short training."""
    epochs: list[Epoch] = field(default_factory=list)
    """The planned reports that the task made, in order."""
    calls: Counter[str] = field(default_factory=Counter)
    """How often the task used each attribute and method of its :class:`TaskRun`."""
    rates: LearningRates = field(default_factory=LearningRates)
    """The LRs of the task's optimizer."""
    run: TaskRun | None = None
    """The last :class:`TaskRun` that a Python function got; None for any other task."""
    result: float | None = None
    """The final value of the metric that the task returned; None if it returned none."""
    restored: int | None = None
    """Reports that the task resumed from after an interruption; None if it was not interrupted."""
    looked_for_state: bool = False
    """Whether the task asked for the state of an interrupted run."""
    seed_matters: bool | None = None
    """Whether a run with another seed gave other numbers; None if that was not tried."""

    @property
    def form(self) -> MetricFormat:
        """How values of the metric are shown."""
        metric = self.spec.task.metric
        raw = (metric.error(epoch.validation_error) for epoch in self.epochs)
        return MetricFormat.of(metric, None, raw)


def shortened(spec: StudySpec, total: int) -> StudySpec:
    """Return the study with a shorter training, and its warm-up shortened in proportion.

    Args:
        spec: The study.
        total: The largest number of epochs or steps, whichever the study counts.
    """
    length, schedule = spec.task.length, spec.schedule
    if total >= length.total:
        return spec
    warmup: dict[str, object]
    task: dict[str, object]
    if length.counts_steps:
        warmup = {}
        if schedule.warmup_steps is not None:
            warmup = {"warmup_steps": schedule.warmup_steps * total // length.total}
        task = {"steps": total, "report_every": min(length.report_every, total)}
    else:
        warmup = {"warmup_epochs": schedule.warmup_epochs * total / length.total}
        task = {"epochs": total}
    spec = changed(spec, "schedule", warmup, f"--{length.unit}s")
    return changed(spec, "task", task, f"--{length.unit}s")


class TryoutRun:
    """A :class:`kdecay_search.tasks.protocol.Run` that records and logs what its task does.

    With ``interrupts`` set, a task that looked for its state is interrupted after its first report,
    as a worker that stops would do, to see whether the task can resume.
    """

    def __init__(
        self, tryout: Tryout, k: float, device: str, folder: Path, log: Log, interrupts: bool
    ) -> None:
        self.spec, self.ks, self.comparator = tryout.spec, (k,), None
        self.seed, self.device = SEED, device
        levels = self.spec.search.lr_max
        self.lr_max = levels[0] if levels else None
        original = self.spec.original
        self.point: Candidate | None = original._replace(k=k) if original.args else None
        self.checkpoint = _ObservedCheckpoint(folder, self.spec.fingerprint(self.ks, SEED))
        self._tryout, self._log, self._interrupts = tryout, log, interrupts
        self._updates = 0

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self._tryout.restored = len(epochs)
        self._log(f"resumed after {self.spec.task.length.place(len(epochs))}")

    def report(self, epoch: Epoch) -> None:
        self._tryout.epochs.append(epoch)
        used = self._tryout.rates.used[self._updates :]
        rates = [next(filter(None, groups), 0.0) for groups in used]  # of a group not frozen
        self._updates += len(rates)
        self._log(_summary(self._tryout, epoch, rates))
        is_last = epoch.number == self.spec.task.length.reports
        if self._interrupts and self.checkpoint.was_read and not is_last:
            self._interrupts = False
            self._tryout.restored = 0
            raise Released

    def poll(self) -> None:
        return


class _ObservedCheckpoint(Checkpoint):
    """A checkpoint that knows whether it has been read."""

    def __init__(self, folder: Path, fingerprint: bytes) -> None:
        super().__init__(folder, RunKey(1, 0, SEED), fingerprint, 300.0)
        self.was_read = False

    def read(self) -> bytes | None:
        self.was_read = True
        return super().read()


def try_function(
    tryout: Tryout, function: Callable[[TaskRun], object], k: float, device: str, log: Log
) -> None:
    """Train one run by a Python function of the user; interrupt it once if it can resume.

    Args:
        tryout: Takes down what is observed.
        function: The user's training function.
        k: The exponent of the schedule.
        device: Where to train: ``cpu``, ``cuda`` or ``cuda:N``.
        log: Takes a line for everything that the function does.

    Raises:
        Exception: Whatever the function raises.
    """

    def observed(run: TaskRun) -> object:
        tryout.run = run
        tryout.rates.start()
        stand_in = LoggingTaskRun(run, log, tryout.rates, tryout.calls)
        return function(stand_in)  # type: ignore[arg-type]

    with TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        run = TryoutRun(tryout, k, device, Path(folder), log, interrupts=True)
        try:
            tryout.result = run_function(observed, run)
        except Released:
            log("interrupted, as by a worker that stops; called again")
            tryout.rates.forget_optimizer()
            before = len(tryout.epochs), len(tryout.rates.used)
            tryout.result = run_function(observed, run)
            if not tryout.restored:  # it started over
                del tryout.epochs[: before[0]], tryout.rates.used[: before[1]]
        finally:
            tryout.looked_for_state = run.checkpoint.was_read
            tryout.rates.stop()


def try_task(tryout: Tryout, train: TrainFunction, k: float, device: str, log: Log) -> None:
    """Train one run by a program or a built-in task, without an interruption.

    Args:
        tryout: Takes down what is observed.
        train: The task.
        k: The exponent of the schedule.
        device: Where to train: ``cpu``, ``cuda`` or ``cuda:N``.
        log: Takes a line for every report.

    Raises:
        Exception: Whatever the task raises.
    """
    with TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        run = TryoutRun(tryout, k, device, Path(folder), log, interrupts=False)
        tryout.result = train(run)


class _Differs(Interruption):
    """A report differs from the first run's: the second run has shown what it was to show."""


class _SeedRun(TryoutRun):
    """A run with another seed, which ends at its first report that differs from the first run's."""

    def __init__(self, tryout: Tryout, k: float, device: str, folder: Path) -> None:
        super().__init__(tryout, k, device, folder, lambda text: None, interrupts=False)
        self.seed = OTHER_SEED
        self.same = 0
        """Number of reports that were the same as those of the first run."""

    def restore(self, epochs: Sequence[Epoch]) -> None:
        return

    def report(self, epoch: Epoch) -> None:
        first = self._tryout.epochs[self.same] if self.same < len(self._tryout.epochs) else None
        if first is None or _measured(first) != _measured(epoch):
            raise _Differs
        self.same += 1


def try_another_seed(tryout: Tryout, train: TrainFunction, k: float, device: str, log: Log) -> None:
    """Train once more with another seed, until the reports differ: note whether the seed matters.

    Args:
        tryout: Holds what the first run reported, and takes down the answer.
        train: Trains the first run's task.
        k: The exponent of the schedule.
        device: Where to train: ``cpu``, ``cuda`` or ``cuda:N``.
        log: Takes a line that says what is done.
    """
    log(f"once more with seed {OTHER_SEED}, until the reports differ")
    with TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        run = _SeedRun(tryout, k, device, Path(folder))
        try:
            train(run)
        except _Differs:
            tryout.seed_matters = True
        except Exception as error:  # whatever user code raises in a second run of one process
            log(f"it failed, so what the seed changes is not known: {error}")
        else:
            tryout.seed_matters = False if run.same else None


def _measured(epoch: Epoch) -> tuple[float | None, ...]:
    """What a report says of the training: all but the learning rate."""
    return epoch.validation_error, epoch.averaged_error, epoch.training_loss


def _summary(tryout: Tryout, epoch: Epoch, rates: Sequence[float]) -> str:
    """Return one line about a report; ``rates`` are the LRs of its updates, as far as known."""
    metric, form = tryout.spec.task.metric, tryout.form
    value = form.value(metric.error(epoch.validation_error))
    parts = [f"{tryout.spec.task.length.place(epoch.number)}: {metric.name} {value}"]
    if epoch.averaged_error is not None:
        parts.append(f"averaged {form.value(metric.error(epoch.averaged_error))}")
    if epoch.training_loss is not None:
        parts.append(f"loss {epoch.training_loss:.4g}")
    if rates:
        parts.append(f"{len(rates)} updates, LR {rates[0]:.4g} to {rates[-1]:.4g}")
    elif epoch.learning_rate is not None:
        parts.append(f"LR {epoch.learning_rate:.4g}")
    return ", ".join(parts)
