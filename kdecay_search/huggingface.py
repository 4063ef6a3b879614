"""Your own training code in Hugging Face's Trainer. See docs/own-code.md."""

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


def attach(run: TaskRun, trainer: Trainer, error: str = "error") -> str | None:
    """Let ``run`` drive the LR of a Trainer, and report every epoch.

    ``error``: the name that your ``compute_metrics`` gives to the error in percent. Gives the
    trainer its optimizer, unless it has one, and its scheduler. Returns the checkpoint to go on
    from: ``trainer.train(resume_from_checkpoint=attach(run, trainer))``.
    """
    settings = trainer.args
    _require("num_train_epochs", settings.num_train_epochs, run.epochs, "run.epochs")
    _require("eval_strategy", settings.eval_strategy, "epoch", "'epoch'")
    batches = len(trainer.get_train_dataloader())
    run.steps_per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
    optimizer = trainer.create_optimizer()
    trainer.lr_scheduler = run.scheduler(optimizer)  # type: ignore[assignment]
    callback = KDecayCallback(run, trainer, error)
    trainer.add_callback(callback)
    return callback.resumed() if settings.save_strategy == "epoch" else None


class KDecayCallback(TrainerCallback):
    """Reports the error after every epoch, of the weights as they are and of averaged ones."""

    def __init__(self, run: TaskRun, trainer: Trainer, error: str) -> None:
        self._run, self._trainer, self._error = run, trainer, error
        assert trainer.model is not None
        self._average = run.average(trainer.model, trainer.optimizer)

    def resumed(self) -> str | None:
        """Trainer's checkpoint of an interrupted attempt at this run."""
        kept = self._run.resume()
        if kept is None:
            return None
        self._average.load_state_dict(kept["average"])
        return str(Path(self._trainer.args.output_dir or "") / kept["checkpoint"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        if not self._trainer.is_in_train:
            return
        error = self._of(more["metrics"])
        with self._average:
            output = self._trainer.evaluation_loop(
                self._trainer.get_eval_dataloader(), "Averaged weights", metric_key_prefix="eval"
            )
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = losses[-1] if losses else None
        self._run.report(round(state.epoch), error, self._of(output.metrics), loss=loss)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """After Trainer's own checkpoint of the epoch is written."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        self._run.save({"checkpoint": name, "average": self._average.state_dict()})

    def _of(self, metrics: dict[str, float] | None) -> float:
        name = f"eval_{self._error}"
        if metrics is None or name not in metrics:
            raise TaskError(
                f"evaluation gave no {name!r}: let compute_metrics return "
                f"{{{self._error!r}: percent}}, or name another by attach(…, error=…); "
                f"there is {', '.join(metrics or ['nothing'])}"
            )
        return metrics[name]


def _require(name: str, value: Any, wanted: Any, written: str) -> None:
    if value != wanted:
        raise TaskError(
            f"TrainingArguments({name}={getattr(value, 'value', value)!r}): write {name}={written}"
        )
