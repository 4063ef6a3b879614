"""Search the learning-rate schedule of a Hugging Face ``Trainer``. See docs/own-code.md."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kdecay_search.errors import TaskError
from kdecay_search.user_code.run import TaskRun

__all__ = ["KDecayCallback", "attach"]


def attach(
    run: TaskRun, trainer: Trainer, error: str = "error", *, base_lr: float | None = None
) -> str | None:
    """Let ``run`` set the learning rate of a ``Trainer``, and report every epoch.

    The trainer gets the run's scheduler, its default optimizer unless it has one already, and a
    :class:`KDecayCallback`. Train it with
    ``trainer.train(resume_from_checkpoint=attach(run, trainer))``.

    Args:
        run: What your training function got.
        trainer: The trainer. Its arguments need ``num_train_epochs=run.epochs`` and
            ``eval_strategy="epoch"``; with ``save_strategy="epoch"``, an interrupted run resumes.
        error: The name under which your ``compute_metrics`` returns the validation error in
            percent.
        base_lr: The ``lr`` that stands for the schedule's, where parameter groups differ in ``lr``;
            see :meth:`TaskRun.drive`.

    Returns:
        The checkpoint to resume from; None if there is none.

    Raises:
        TaskError: An argument of the trainer does not suit a search.
    """
    settings = trainer.args
    _require("num_train_epochs", settings.num_train_epochs, run.epochs, "run.epochs")
    _require("eval_strategy", settings.eval_strategy, "epoch", "'epoch'")
    batches = len(trainer.get_train_dataloader())
    run.steps_per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
    optimizer = trainer.create_optimizer()
    trainer.lr_scheduler = run.scheduler(optimizer, base_lr=base_lr)  # type: ignore[assignment]
    callback = KDecayCallback(run, trainer, error)
    trainer.add_callback(callback)
    return callback.restored_checkpoint() if settings.save_strategy == "epoch" else None


class KDecayCallback(TrainerCallback):
    """Reports two errors after every epoch: of the weights as they are, and of averaged weights.

    :func:`attach` makes one and adds it to the trainer.

    Args:
        run: What your training function got.
        trainer: The trainer to watch; it has its optimizer.
        error: The name under which ``compute_metrics`` returns the validation error in percent.
    """

    def __init__(self, run: TaskRun, trainer: Trainer, error: str) -> None:
        self._run, self._trainer, self._error = run, trainer, error
        assert trainer.model is not None
        self._average = run.average(trainer.model, trainer.optimizer)

    def restored_checkpoint(self) -> str | None:
        """Restore what an interrupted attempt at this run saved.

        Returns:
            The path of the trainer's own checkpoint to resume from; None if there is none.
        """
        saved = self._run.resume()
        if saved is None:
            return None
        self._average.load_state_dict(saved["average"])
        return str(Path(self._trainer.args.output_dir or "") / saved["checkpoint"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Evaluate a second time, with the averaged weights, and report the epoch."""
        if not self._trainer.is_in_train:
            return
        error = self._error_in(more["metrics"])
        with self._average:
            output = self._trainer.evaluation_loop(
                self._trainer.get_eval_dataloader(), "Averaged weights", metric_key_prefix="eval"
            )
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = losses[-1] if losses else None
        self._run.report(round(state.epoch), error, self._error_in(output.metrics), loss=loss)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Save the average, after the trainer's own checkpoint of the epoch is written."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        self._run.save({"checkpoint": name, "average": self._average.state_dict()})

    def _error_in(self, metrics: dict[str, float] | None) -> float:
        name = f"eval_{self._error}"
        if metrics is None or name not in metrics:
            raise TaskError(
                f"the evaluation returned no {name!r}: let compute_metrics return "
                f"{{{self._error!r}: percent}}, or name another metric by attach(…, error=…); "
                f"it returned {', '.join(metrics or ['nothing'])}"
            )
        return metrics[name]


def _require(name: str, value: Any, required: Any, written: str) -> None:
    if value != required:
        raise TaskError(
            f"TrainingArguments({name}={getattr(value, 'value', value)!r}): write {name}={written}"
        )
