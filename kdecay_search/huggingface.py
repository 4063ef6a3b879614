"""Search the learning-rate schedule of a Hugging Face ``Trainer``. See docs/own-code.md."""

from __future__ import annotations

import logging
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
from kdecay_search.user_code.random_state import random_state_preserved
from kdecay_search.user_code.reports import check_direction
from kdecay_search.user_code.run import TaskRun

__all__ = ["KDecayCallback", "attach"]

logger = logging.getLogger(__name__)

PREFIX = "eval_"
"""How the names of metrics begin that a ``Trainer`` returns from an evaluation."""
LOSS = "loss"


def attach(
    run: TaskRun,
    trainer: Trainer,
    metric: str | None = None,
    *,
    base_lr: float | None = None,
    error: str | None = None,
) -> str | None:
    """Let ``run`` set the learning rate of a ``Trainer``, and report every evaluation.

    The trainer gets the run's scheduler, its default optimizer unless it has one already, and a
    :class:`KDecayCallback`. Train it with
    ``trainer.train(resume_from_checkpoint=attach(run, trainer))``. Subclasses such as
    ``Seq2SeqTrainer`` and TRL's ``SFTTrainer`` are treated alike.

    In a study of epochs, the trainer's arguments need ``num_train_epochs=run.epochs`` and
    ``eval_strategy="epoch"``. In one of steps, they need ``max_steps=run.total_steps``,
    ``eval_strategy="steps"`` and ``eval_steps=run.report_every`` or a divisor of it. Their learning
    rate, scheduler and warm-up are overruled, which the log says.

    Args:
        run: What your training function got.
        trainer: The trainer. If its ``output_dir`` is ``run.checkpoint_dir`` and it saves
            checkpoints, an interrupted run resumes.
        metric: The name of the study's metric in the evaluation's results, such as ``accuracy`` or
            ``eval_loss``. By default it is ``metric_for_best_model`` of the arguments; without
            that, it is ``error`` if the trainer has ``compute_metrics``, and else ``loss``.
        base_lr: The ``lr`` that stands for the schedule's, where parameter groups differ in ``lr``;
            see :meth:`TaskRun.drive`.
        error: Another name of ``metric``.

    Returns:
        The checkpoint to resume from; None if there is none.

    Raises:
        TaskError: An argument of the trainer does not suit the study.
    """
    settings = trainer.args
    name = metric or error or _default_metric(trainer)
    name = name if name.startswith(PREFIX) else PREFIX + name
    _check_direction(run, settings, name)
    if run.length.counts_steps:
        _check_steps(run, settings)
    else:
        _check_epochs(run, settings)
        batches = len(trainer.get_train_dataloader())
        run.steps_per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
    _log_overruled(settings)
    optimizer = trainer.create_optimizer()
    trainer.lr_scheduler = run.scheduler(optimizer, base_lr=base_lr)  # type: ignore[assignment]
    callback = KDecayCallback(run, trainer, name)
    trainer.add_callback(callback)
    return callback.restored_checkpoint()


class KDecayCallback(TrainerCallback):
    """Reports two values of the metric: of the weights as they are, and of averaged weights.

    :func:`attach` makes one and adds it to the trainer.

    Args:
        run: What your training function got.
        trainer: The trainer to watch; it has its optimizer.
        metric: The metric's name in the results of an evaluation, such as ``eval_loss``.
    """

    def __init__(self, run: TaskRun, trainer: Trainer, metric: str) -> None:
        self._run, self._trainer, self._metric = run, trainer, metric
        assert trainer.model is not None
        self._average = run.average(trainer.model, trainer.optimizer)
        self._saves_checkpoints = _saves_checkpoints(run, trainer.args)

    def restored_checkpoint(self) -> str | None:
        """Restore what an interrupted attempt at this run saved.

        Returns:
            The path of the trainer's own checkpoint to resume from; None if there is none.
        """
        saved = self._run.resume() if self._saves_checkpoints else None
        if saved is None:
            return None
        self._average.load_state_dict(saved["average"])
        return str(Path(self._trainer.args.output_dir or "") / saved["checkpoint"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Evaluate a second time, with the averaged weights, and report both values."""
        metrics = more["metrics"] or {}
        if not self._trainer.is_in_train or not state.global_step or self._is_of_another(metrics):
            return
        value, averaged = self._value_in(metrics), self._averaged_value()
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = losses[-1] if losses else None
        if self._run.length.counts_steps:
            self._run.report(
                step=state.global_step, value=value, averaged_value=averaged, loss=loss
            )
        else:
            self._run.report(round(state.epoch or 0), value, averaged, loss=loss)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Save the average, after the trainer's own checkpoint is written."""
        if self._saves_checkpoints:
            name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            self._run.save({"checkpoint": name, "average": self._average.state_dict()})

    @property
    def _dataset(self) -> str | None:
        """Which of several evaluation data sets has the metric; None if there is only one."""
        datasets = self._trainer.eval_dataset
        if not isinstance(datasets, dict):
            return None
        fitting = [name for name in datasets if self._metric.startswith(f"{PREFIX}{name}_")]
        if not fitting:
            names = ", ".join(f"{PREFIX}{name}_…" for name in datasets)
            raise TaskError(
                f"{self._metric!r} is of none of the evaluation data sets; name a metric such as "
                f"{names} by attach(…, metric=…)"
            )
        return max(fitting, key=len)

    def _is_of_another(self, metrics: dict[str, float]) -> bool:
        """Return whether these are the results of a data set without the metric."""
        dataset = self._dataset
        return dataset is not None and not any(
            name.startswith(f"{PREFIX}{dataset}_") for name in metrics
        )

    def _averaged_value(self) -> float:
        trainer, dataset = self._trainer, self._dataset
        loader = trainer.get_eval_dataloader(*([] if dataset is None else [dataset]))
        with self._average, random_state_preserved():
            output = trainer.evaluation_loop(
                loader,
                "Averaged weights",
                prediction_loss_only=True if trainer.compute_metrics is None else None,
                metric_key_prefix="eval" if dataset is None else f"{PREFIX}{dataset}",
            )
        gathered = getattr(trainer, "_metrics", None)
        if isinstance(gathered, dict) and "eval" in gathered:
            gathered["eval"].clear()  # TRL's trainers would log them with the next evaluation
        return self._value_in(output.metrics or {})

    def _value_in(self, metrics: dict[str, float]) -> float:
        if self._metric not in metrics:
            raise TaskError(
                f"the evaluation returned no {self._metric!r}: let compute_metrics return "
                f"{{{self._metric.removeprefix(PREFIX)!r}: value}}, or name another metric by "
                f"attach(…, metric=…); it returned {', '.join(metrics) or 'nothing'}"
            )
        return metrics[self._metric]


def _default_metric(trainer: Trainer) -> str:
    """The metric that the trainer's arguments name."""
    named = trainer.args.metric_for_best_model
    return named or (LOSS if trainer.compute_metrics is None else "error")


def _check_direction(run: TaskRun, settings: TrainingArguments, name: str) -> None:
    """Check that the arguments and the study agree on which values are better."""
    best, greater = settings.metric_for_best_model, settings.greater_is_better
    if (
        best is not None
        and greater is not None
        and name.removeprefix(PREFIX) == best.removeprefix(PREFIX)
    ):
        source = f"TrainingArguments(metric_for_best_model={best!r}, greater_is_better={greater})"
        check_direction(run, "max" if greater else "min", source)
    elif name == PREFIX + LOSS:
        check_direction(run, "min", f"the metric {name!r}")


def _check_epochs(run: TaskRun, settings: TrainingArguments) -> None:
    if settings.max_steps > 0:
        raise TaskError(
            f"TrainingArguments(max_steps={settings.max_steps}): this study has "
            f"{run.length.setting}; leave max_steps out, or set task.steps and task.report_every "
            "in the study file"
        )
    _require("num_train_epochs", settings.num_train_epochs, run.epochs, "run.epochs")
    _require("eval_strategy", settings.eval_strategy, "epoch", "'epoch'")
    _require("eval_delay", settings.eval_delay or 0, 0, "0")


def _check_steps(run: TaskRun, settings: TrainingArguments) -> None:
    _require("max_steps", settings.max_steps, run.total_steps, "run.total_steps")
    _require("eval_strategy", settings.eval_strategy, "steps", "'steps'")
    _require("eval_delay", settings.eval_delay or 0, 0, "0")
    interval = settings.eval_steps or 0
    every = interval if interval >= 1 else math.ceil(interval * run.total_steps)
    if not every or run.report_every % every:
        raise TaskError(
            f"TrainingArguments(eval_steps={interval:g}): write eval_steps=run.report_every, which "
            f"is {run.report_every}, or a divisor of it"
        )
    if run.total_steps % every:
        raise TaskError(
            f"TrainingArguments(eval_steps={interval:g}): must divide {run.length.setting}: a "
            "Trainer does not evaluate at the end of a training"
        )


def _require(name: str, value: Any, required: Any, written: str) -> None:
    if value != required:
        raise TaskError(
            f"TrainingArguments({name}={getattr(value, 'value', value)!r}): write {name}={written}"
        )


def _log_overruled(settings: TrainingArguments) -> None:
    """Say which arguments have no effect, because the run's schedule takes their place."""
    kind = getattr(settings.lr_scheduler_type, "value", settings.lr_scheduler_type)
    overruled = {"learning_rate": settings.learning_rate, "lr_scheduler_type": kind}
    if settings.lr_scheduler_kwargs:
        overruled["lr_scheduler_kwargs"] = settings.lr_scheduler_kwargs
    for name in ("warmup_steps", "warmup_ratio"):
        if getattr(settings, name, None):
            overruled[name] = getattr(settings, name)
    for name, value in overruled.items():
        logger.info(
            "TrainingArguments(%s=%r) has no effect: the study's schedule is used", name, value
        )


def _saves_checkpoints(run: TaskRun, settings: TrainingArguments) -> bool:
    """Return whether an interrupted run can resume from the trainer's own checkpoints."""
    if getattr(settings.save_strategy, "value", settings.save_strategy) == "no":
        return False
    folder = Path(settings.output_dir or "").resolve()
    if folder.is_relative_to(run.checkpoint_dir.resolve()):
        return True
    logger.info(
        "TrainingArguments(output_dir=%r) is not in run.checkpoint_dir: all runs share it, so an "
        "interrupted run starts over",
        settings.output_dir,
    )
    return False
