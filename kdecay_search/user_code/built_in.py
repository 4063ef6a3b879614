"""Runs the built-in image task: in this process on one device, and in a process each on several."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdecay_search.study.training_length import TrainingLength
from kdecay_search.tasks.device_names import devices_of
from kdecay_search.tasks.protocol import Run
from kdecay_search.training import trainer
from kdecay_search.user_code.python import train_together

CHILD = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kdecay_search.user_code import built_in_rank; built_in_rank.main()"
)
"""What each of several processes executes; see :data:`.python.CHILD`."""


@dataclass(frozen=True)
class _BuiltInTask:
    """The image task as :func:`.python.train_together` serves it."""

    length: TrainingLength
    entry: str = "the built-in image task"
    epoch_timeout: float = math.inf
    """A rank that dies ends the run, and torch ends a collective operation that hangs."""


def train(run: Run) -> None:
    """Train ``run`` on its device, or devices, by :func:`kdecay_search.training.trainer.train`.

    Raises:
        KDecayError: A device or the data cannot be used.
        RunFailed: One of several processes failed.
        Interruption: The run is interrupted.
    """
    if len(devices_of(run.device)) == 1:
        trainer.train(run)
    else:
        train_together(run, _BuiltInTask(run.spec.task.length), CHILD)
