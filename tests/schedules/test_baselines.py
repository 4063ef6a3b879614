"""The baselines, held against torch's schedulers and against their papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import (
    BASELINES,
    Baseline,
    ClrTriangular,
    ClrTriangular2,
    Cosine,
    Exponential,
    Htd,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Rex,
    Sgdr,
    WarmupBaseline,
    WarmupStableDecay,
)

NOT_LOW_AT_THE_END = {"htd", "multi-step", "clr-triangular", "clr-triangular2"}
EVERY = pytest.mark.parametrize("name", BASELINES)


def torch_lrs(make: Callable[[Any, Any], Any], steps: int, lr: float = 0.1) -> list[float]:
    """LRs of steps 0 to ``steps`` of a torch scheduler that is stepped after each update."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    lrs = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


def assert_same(schedule: Schedule, theirs: list[float], total_steps: int) -> None:
    ours = [schedule(step, total_steps) for step in range(len(theirs))]
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-17)


def test_linear_is_torchs() -> None:
    theirs = torch_lrs(lambda m, o: m.LinearLR(o, 1.0, 0.01, total_iters=100), 100)
    assert_same(Linear(), theirs, 100)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.9])
def test_polynomial_is_torchs(power: float) -> None:
    theirs = torch_lrs(lambda m, o: m.PolynomialLR(o, total_iters=100, power=power), 100)
    assert_same(Polynomial(power=power, lr_min=0.0), theirs, 100)


def test_cosine_is_torchs() -> None:
    theirs = torch_lrs(lambda m, o: m.CosineAnnealingLR(o, 100, eta_min=0.001), 100)
    assert_same(Cosine(), theirs, 100)


def test_exponential_with_the_log_of_the_ratio_as_rate_is_torchs() -> None:
    theirs = torch_lrs(lambda m, o: m.ExponentialLR(o, gamma=0.01 ** (1 / 100)), 100)
    assert_same(Exponential(rate=math.log(100)), theirs, 100)


@pytest.mark.parametrize("milestones", [(0.5, 0.75), (0.1, 0.3, 0.7), (0.29, 0.57, 0.58)])
def test_multi_step_is_torchs(milestones: tuple[float, ...]) -> None:
    steps = [round(100 * share) for share in milestones]
    theirs = torch_lrs(lambda m, o: m.MultiStepLR(o, steps, gamma=0.2), 100)
    assert_same(MultiStep(milestones=milestones, factor=0.2, lr_min=0.0), theirs, 100)


def test_multi_step_does_not_go_below_the_lowest_rate() -> None:
    schedule = MultiStep(milestones=(0.2, 0.4, 0.6), lr_min=0.005)
    values = [schedule(step, 100) for step in (10, 30, 50, 100)]
    assert values == pytest.approx([0.1, 0.01, 0.005, 0.005])
    assert values[2:] == [schedule.lr_min] * 2


@pytest.mark.parametrize(
    ("first", "factor", "total"), [(10, 2, 70), (10, 2, 100), (7, 1, 49), (30, 3, 1000), (1, 1, 9)]
)
def test_sgdr_is_torchs_until_the_last_update(first: int, factor: int, total: int) -> None:
    theirs = torch_lrs(
        lambda m, o: m.CosineAnnealingWarmRestarts(o, first, factor, eta_min=0.001), total - 1
    )
    assert_same(Sgdr(first_cycle_share=first / total, cycle_factor=factor), theirs, total)


def test_sgdr_ends_low_when_a_cycle_ends_with_the_training() -> None:
    assert [Sgdr()(step, 70) for step in (0, 10, 30, 70)] == [0.1, 0.1, 0.1, 0.001]


@given(st.integers(1, 100), st.sampled_from([1, 2, 3]), st.integers(1, 10), st.data())
def test_an_sgdr_restart_comes_at_its_step(
    first: int, factor: int, last: int, data: st.DataObject
) -> None:
    starts = [sum(first * factor**i for i in range(cycle)) for cycle in range(last + 2)]
    schedule = Sgdr(first_cycle_share=first / starts[-1], cycle_factor=factor, lr_min=0.0)
    start = starts[data.draw(st.integers(1, last))]
    assert schedule(start, starts[-1]) == schedule.lr_max
    assert schedule(start - 1, starts[-1]) < schedule.lr_max or first == 1
    assert schedule(starts[-1], starts[-1]) == schedule.lr_min


@pytest.mark.parametrize(("baseline", "mode"), [(ClrTriangular, 0), (ClrTriangular2, 2)])
@pytest.mark.parametrize("half", [5, 8, 100])
def test_clr_is_torchs(baseline: type[ClrTriangular], mode: int, half: int) -> None:
    name = "triangular2" if mode else "triangular"
    theirs = torch_lrs(
        lambda m, o: m.CyclicLR(o, 0.001, 0.1, half, mode=name, cycle_momentum=False), 100
    )
    assert_same(baseline(half_cycle_share=half / 100), theirs, 100)


def test_one_cycle_is_torchs() -> None:
    # torch puts the peak at pct_start * n - 1 and the end at n - 1 of its n = total + 1 steps.
    theirs = torch_lrs(
        lambda m, o: m.OneCycleLR(
            o, 0.1, 101, pct_start=31 / 101, final_div_factor=4.0, cycle_momentum=False
        ),
        100,
    )
    assert_same(OneCycle(), theirs, 100)


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (Rex(lr_max=1, lr_min=0), [1.0, 6 / 7, 2 / 3, 2 / 5, 0.0]),
        (Htd(lr_max=1, lr_min=0), [0.5 - 0.5 * math.tanh(-6 + 9 * i / 4) for i in range(5)]),
        (
            Htd(lower=-4, upper=4, lr_max=1, lr_min=0),
            [0.5 - 0.5 * math.tanh(2 * i - 4) for i in range(5)],
        ),
        (WarmupStableDecay(decay_share=0.5, lr_max=1, lr_min=0), [1, 1, 1, 1 - math.sqrt(0.5), 0]),
        (WarmupStableDecay(decay_share=0.5, decay="linear", lr_max=1, lr_min=0), [1, 1, 1, 0.5, 0]),
    ],
)
def test_baselines_without_a_torch_scheduler_follow_their_formula(
    schedule: Schedule, weights: list[float]
) -> None:
    assert [schedule(step, 4) for step in range(5)] == pytest.approx(weights, rel=1e-12, abs=1e-17)


@EVERY
@given(
    total=st.integers(1, 10**7),
    lr_max=st.floats(1e-8, 1e3),
    bottom=st.floats(0.0, 1.0),
    data=st.data(),
)
@settings(max_examples=25)
def test_every_baseline_stays_between_its_rates(
    name: str, total: int, lr_max: float, bottom: float, data: st.DataObject
) -> None:
    schedule = BASELINES[name](lr_max=lr_max, lr_min=bottom * lr_max)  # type: ignore[call-arg]
    for step in (0, data.draw(st.integers(0, total)), total):
        assert schedule.lr_min <= schedule(step, total) <= schedule.lr_max


@pytest.mark.parametrize(
    "schedule",
    [
        *(baseline() for baseline in BASELINES.values()),
        Polynomial(power=0.3, warmup_steps=20),
        Exponential(rate=50.0, warmup_steps=99),
        MultiStep(milestones=(0.1, 0.2, 0.9), factor=0.5, lr_min=0.02, warmup_steps=7),
        Sgdr(first_cycle_share=0.09, cycle_factor=1.7, warmup_steps=11),
        Sgdr(first_cycle_share=0.3, cycle_factor=1.0),
        Sgdr(first_cycle_share=1.0),
        *(ClrTriangular(half_cycle_share=share) for share in (0.07, 0.3, 1.0)),
        *(ClrTriangular2(half_cycle_share=share) for share in (0.07, 0.3, 1.0)),
        Htd(lower=-1, upper=100),
        OneCycle(peak_share=1.0, lr_min=0.03),
        OneCycle(start_divisor=1.0),
        WarmupStableDecay(decay_share=1.0, decay="linear", warmup_steps=30),
        Rex(warmup_steps=50),
    ],
    ids=repr,
)
def test_the_area_of_a_baseline_equals_a_fine_riemann_sum(schedule: Schedule) -> None:
    points, total = 10_000, 100
    mean = math.fsum(schedule((i + 0.5) * total / points, total) for i in range(points)) / points
    # Jumps of at most lr_max, 14 of them in the worst case, and little error elsewhere.
    assert schedule.area(total) == pytest.approx(mean, abs=14 * 0.1 / points / 2)


@pytest.mark.parametrize(
    "schedule",
    [
        *(BASELINES[name]() for name in sorted(BASELINES.keys() - NOT_LOW_AT_THE_END)),
        WarmupStableDecay(decay="linear"),
        WarmupStableDecay(decay_share=1.0),
        OneCycle(peak_share=0.2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("total", [1, 7, 1000, 10**7])
def test_baselines_that_reach_the_lowest_rate_end_on_it_exactly(
    schedule: Schedule, total: int
) -> None:
    assert schedule(total, total) == schedule.lr_min
    if not isinstance(schedule, OneCycle):
        assert schedule(0, total) == schedule.lr_max


def test_a_one_cycle_may_peak_at_the_end() -> None:
    assert OneCycle(peak_share=1.0)(10, 10) == OneCycle().lr_max


@EVERY
def test_every_baseline_warms_up_or_has_no_such_field(name: str) -> None:
    baseline = BASELINES[name]
    assert issubclass(baseline, Baseline)
    if not issubclass(baseline, WarmupBaseline):
        assert name in {"clr-triangular", "clr-triangular2", "one-cycle"}
        return
    schedule, plain = baseline(warmup_steps=4), baseline()
    assert [schedule(t, 54) for t in range(4)] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert [schedule(t + 4, 54) for t in range(51)] == [plain(t, 50) for t in range(51)]


@EVERY
def test_every_baseline_checks_rates_and_times(name: str) -> None:
    with pytest.raises(InvalidSchedule, match=r"lr_min=1\.5"):
        BASELINES[name](lr_min=1.5)  # type: ignore[call-arg]
    with pytest.raises(InvalidSchedule, match="step=11"):
        BASELINES[name]()(11, 10)


@pytest.mark.parametrize(
    ("name", "fields", "shown"),
    [
        ("polynomial", {"power": 0}, "power=0"),
        ("exponential", {"rate": 0}, "rate=0 must be from 0.001 to 700; raise it"),
        ("exponential", {"rate": 1e4}, "rate=10000.0"),
        ("multi-step", {"milestones": (0.5, 0.5)}, "milestones=(0.5, 0.5)"),
        ("multi-step", {"milestones": (0.5, 60)}, "milestones[-1]=60.0"),
        ("multi-step", {"factor": 2.0}, "factor=2.0"),
        ("sgdr", {"first_cycle_share": 10}, "first_cycle_share=10 must be from 1e-07 to 1"),
        ("sgdr", {"cycle_factor": 0.5}, "cycle_factor=0.5"),
        ("clr-triangular", {"half_cycle_share": 0}, "half_cycle_share=0"),
        ("clr-triangular2", {"half_cycle_share": math.nan}, "half_cycle_share=nan"),
        ("htd", {"lower": 3, "upper": -6}, "lower=3.0 must be below upper=-6.0"),
        ("htd", {"upper": 1e308}, "upper=1e+308"),
        ("one-cycle", {"peak_share": 30}, "peak_share=30"),
        ("one-cycle", {"start_divisor": 0.5}, "start_divisor=0.5"),
        ("warmup-stable-decay", {"decay_share": 20}, "decay_share=20"),
        ("warmup-stable-decay", {"decay": "sqrt"}, "did you mean '1-sqrt'?"),
    ],
)
def test_a_baselines_field_outside_its_domain_is_refused_in_one_line(
    name: str, fields: dict[str, Any], shown: str
) -> None:
    with pytest.raises(InvalidSchedule) as refusal:
        BASELINES[name](**fields)
    assert shown in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert ";" in str(refusal.value)
