"""One short run in this process, without a database: does the task do what a search needs?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from kdecay_search.study.file import changed
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Released, TrainFunction
from kdecay_search.user_code.run import TaskRun, run_function
from kdecay_search.user_code.watched import Rates, Tell, Watched

SEED = 0
PREFIX = "kdecay-try-"


@dataclass
class Tried:
    """What was seen of a task."""

    spec: StudySpec
    """With few epochs."""
    epochs: list[Epoch] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    rates: Rates = field(default_factory=Rates)
    run: TaskRun | None = None
    """The last one that the function got."""
    result: float | None = None
    restored: int | None = None
    """Epochs that it went on from, when it was interrupted; None if it was not."""
    looked_for_state: bool = False


def shortened(spec: StudySpec, epochs: int) -> StudySpec:
    """The study with so many epochs at most, its warm-up squeezed with them."""
    if epochs >= spec.task.epochs:
        return spec
    warmup = spec.schedule.warmup_epochs * epochs / spec.task.epochs
    spec = changed(spec, "schedule", {"warmup_epochs": warmup}, "--epochs")
    return changed(spec, "task", {"epochs": epochs}, "--epochs")


class TriedRun:
    """A :class:`kdecay_search.tasks.protocol.Run` that tells what it is told.

    It interrupts a task that looked for its state after its first epoch, as a worker does that is
    stopped: so it is seen whether the task goes on where it stood.
    """

    def __init__(self, tried: Tried, k: float, device: str, folder: Path, tell: Tell) -> None:
        self.spec, self.ks, self.comparator = tried.spec, (k,), None
        self.seed, self.device = SEED, device
        levels = self.spec.search.lr_max
        self.lr_max = levels[0] if levels else None
        self.checkpoint: Checkpoint | None = _Looked(folder, self.spec.fingerprint(self.ks, SEED))
        self.interrupts = False
        self._tried, self._tell = tried, tell
        self._updates = 0

    def restore(self, epochs: Sequence[Epoch]) -> None:
        self._tried.restored = len(epochs)
        self._tell(f"goes on after epoch {len(epochs)}, as kept")

    def report(self, epoch: Epoch) -> None:
        self._tried.epochs.append(epoch)
        self._tell(_told(epoch, self._rates_of_epoch()))
        if self.interrupts and epoch.number < self.spec.task.epochs and self._can_go_on:
            self.interrupts = False
            self._tried.restored = 0
            raise Released

    def poll(self) -> None:
        return

    @property
    def _can_go_on(self) -> bool:
        assert isinstance(self.checkpoint, _Looked)
        return self.checkpoint.was_read

    def _rates_of_epoch(self) -> list[float]:
        rates = self._tried.rates.used[self._updates :]
        self._updates += len(rates)
        return rates


class _Looked(Checkpoint):
    """A checkpoint that knows whether somebody has looked for it."""

    def __init__(self, folder: Path, fingerprint: bytes) -> None:
        super().__init__(folder, RunKey(1, 0, SEED), fingerprint, 300.0)
        self.was_read = False

    def read(self) -> bytes | None:
        self.was_read = True
        return super().read()


def try_function(
    tried: Tried, function: Callable[[TaskRun], object], k: float, device: str, tell: Tell
) -> None:
    """Call a function of the user's; raises what it raises."""

    def watched(run: TaskRun) -> object:
        tried.run = run
        tried.rates.listen()
        return function(Watched(run, tell, tried.rates, tried.calls))  # type: ignore[arg-type]

    with TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        run = TriedRun(tried, k, device, Path(folder), tell)
        run.interrupts = True
        try:
            tried.result = run_function(watched, run)
        except Released:
            tell("stopped here, as a worker may be; called again")
            tried.rates.forget_optimizer()
            before = len(tried.epochs), len(tried.rates.used)
            tried.result = run_function(watched, run)
            if not tried.restored:  # it started over
                del tried.epochs[: before[0]], tried.rates.used[: before[1]]
        finally:
            tried.looked_for_state = run._can_go_on
            tried.rates.stop()


def try_task(tried: Tried, train: TrainFunction, k: float, device: str, tell: Tell) -> None:
    """The same of a program, or of a built-in task; raises what it raises."""
    with TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        tried.result = train(TriedRun(tried, k, device, Path(folder), tell))


def _told(epoch: Epoch, rates: Sequence[float]) -> str:
    parts = [f"epoch {epoch.number}: error {epoch.validation_error:.2f} %"]
    if epoch.averaged_error is not None:
        parts.append(f"averaged {epoch.averaged_error:.2f} %")
    if epoch.training_loss is not None:
        parts.append(f"loss {epoch.training_loss:.4g}")
    if rates:
        parts.append(f"{len(rates)} updates, LR {rates[0]:.4g} to {rates[-1]:.4g}")
    elif epoch.learning_rate is not None:
        parts.append(f"LR {epoch.learning_rate:.4g}")
    return ", ".join(parts)
