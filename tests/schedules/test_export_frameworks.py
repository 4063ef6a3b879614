"""Sources for frameworks that the tests do not install, executed with what these sources use.

docs/recipes/run.py executes each with the framework itself. Here numpy takes the place of the
array libraries, in 64 bits, and torch's own scheduler and optimizer do what the loops do with them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.schedules import export
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import Rex, WarmupStableDecay
from kdecay_search.schedules.export import Form
from kdecay_search.schedules.kdecay import KDecaySchedule
from tests.support.exports import MOST_WARMUP, all_rates, executed, schedules

TOTAL = 60
SOME = [
    KDecaySchedule(ks=(4.5,), power=2.5, lr_max=0.3, lr_min=0.0),
    KDecaySchedule("cosine", (1.0, 3.5), warmup_steps=5),
    KDecaySchedule("exponential", (2.5,)),
    WarmupStableDecay(lr_max=0.3, lr_min=0.003, warmup_steps=7),
    WarmupStableDecay(lr_max=0.3, lr_min=0.0, decay_share=0.37, decay="linear"),
]
LENGTHS = st.integers(MOST_WARMUP + 1, 300)


def steps_around(total: int) -> Any:
    """Every step of a training, with some before its start and beyond its end."""
    return np.arange(-3, total + 4)


def rates_around(schedule: Schedule, total: int) -> Any:
    """The rates at these steps, to twelve digits."""
    inside = all_rates(schedule, total)
    rates = [inside[0]] * 3 + inside + [inside[-1]] * 3
    return pytest.approx(np.array(rates), rel=1e-12, abs=1e-15 * schedule.lr_max)


# ---- Keras and optax, with numpy's arrays ------------------------------------------------------


def module(name: str, **names: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    return made


class ScheduleOfKeras:
    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


@pytest.fixture(autouse=True)
def arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy as ``jax.numpy`` and as ``keras.ops``."""
    names = ("clip", "where", "minimum", "maximum", "floor_divide", "log", "log1p", "expm1", "sqrt")
    functions = {name: getattr(np, name) for name in (*names, "sin")}
    numpy = module("jax.numpy", **functions)
    ops = module("keras.ops", **functions, cast=lambda x, _: np.asarray(x, dtype="float64"))
    saving = SimpleNamespace(register_keras_serializable=lambda *_: lambda made: made)
    bases = SimpleNamespace(schedules=SimpleNamespace(LearningRateSchedule=ScheduleOfKeras))
    keras = module("keras", ops=ops, saving=saving, optimizers=bases)
    for made in (module("jax", numpy=numpy), numpy, keras, ops):
        monkeypatch.setitem(sys.modules, made.__name__, made)


@settings(max_examples=50)
@given(schedules(), LENGTHS, st.booleans())
def test_the_arrays_of_optax_and_keras_have_every_rate_and_stay_at_the_ends(
    schedule: Schedule, total: int, filled_in: bool
) -> None:
    length, given_length = (total, ()) if filled_in else (None, (total,))
    make = executed(export.optax_source(schedule, length))["kdecay_schedule"]
    keras = executed(export.keras_source(schedule, length))["KDecay"](*given_length)
    again = type(keras).from_config(keras.get_config())
    with np.errstate(divide="ignore"):  # the logarithm of no training, which is never used
        for rate in (make(*given_length), keras, again):
            assert rate(steps_around(total)) == rates_around(schedule, total)


@pytest.mark.parametrize("schedule", SOME, ids=repr)
def test_keras_counts_batches_and_the_schedule_updates(schedule: Schedule) -> None:
    rate = executed(export.keras_source(schedule))["KDecay"](TOTAL, accumulation=4)
    with np.errstate(divide="ignore"):
        seen = rate(np.arange(3, 4 * TOTAL, 4))  # the batches that end an accumulation
    assert seen == pytest.approx(np.array(all_rates(schedule, TOTAL)[:-1]), rel=1e-12)


@pytest.mark.parametrize("form", [export.optax_source, export.keras_source])
def test_a_training_that_ends_with_the_warm_up_is_refused(form: Any) -> None:
    """On arrays, a division by zero would give no error but a rate that is no number."""
    names = executed(form(KDecaySchedule(warmup_steps=7)))
    make = names.get("KDecay") or names["kdecay_schedule"]
    with pytest.raises(ValueError, match="total_steps=7 must be above 7, the warm-up"):
        make(7)


# ---- loops of their own ------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SOME, ids=repr)
@pytest.mark.parametrize("filled_in", [True, False])
def test_nanogpt_s_get_lr_leaves_its_other_names_alone(schedule: Schedule, filled_in: bool) -> None:
    theirs = {"learning_rate": 6e-4, "lr_decay_iters": -1 if filled_in else TOTAL}
    source = export.nanogpt_source(schedule, TOTAL if filled_in else None)
    names = executed(source, theirs)
    assert names["learning_rate"] == 6e-4
    seen = [names["get_lr"](it) for it in range(-3, TOTAL + 4)]
    assert np.array(seen) == rates_around(schedule, TOTAL)


@pytest.mark.parametrize("schedule", SOME, ids=repr)
@pytest.mark.parametrize("filled_in", [True, False])
def test_torchtitan_s_schedulers_multiply_every_optimizer_s_rate(
    schedule: Schedule, filled_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Container:
        Config: ClassVar[Any] = dataclass(kw_only=True, slots=True)(type("Config", (), {}))

        def __init__(self, optimizers: Any, factor: Any) -> None:
            self.schedulers = [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in optimizers]

    component = "torchtitan.components.optimizer"
    made = module(component, LRSchedulersContainer=Container)
    for name in ("torchtitan", "torchtitan.components"):
        monkeypatch.setitem(sys.modules, name, module(name))
    monkeypatch.setitem(sys.modules, component, made)
    source = export.torchtitan_source(schedule, TOTAL if filled_in else None)
    monkeypatch.setitem(sys.modules, "schedule", module("schedule"))
    config = executed(source, {"__name__": "schedule"})["KDecay"].Config()
    assert config.warmup_steps == schedule.warmup_steps
    optimizers = [sgd(schedule.lr_max), sgd(0.5 * schedule.lr_max)]
    built = config.build(optimizers=optimizers, training_steps=9 if filled_in else TOTAL)
    for step in range(TOTAL + 4):
        rate = schedule(min(step, TOTAL), TOTAL)
        assert [lr_of(o) for o in optimizers] == pytest.approx([rate, 0.5 * rate], rel=1e-12, abs=0)
        for optimizer, scheduler in zip(optimizers, built.schedulers, strict=True):
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize("schedule", SOME, ids=repr)
@pytest.mark.parametrize("start_epoch", [0, 2])
def test_ultralytics_callback_counts_updates_and_continues(
    schedule: Schedule, start_epoch: int
) -> None:
    batches, epochs, accumulate = 40, 6, 4
    optimizer = torch.optim.SGD(
        [{"params": [zero()], "lr": lr * schedule.lr_max} for lr in (1.0, 0.25, 0.0)]
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    trainer = SimpleNamespace(
        train_loader=range(batches), epochs=epochs, accumulate=accumulate, optimizer=optimizer,
        start_epoch=start_epoch, args=SimpleNamespace(warmup_epochs=0.0, time=None),
    )  # fmt: skip
    executed(export.ultralytics_source(schedule))["KDecay"]()(trainer)
    first = start_epoch * batches // accumulate
    for step in range(first, TOTAL):
        for group in optimizer.param_groups:
            group["lr"] = 9.0  # their own scheduler, at every epoch
        optimizer.step()
        rate = schedule(step, TOTAL)
        seen = [group["lr"] for group in optimizer.param_groups]
        assert seen == pytest.approx([rate, 0.25 * rate, 0.0], rel=1e-12, abs=0)


@pytest.mark.parametrize("args", [{"warmup_epochs": 3.0, "time": None}, {"time": 2.0}])
def test_ultralytics_own_warm_up_and_its_limit_in_hours_are_refused(args: dict[str, Any]) -> None:
    trainer = SimpleNamespace(args=SimpleNamespace(**{"warmup_epochs": 0.0} | args))
    with pytest.raises(ValueError, match="train with warmup_epochs=0 and without time"):
        executed(export.ultralytics_source(SOME[0]))["KDecay"]()(trainer)


# ---- all forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(n for n in vars(export) if n.endswith("_source")))
def test_every_source_is_short_and_says_what_it_is(name: str) -> None:
    widest, most_lines = 100, 62
    for schedule in SOME:
        source = getattr(export, name)(schedule, TOTAL)
        assert max(len(line) for line in source.splitlines()) <= widest
        assert len(source.splitlines()) <= most_lines
        assert source.endswith("\n")
        assert not source.endswith("\n\n")
        assert "arXiv:" in source
    with pytest.raises(ValueError, match="Rex has no source; use --as csv"):
        getattr(export, name)(Rex())


def test_every_form_but_json_and_csv_has_a_source() -> None:
    named = {name.removesuffix("_source").removeprefix("kdecay_") for name in export.__all__}
    assert {form.value for form in Form} - {"json", "csv"} <= named


def zero() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(1))


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([zero()], lr=lr)


def lr_of(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])
