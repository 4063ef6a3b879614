"""Hugging Face's ``Trainer`` and its subclasses, by steps, with accumulated gradients."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Released
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun
from tests.user_code.test_integrations import Watcher

STEPS, EVERY, SAVED, ACCUMULATED = 60, 20, 25, 2
NATS = {"name": "validation loss", "direction": "min", "unit": "nats"}

pytestmark = pytest.mark.filterwarnings("ignore")


def recorded(
    folder: Path, direction: str = "min", every: int = EVERY, **options: Any
) -> RecordedRun:
    task = {"kind": "python", "entry": "mine:train", "steps": STEPS, "report_every": every}
    metric = NATS | {"direction": direction}
    schedule = {"lr_max": 0.01, "lr_min": 0.0001, "warmup_steps": 5}
    return RecordedRun(folder, task=task | {"metric": metric}, schedule=schedule, **options)


def letters(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Sequences in which a letter often follows from the one before."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, 12, (count, 1), generator=generator)
    rows = (starts + torch.arange(8) * 5) % 12
    rows[:, 4] = torch.randint(0, 12, (count,), generator=generator)
    return [{"input_ids": row, "labels": row} for row in rows]


def language_model() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 8, "vocab_size": 12}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def translation_model() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 12}
    config = T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)
    return T5ForConditionalGeneration(config)


def settings(run: TaskRun, kind: Any, **options: Any) -> Any:
    return kind(**{
        "output_dir": str(run.checkpoint_dir), "max_steps": STEPS, "seed": run.seed,
        "gradient_accumulation_steps": ACCUMULATED, "per_device_train_batch_size": 4,
        "eval_strategy": "steps", "eval_steps": run.length.report_every, "save_strategy": "steps",
        "save_steps": SAVED, "save_total_limit": 2, "use_cpu": True,
        "report_to": "none", "disable_tqdm": True, "logging_steps": 5,
    } | options)  # fmt: skip


def training(run: TaskRun, **options: Any) -> None:
    from transformers import Trainer, TrainingArguments

    from kdecay_search.huggingface import attach

    run.seed_everything()
    metric = options.pop("metric", None)
    held_out = options.pop("held_out", None) or letters(20, 2)
    chosen = settings(run, TrainingArguments, **options)
    trainer = Trainer(language_model(), chosen, None, letters(44, 1), held_out)
    trainer.train(resume_from_checkpoint=attach(run, trainer, metric))


def expected_rates(run: RecordedRun) -> list[float]:
    schedule = run.spec.schedule_for(run.ks)
    return [schedule(step, STEPS) for step in range(STEPS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordedRun, list[float]]:
    """A run from its start to its end, and the learning rates of its updates."""
    run = recorded(tmp_path_factory.mktemp("whole"), ks=(1.5, 4.0))
    with Watcher() as watcher:
        run_function(training, run)
    return run, watcher.rates


def test_every_update_has_the_schedule_s_rate(whole: tuple[RecordedRun, list[float]]) -> None:
    """With batches that the accumulation does not divide: 11 in an epoch."""
    run, rates = whole
    assert rates == pytest.approx(expected_rates(run), rel=1e-12)
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3]
    losses = [epoch.validation_error for epoch in run.epochs]
    assert losses[2] < losses[0] < 2.6
    for epoch in run.epochs:
        assert epoch.averaged_error != epoch.validation_error
        assert epoch.training_loss is not None


def test_a_resumed_run_ends_with_the_same_numbers(
    tmp_path: Path, whole: tuple[RecordedRun, list[float]]
) -> None:
    """Its last checkpoint, within an epoch, is older than its last report."""
    first, second = (
        recorded(tmp_path, ks=(1.5, 4.0), ends=ends) for ends in ({2: Released}, {})
    )  # fmt: skip
    with pytest.raises(Released):
        run_function(training, first)
    with Watcher() as watcher:
        run_function(training, second)
    assert watcher.rates == pytest.approx(expected_rates(second)[SAVED:], rel=1e-12)
    assert second.restored == first.epochs[:1]
    assert [*second.restored, *second.epochs] == whole[0].epochs


def test_one_of_several_evaluation_sets_counts(
    tmp_path: Path, whole: tuple[RecordedRun, list[float]]
) -> None:
    """Its first losses are those of a run that is evaluated on it alone."""
    several = {"a": letters(8, 3), "a_b": letters(20, 2)}
    run = recorded(tmp_path, ks=(1.5, 4.0), ends={2: Released})
    with pytest.raises(Released):
        run_function(lambda run: training(run, held_out=several, metric="eval_a_b_loss"), run)
    assert run.epochs[0] == whole[0].epochs[0]


def test_seq2seq_trainer_generates_with_averaged_weights_too(tmp_path: Path) -> None:
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    from kdecay_search.huggingface import attach

    evaluated = []

    def right(prediction: Any) -> dict[str, float]:
        evaluated.append(prediction.predictions.ndim)
        right = prediction.predictions[:, :8] == prediction.label_ids[:, :8]
        return {"right": float(right.mean())}

    def train(run: TaskRun) -> None:
        run.seed_everything()
        chosen = settings(
            run, Seq2SeqTrainingArguments, predict_with_generate=True, save_strategy="no",
            metric_for_best_model="right", greater_is_better=True,
        )  # fmt: skip
        trainer = Seq2SeqTrainer(
            translation_model(), chosen, train_dataset=letters(16, 1), eval_dataset=letters(8, 2),
            compute_metrics=right,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=attach(run, trainer))

    run = recorded(tmp_path, "max")
    with Watcher() as watcher:
        run_function(train, run)
    assert watcher.rates == pytest.approx(expected_rates(run), rel=1e-12)
    assert evaluated == [2] * 6, "sequences of letters, and not their probabilities"
    assert all(0 <= (epoch.averaged_error or 0) <= 1 for epoch in run.epochs)


def test_sft_trainer(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from kdecay_search.huggingface import attach

    words = models.WordLevel({f"w{number}": number for number in range(12)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), eos_token="w0", pad_token="w0", unk_token="w0"
    )

    def train(run: TaskRun) -> None:
        run.seed_everything()
        data = [
            datasets.Dataset.from_list([{"input_ids": row["input_ids"].tolist()} for row in rows])
            for rows in (letters(44, 1), letters(20, 2))
        ]
        trainer = trl.SFTTrainer(
            language_model(), settings(run, trl.SFTConfig), train_dataset=data[0],
            eval_dataset=data[1], processing_class=tokenizer,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=attach(run, trainer))

    run = recorded(tmp_path)
    with Watcher() as watcher:
        run_function(train, run)
    assert watcher.rates == pytest.approx(expected_rates(run), rel=1e-12)
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3]


# ---- what the arguments say -------------------------------------------------------------------


def test_what_has_no_effect_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import Trainer, TrainingArguments

    from kdecay_search.huggingface import attach

    def attached(run: TaskRun) -> None:
        chosen = settings(
            run, TrainingArguments, learning_rate=3.0, lr_scheduler_type="cosine", warmup_steps=7,
            output_dir=str(tmp_path / "shared"),
        )  # fmt: skip
        trainer = Trainer(language_model(), chosen, None, letters(8, 1), letters(8, 2))
        assert attach(run, trainer) is None
        raise Released

    with caplog.at_level(logging.INFO, "kdecay_search"), pytest.raises(Released):
        run_function(attached, recorded(tmp_path / "run"))
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "TrainingArguments(learning_rate=3.0) has no effect",
        "TrainingArguments(lr_scheduler_type='cosine') has no effect",
        "TrainingArguments(warmup_steps=7) has no effect",
        f"TrainingArguments(output_dir='{tmp_path}/shared') is not in run.checkpoint_dir",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 50}, r"max_steps=50\): write max_steps=run\.total_steps"),
        ({"max_steps": -1}, r"max_steps=-1\): write max_steps=run\.total_steps"),
        ({"eval_strategy": "epoch", "save_strategy": "no"}, "write eval_strategy='steps'"),
        ({"eval_steps": 15}, r"eval_steps=15\): write eval_steps=run\.report_every, which is 20"),
        ({"eval_delay": 3}, "write eval_delay=0"),
        ({"metric": "accuracy"}, "the evaluation returned no 'eval_accuracy'"),
        (
            {"metric_for_best_model": "loss", "greater_is_better": True},
            r"TrainingArguments\(metric_for_best_model='loss', greater_is_better=True\) means that "
            r"higher is better, but task\.metric\.direction = \"min\"",
        ),
        (
            {"metric_for_best_model": "f1"},  # the library's default is that higher is better
            r"greater_is_better=True\) means that higher is better",
        ),
    ],
)  # fmt: skip
def test_arguments_that_contradict_the_study(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run = recorded(tmp_path)
    with pytest.raises(TaskError, match=message):
        run_function(lambda task_run: training(task_run, **options), run)
    assert run.epochs == []


def test_a_loss_is_never_to_be_maximised(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="the metric 'eval_loss' means that lower is better, but"):
        run_function(training, recorded(tmp_path, "max"))


def test_steps_in_a_study_of_epochs(tmp_path: Path) -> None:
    study = RecordedRun(tmp_path)
    with pytest.raises(TaskError, match=r"max_steps=9\): this study has task\.epochs = 3; leave"):
        run_function(lambda run: training(run, max_steps=9, eval_steps=3), study)


def test_the_end_of_a_training_is_evaluated(tmp_path: Path) -> None:
    run = recorded(tmp_path, every=25)
    with pytest.raises(TaskError, match=r"eval_steps=25\): must divide task\.steps = 60: a"):
        run_function(training, run)
