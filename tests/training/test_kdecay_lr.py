from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, PolynomialLR, SequentialLR

from kdecay_search import KDecaySchedule
from kdecay_search.errors import InvalidSchedule
from kdecay_search.torch import KDecayLR
from kdecay_search.training.seeding import forked_rng

STEPS = 40
SHAPES: list[dict[str, Any]] = [
    {"ks": (2.0,), "lr_min": 0.001},
    {"ks": (1.5, 4.0), "power": 2.0, "warmup_steps": 7},
    {"ks": [3.0], "family": "cosine", "lr_min": 0.0001},
    {"ks": (1.0, 2.5, 6.0), "family": "exponential", "warmup_steps": 1, "lr_min": 0.001},
]


def optimizer(*rates: float) -> SGD:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in rates or (0.1,)]
    return SGD(groups, lr=1.0)


def rates(scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """The groups' LRs at the present step and after each of the next."""
    groups = scheduler.optimizer.param_groups
    seen = [[group["lr"] for group in groups]]
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        seen.append([group["lr"] for group in groups])
        assert seen[-1] == scheduler.get_last_lr()
    return seen


@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_has_the_rate_of_the_search_to_the_bit(shape: dict[str, Any]) -> None:
    settings = {"lr_min": 0.0} | shape
    schedule = KDecaySchedule(lr_max=0.1, **settings)
    seen = rates(KDecayLR(optimizer(), STEPS, **shape), STEPS)
    assert seen == [[schedule(step, STEPS)] for step in range(STEPS + 1)]


def test_every_group_decays_from_its_own_rate_to_its_own_end() -> None:
    one = rates(KDecayLR(optimizer(0.1, 0.02), STEPS, ks=(2.0,), lr_min=0.001), STEPS)
    each = rates(KDecayLR(optimizer(0.1, 0.02), STEPS, ks=(2.0,), lr_min=[0.01, 0.002]), STEPS)
    assert (one[0], one[-1]) == ([0.1, 0.02], [0.001, 0.001])
    assert (each[0], each[-1]) == ([0.1, 0.02], [0.01, 0.002])
    for first, second in each:
        assert first == pytest.approx(5 * second)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_state_dict_of_any_step_resumes_with_the_same_bits(shape: dict[str, Any]) -> None:
    whole = rates(KDecayLR(optimizer(0.1, 0.03), STEPS, **shape), STEPS + 3)
    running = KDecayLR(optimizer(0.1, 0.03), STEPS, **shape)
    for step in range(STEPS + 3):
        file = io.BytesIO()
        torch.save(running.state_dict(), file)
        file.seek(0)
        resumed = KDecayLR(optimizer(0.1, 0.03), total_steps=1)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert rates(resumed, STEPS + 3 - step) == whole[step:]
        running.optimizer.step()
        running.step()


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_optimizer_and_scheduler_are_loaded_in_either_order(optimizer_first: bool) -> None:
    running = KDecayLR(optimizer(), STEPS, ks=(2.0,))
    rates(running, 9)
    states = copy.deepcopy((running.optimizer.state_dict(), running.state_dict()))
    resumed = KDecayLR(optimizer(), STEPS, ks=(2.0,))
    loads: list[Callable[[], None]] = [
        lambda: resumed.optimizer.load_state_dict(states[0]),
        lambda: resumed.load_state_dict(states[1]),
    ]
    for load in loads if optimizer_first else reversed(loads):
        load()
    assert rates(resumed, 20) == rates(running, 20)


def test_last_epoch_resumes_after_that_step() -> None:
    whole = rates(KDecayLR(optimizer(), STEPS, ks=(2.0,), warmup_steps=5), STEPS)
    for done in range(STEPS):
        again = optimizer()
        again.param_groups[0]["initial_lr"] = 0.1
        resumed = KDecayLR(again, STEPS, ks=(2.0,), warmup_steps=5, last_epoch=done)
        assert resumed.last_epoch == done + 1
        assert rates(resumed, STEPS - done - 1) == whole[done + 1 :]


def test_last_epoch_without_an_initial_rate_is_torchs_error() -> None:
    with pytest.raises(KeyError, match="initial_lr"):
        KDecayLR(optimizer(), STEPS, last_epoch=3)


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        ({}, lambda o: PolynomialLR(o, STEPS)),
        ({"power": 3.0}, lambda o: PolynomialLR(o, STEPS, power=3.0)),
        ({"family": "cosine"}, lambda o: CosineAnnealingLR(o, STEPS)),
        (
            {"family": "cosine", "lr_min": 0.004},
            lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.004),
        ),
    ],
    ids=["polynomial", "cubic", "cosine", "cosine to 0.004"],
)
def test_with_k_1_it_is_torchs_scheduler(
    ours: dict[str, Any], torchs: Callable[[SGD], LRScheduler]
) -> None:
    expected = rates(torchs(optimizer(0.1, 0.02)), STEPS)
    for mine, theirs in zip(
        rates(KDecayLR(optimizer(0.1, 0.02), STEPS, **ours), STEPS), expected, strict=True
    ):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-15)


def test_the_exponential_family_falls_by_the_same_factor_each_step() -> None:
    lr_min, lr_max = 0.1 / math.e, 0.1
    seen = rates(KDecayLR(optimizer(lr_max), STEPS, family="exponential", lr_min=lr_min), STEPS)
    for (before,), (after,) in pairwise(seen):
        assert after / before == pytest.approx(math.exp(-1 / STEPS))


def test_the_warm_up_rises_in_equal_steps_to_the_rate_of_its_group() -> None:
    seen = rates(KDecayLR(optimizer(0.1), STEPS, ks=(2.0,), warmup_steps=4), STEPS)
    assert [lr for (lr,) in seen[:5]] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert seen[-1] == [0.0]


def test_after_the_last_step_the_rate_stays() -> None:
    seen = rates(KDecayLR(optimizer(), 5, ks=(3.0,), lr_min=0.001), 12)
    assert seen[5:] == [[0.001]] * 8


def test_stepping_before_the_optimizer_warns_as_torch_does() -> None:
    scheduler = KDecayLR(optimizer(), STEPS)
    with pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`"):
        scheduler.step()


def test_stepping_in_the_right_order_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates(KDecayLR(optimizer(), 3), 3)


def test_it_can_be_a_part_of_torchs_sequence() -> None:
    sgd = optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR itself calls step(epoch)
        parts: list[LRScheduler] = [
            torch.optim.lr_scheduler.ConstantLR(sgd, factor=1.0, total_iters=3),
            KDecayLR(sgd, 10, ks=(2.0,), lr_min=0.001),
        ]
        seen = rates(SequentialLR(sgd, parts, milestones=[3]), 13)
    alone = rates(KDecayLR(optimizer(), 10, ks=(2.0,), lr_min=0.001), 10)
    assert seen[:3] == [[0.1]] * 3
    assert seen[3:] == alone


def test_rates_that_are_tensors_are_set_in_place() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    adam = AdamW([parameter], lr=torch.tensor(0.1))
    scheduler = KDecayLR(adam, 10, ks=(2.0,), lr_min=0.001)
    rate = adam.param_groups[0]["lr"]
    for _ in range(4):
        scheduler.optimizer.step()
        scheduler.step()
    assert adam.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(KDecaySchedule(ks=(2.0,))(4, 10))
    state = copy.deepcopy(scheduler.state_dict())
    rate.fill_(7.0)
    scheduler.load_state_dict(state)
    assert adam.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(KDecaySchedule(ks=(2.0,))(4, 10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"total_steps": 0}, "total_steps=0 must be 1 or more"),
        ({"total_steps": 2.5}, "total_steps=2.5 must be a whole number; count the calls of step()"),
        ({"total_steps": "40"}, "total_steps='40' must be a whole number"),
        ({"ks": 2.0}, "ks=2.0 must be a list of numbers"),
        ({"ks": (2.0, 1.0)}, "must strictly increase"),
        ({"ks": [[1.0]]}, "must be a finite number"),
        ({"family": "linear"}, "family='linear' is not one of polynomial, cosine, exponential"),
        ({"lr_min": 0.2}, "lr_min=0.2 must not be above lr_max=0.1"),
        ({"lr_min": "low"}, "lr_min='low' must be a finite number"),
        ({"lr_min": [0.1, 0.2]}, "lr_min=[0.1, 0.2] must be one number, or 1: one per parameter"),
        ({"warmup_steps": 40}, "warmup_steps=40 must be below total_steps=40"),
    ],
)
def test_bad_settings_are_one_line_and_change_nothing(
    settings: dict[str, Any], message: str
) -> None:
    sgd = optimizer()
    with pytest.raises(InvalidSchedule) as caught:
        KDecayLR(sgd, **({"total_steps": STEPS} | settings))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sgd.param_groups[0]["lr"] == 0.1
    assert "initial_lr" not in sgd.param_groups[0]


def test_the_plain_loop_of_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    document = (Path(__file__).parents[2] / "docs" / "use-it.md").read_text()
    example = document.split("```python\n")[1].partition("```")[0]
    with forked_rng("document", 0, torch.device("cpu")):
        exec(compile(example, "use-it.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    expected = [KDecaySchedule(ks=(1.5, 4.0))(8 * epoch, 32) for epoch in (1, 2, 3, 4)]
    assert [line.split()[-1] for line in lines] == [f"{rate:.5f}" for rate in expected]


def test_a_frozen_group_stays_frozen() -> None:
    seen = rates(KDecayLR(optimizer(0.0, 0.1), STEPS, ks=(2.0,), lr_min=0.001), STEPS)
    alone = rates(KDecayLR(optimizer(0.1), STEPS, ks=(2.0,), lr_min=0.001), STEPS)
    assert seen == [[0.0, rate] for (rate,) in alone]


def test_a_group_may_be_added_later() -> None:
    """Before, ``step()`` failed. It has the rates that it would have from the start."""
    whole = rates(KDecayLR(optimizer(0.1, 0.02), STEPS, ks=(2.0,), lr_min=0.001), STEPS)
    scheduler = KDecayLR(optimizer(0.1), STEPS, ks=(2.0,), lr_min=0.001)
    rates(scheduler, 5)
    sgd = scheduler.optimizer
    sgd.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.02})
    sgd.step()
    assert [group["lr"] for group in sgd.param_groups] == whole[5]
    scheduler.step()
    assert rates(scheduler, STEPS - 6) == whole[6:]
    resumed = KDecayLR(optimizer(0.1, 0.02), total_steps=1)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == whole[-1]


def test_a_later_group_without_an_end_of_its_own_is_one_line() -> None:
    scheduler = KDecayLR(optimizer(0.1, 0.02), STEPS, lr_min=[0.01, 0.002])
    scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.02})
    with pytest.raises(InvalidSchedule, match="has no number for a parameter group"):
        scheduler.optimizer.step()
