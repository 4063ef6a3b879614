"""Cooldowns as source: executed, they give the schedule's own rates in every form that has them."""

from __future__ import annotations

import pytest
import torch

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules import export
from kdecay_search.schedules.baselines import DecayEnd, Rex, WarmupStableDecay
from tests.support.exports import executed

TOTAL = 60
COOLDOWNS = [
    WarmupStableDecay(lr_max=0.3, lr_min=0.003),
    WarmupStableDecay(lr_max=0.3, lr_min=0.0, decay_share=0.37, decay="linear"),
    WarmupStableDecay(lr_max=0.1, lr_min=0.01, decay_share=1.0, warmup_steps=7),
]


@pytest.mark.parametrize("schedule", COOLDOWNS, ids=repr)
def test_pytorch_s_scheduler_sets_the_cooldown_at_every_step(schedule: WarmupStableDecay) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=schedule.lr_max)
    scheduler = executed(export.pytorch_source(schedule, TOTAL))["kdecay_scheduler"](optimizer)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(TOTAL):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    wanted = [schedule(step, TOTAL) for step in range(TOTAL + 1)]
    assert rates == pytest.approx(wanted, rel=1e-13, abs=0)


@pytest.mark.parametrize(("decay", "called"), [("1-sqrt", "1 - sqrt"), ("linear", "linear")])
def test_the_source_says_what_the_cooldown_is(decay: DecayEnd, called: str) -> None:
    schedule = WarmupStableDecay(lr_max=0.3, lr_min=0.003, decay_share=0.25, decay=decay)
    for source in (export.huggingface_source(schedule), export.lightning_source(schedule)):
        told = f"Constant rate, then a {called} cooldown over the last 25 %, from 0.3 to 0.003."
        assert told in source


def test_another_schedule_has_no_source_but_a_table() -> None:
    with pytest.raises(InvalidSchedule, match="Rex has no source; use --as csv"):
        export.kdecay_python_source(Rex())
    with pytest.raises(InvalidSchedule, match="Rex has no source; use --as csv"):
        export.timm_source(Rex())
