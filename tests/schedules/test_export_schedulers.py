"""What ``kdecay best`` prints for a training library, executed with that library."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdecay_search.errors import StudyError
from kdecay_search.report.winner import winner_as
from kdecay_search.schedules import export
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.export import Form
from kdecay_search.schedules.kdecay import FAMILIES, KDecaySchedule
from kdecay_search.snapshot import StudySnapshot
from tests.support.exports import executed
from tests.support.memory_studies import MemoryQueue, stated, study

TOTAL = 60
ONE_TERM = [
    KDecaySchedule(ks=(2.0,)),
    KDecaySchedule(ks=(4.5,), power=2.5, lr_max=0.3, lr_min=0.0),
    KDecaySchedule("cosine", (3.5,), lr_max=0.02),
    KDecaySchedule(ks=(2.0,), warmup_steps=7),
    KDecaySchedule("cosine", (0.7,), warmup_steps=1),
]
ANY = [
    *ONE_TERM,
    KDecaySchedule(ks=(1.5, 4.0, 9.0)),
    KDecaySchedule("cosine", (1.0, 3.5), warmup_steps=5),
    KDecaySchedule("exponential", (2.5,)),
    KDecaySchedule("exponential", (1.0, 6.0), lr_max=1.5),
]


def described(schedule: KDecaySchedule) -> str:
    warmup = f", warm-up {schedule.warmup_steps}" if schedule.warmup_steps else ""
    return f"{schedule.family} {schedule.ks}{warmup}"


def rates(schedule: KDecaySchedule, steps: int = TOTAL) -> Any:
    """The closed form at every step from 0 to ``steps``, to a few of the last bits."""
    return pytest.approx([schedule(t, steps) for t in range(steps + 1)], rel=1e-13, abs=0)


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def lr_of(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


# ---- torch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ANY, ids=described)
@pytest.mark.parametrize("filled_in", [True, False])
def test_pytorch_s_scheduler_sets_the_closed_form_at_every_step(
    schedule: KDecaySchedule, filled_in: bool
) -> None:
    names = executed(export.pytorch_source(schedule, TOTAL if filled_in else None))
    optimizer = sgd(schedule.lr_max)
    given = () if filled_in else (TOTAL,)
    scheduler = names["kdecay_scheduler"](optimizer, *given)
    seen = [lr_of(optimizer)]
    for _ in range(TOTAL + 3):
        optimizer.step()
        scheduler.step()
        seen.append(lr_of(optimizer))
    assert seen[: TOTAL + 1] == rates(schedule)
    assert seen[TOTAL:] == pytest.approx([schedule.lr_min] * 4)


def test_pytorch_s_scheduler_resumes_from_its_state_and_scales_groups_of_other_rates() -> None:
    schedule = KDecaySchedule(ks=(1.5, 4.0), warmup_steps=3)
    make = executed(export.pytorch_source(schedule, TOTAL))["kdecay_scheduler"]
    whole, resumed = sgd(schedule.lr_max), sgd(schedule.lr_max)
    for optimizer in (whole, resumed):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.05})
    first, second = make(whole), make(resumed)
    for _ in range(20):
        whole.step()
        first.step()
    second.load_state_dict(first.state_dict())
    resumed.step()
    second.step()
    assert lr_of(resumed) == pytest.approx(schedule(21, TOTAL), rel=1e-13)
    assert resumed.param_groups[1]["lr"] == pytest.approx(0.5 * schedule(21, TOTAL), rel=1e-13)


def groups(*lrs: float, default: float) -> torch.optim.SGD:
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(parameters, lr=default)


def add_group(optimizer: torch.optim.Optimizer, lr: float) -> None:
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr})


def lrs_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def test_pytorch_s_scheduler_keeps_frozen_groups_and_takes_later_ones() -> None:
    """A ``LambdaLR`` fails as soon as a group is added."""
    schedule = KDecaySchedule(ks=(2.0,))
    optimizer = groups(0.0, schedule.lr_max, 0.3 * schedule.lr_max, default=schedule.lr_max)
    scheduler = executed(export.pytorch_source(schedule, TOTAL))["kdecay_scheduler"](optimizer)
    for step in range(1, TOTAL + 1):
        optimizer.step()
        if step == 9:
            add_group(optimizer, 0.5 * schedule.lr_max)
            add_group(optimizer, 0.0)
        scheduler.step()
        ratios = [0.0, 1.0, 0.3] + [0.5, 0.0] * (step >= 9)
        assert lrs_of(optimizer) == pytest.approx([r * schedule(step, TOTAL) for r in ratios])


# ---- timm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ONE_TERM, ids=described)
def test_timm_s_scheduler_keeps_ratios_and_frozen_groups(schedule: KDecaySchedule) -> None:
    """By itself timm raises a frozen group to lr_min, and lets no group fall below."""
    high = schedule.lr_max
    optimizer = groups(0.0, high, 0.25 * high, 0.25 * schedule.lr_min, default=high)
    optimizer.param_groups[2]["lr_scale"] = 0.5
    make = executed(export.timm_source(schedule, TOTAL))["kdecay_scheduler"]
    scheduler = make(optimizer)
    ratios = [0.0, 1.0, 0.125, 0.25 * schedule.lr_min / high]
    for step in range(TOTAL + 1):
        if step == 9:
            add_group(optimizer, 0.5 * high)
            scheduler = make(optimizer)
            ratios.append(0.5)
        scheduler.step_update(step)
        assert lrs_of(optimizer) == pytest.approx([r * schedule(step, TOTAL) for r in ratios])


@pytest.mark.parametrize("schedule", ONE_TERM, ids=described)
def test_timm_s_own_scheduler_sets_the_closed_form_at_every_step(schedule: KDecaySchedule) -> None:
    optimizer = sgd(schedule.lr_max)
    scheduler = executed(export.timm_source(schedule, TOTAL))["kdecay_scheduler"](optimizer)
    seen = [lr_of(optimizer)]
    for updates in range(1, TOTAL + 1):
        optimizer.step()
        scheduler.step_update(updates)
        seen.append(lr_of(optimizer))
    assert seen == rates(schedule)
    scheduler.step_update(TOTAL + 5)
    assert lr_of(optimizer) == schedule.lr_min


@pytest.mark.parametrize("total", [None, 10**5])
@pytest.mark.parametrize(
    "schedule",
    [*(s for s in ANY if s not in ONE_TERM), KDecaySchedule(ks=(70.0,)), WarmupStableDecay()],
    ids=repr,
)
def test_what_timm_lacks_is_a_class_derived_from_its_scheduler(
    schedule: Schedule, total: int | None
) -> None:
    """timm has one term, no exponential and no cooldown, and computes T**k, which overflows."""
    source = export.timm_source(schedule, total)
    assert "class KDecayScheduler(Scheduler)" in source
    optimizer = groups(0.0, schedule.lr_max, 0.25 * schedule.lr_max, default=schedule.lr_max)
    optimizer.param_groups[2]["lr_scale"] = 0.5
    make = executed(source)["kdecay_scheduler"]
    total = total or TOTAL
    scheduler = make(optimizer, total)
    for updates in range(0, total + 1, total // TOTAL):
        rate = schedule(updates, total)
        scheduler.step_update(updates)
        scheduler.step(updates)  # train.py calls it after every epoch; it changes nothing
        assert lrs_of(optimizer) == pytest.approx([0.0, rate, 0.125 * rate], rel=1e-12, abs=0)
    scheduler.step_update(total + 5)
    assert lr_of(optimizer) == 0.0
    assert lrs_of(optimizer)[1] == pytest.approx(schedule.lr_min, rel=1e-12)


@pytest.mark.parametrize("schedule", ONE_TERM, ids=described)
def test_the_arguments_of_timm_s_train_py_give_the_same_rates(schedule: KDecaySchedule) -> None:
    from timm.scheduler.scheduler_factory import create_scheduler

    found = re.search(r"(--sched .*)\n +(--lr .*)\n", export.timm_source(schedule, TOTAL))
    if schedule.warmup_steps:
        assert found is None, "train.py counts a warm-up beside --epochs"
        return
    assert found
    parser = argparse.ArgumentParser()
    for name in ("lr-k-decay", "decay-rate", "lr", "min-lr"):
        parser.add_argument(f"--{name}", type=float, default=argparse.SUPPRESS)
    parser.add_argument("--sched")
    parser.add_argument("--sched-on-updates", action="store_true")
    parser.add_argument("--warmup-epochs", type=int)
    given = parser.parse_args([*found[1].split(), *found[2].split()], argparse.Namespace(epochs=6))
    optimizer = sgd(given.lr)
    scheduler, epochs = create_scheduler(given, optimizer, updates_per_epoch=TOTAL // 6)
    assert epochs * 10 == TOTAL
    seen = []
    for updates in range(TOTAL + 1):
        scheduler.step_update(updates)
        seen.append(lr_of(optimizer))
    assert seen == rates(schedule)


def test_a_large_exponent_is_for_timm_where_its_power_is_still_a_number() -> None:
    schedule = KDecaySchedule(ks=(70.0,))
    optimizer = sgd(0.1)
    scheduler = executed(export.timm_source(schedule, 25_000))["kdecay_scheduler"](optimizer)
    scheduler.step_update(24_999)
    assert lr_of(optimizer) == pytest.approx(schedule(24_999, 25_000), rel=1e-9)


# ---- Hugging Face ----------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layer(inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_s_trainer_trains_by_the_closed_form_at_every_step(tmp_path: Path) -> None:
    from transformers import TrainerCallback, TrainingArguments

    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, *args: Any, optimizer: Any, **kwargs: Any) -> None:
            seen.append(lr_of(optimizer))

        def on_train_end(self, *args: Any, optimizer: Any, **kwargs: Any) -> None:
            seen.append(lr_of(optimizer))

    data = [{"inputs": torch.randn(2), "labels": torch.tensor(i % 2)} for i in range(TOTAL * 2)]
    for schedule, given in ((ANY[5], None), (ANY[6], TOTAL)):
        settings = TrainingArguments(
            str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True,
            learning_rate=schedule.lr_max, report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer_class = executed(export.huggingface_source(schedule, given))["KDecayTrainer"]
        trainer = trainer_class(Net(), settings, train_dataset=data, callbacks=[Look()])
        for _ in range(2):  # a second training has the whole schedule again
            seen.clear()
            trainer.train()
            assert seen == rates(schedule)


# ---- Lightning -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("schedule", "given"), [(ANY[5], None), (ANY[6], TOTAL)])
def test_lightning_trains_by_the_closed_form_at_every_step(
    tmp_path: Path, schedule: KDecaySchedule, given: int | None
) -> None:
    import lightning

    sgd = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4} if given else None
    source = export.lightning_source(schedule, given, sgd)
    assert ("SGD" in source) == bool(given)
    seen = []

    class Module(executed(source)["KDecayModule"]):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def make_optimizer(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=schedule.lr_max)

        def training_step(self, batch: Any, number: int) -> Tensor:
            seen.append(lr_of(self.optimizers()))
            return self.net(*batch)["loss"]

        def on_train_end(self) -> None:
            seen.append(lr_of(self.optimizers()))

    data = TensorDataset(torch.randn(TOTAL * 2, 2), torch.arange(TOTAL * 2) % 2)
    module = Module()
    lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(module, DataLoader(data, batch_size=4))  # fmt: skip
    assert seen == rates(schedule)
    group = module.optimizers().param_groups[0]
    if sgd is None:
        assert "betas" in group, "the module's own AdamW"
    else:
        assert {key: group[key] for key in sgd} == sgd


def test_lightning_without_a_known_optimizer_asks_for_one() -> None:
    module = executed(export.lightning_source(ANY[0]))["KDecayModule"]()
    with pytest.raises(NotImplementedError, match=r"return your optimizer, made with lr=0\.1"):
        module.configure_optimizers()


@pytest.mark.parametrize(
    ("task", "is_known"),
    [
        ({"kind": "images", "epochs": 3, "data": {"name": "digits"}}, True),
        ({"kind": "python", "epochs": 3, "entry": "mine:train"}, False),
    ],
)
def test_only_a_known_optimizer_is_named(task: dict[str, Any], is_known: bool) -> None:
    snapshot = ended({1.0: 9.0, 2.0: 5.0, 3.0: 9.0}, task=task)
    for form in set(Form) - {Form.JSON}:
        source = winner_as(snapshot, form, TOTAL)
        assert ("SGD(" in source) == (is_known and form == Form.LIGHTNING), form


# ---- of a study ------------------------------------------------------------------------------


def ended(*tables: dict[float, Any], **keys: Any) -> StudySnapshot:
    search = {"k_max": 3.0, "k_cap": 3.0, "k_step": 1.0, "max_terms": len(tables), "min_gain": 0.0}
    queue = MemoryQueue(study(search=search | {"seeds": 2}, **keys), stated(*tables))
    queue.play()
    return StudySnapshot(queue.spec, tuple(queue.trials), stopped=False)


@pytest.mark.parametrize("form", [Form.PYTORCH, Form.TIMM, Form.HUGGINGFACE, Form.LIGHTNING])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_study_s_winner_has_its_rates_and_its_warm_up_in_updates(form: Form, family: str) -> None:
    table = {"family": family, "lr_max": 0.4, "lr_min": 0.01, "warmup_epochs": 1.0}
    snapshot = ended({1.0: 9.0, 2.0: 5.0, 3.0: 9.0}, schedule=table)
    with pytest.raises(StudyError, match="warm-up, counted in updates: give --total-steps"):
        winner_as(snapshot, form)
    optimizer = sgd(0.4)
    executed(winner_as(snapshot, form, TOTAL))["kdecay_scheduler"](optimizer)
    assert lr_of(optimizer) == pytest.approx(0.4 / (TOTAL / 3 + 1))


def test_a_study_without_a_result_has_no_winner_in_any_form() -> None:
    snapshot = StudySnapshot(study(), (), stopped=False)
    for form in Form:
        with pytest.raises(StudyError, match="has no result yet"):
            winner_as(snapshot, form)


def test_python_has_the_number_of_updates_as_its_default() -> None:
    snapshot = ended({1.0: 9.0, 2.0: 5.0, 3.0: 9.0})
    learning_rate = executed(winner_as(snapshot, Form.PYTHON, TOTAL))["learning_rate"]
    schedule = snapshot.spec.schedule_for((2.0,), 20)
    assert [learning_rate(t) for t in range(TOTAL + 1)] == [
        schedule(t, TOTAL) for t in range(TOTAL + 1)
    ]
