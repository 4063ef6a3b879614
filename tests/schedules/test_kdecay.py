"""The k-decay schedule: the paper's equations, its ends, its mean, and other libraries' values."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdecay_search.errors import InvalidSchedule
from kdecay_search.schedules import kdecay
from kdecay_search.schedules.base import Schedule, mean_over_unit_interval
from kdecay_search.schedules.baselines import Cosine, Exponential, Linear, Polynomial
from kdecay_search.schedules.kdecay import FAMILIES, KDecaySchedule

LONGEST = 10**7  # updates
LR_MAX, LR_MIN = 0.1, 0.001  # the defaults
KS = st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=4, unique=True).map(sorted)


@st.composite
def schedules(draw: st.DrawFn) -> KDecaySchedule:
    family = draw(st.sampled_from(FAMILIES))
    lr_max = draw(st.floats(1e-8, 1e3))
    return KDecaySchedule(
        family=family,
        ks=tuple(draw(KS)),
        power=draw(st.floats(0.05, 50.0)) if family == "polynomial" else 1.0,
        lr_max=lr_max,
        lr_min=draw(st.floats(0.0, lr_max)),
        warmup_steps=draw(st.integers(0, 100)),
    )


def midpoint_mean(schedule: Schedule, total_steps: int, points: int) -> float:
    """Mean LR from ``points`` midpoints; total variation / (2 points) is the largest error."""
    places = ((i + 0.5) * total_steps / points for i in range(points))
    return math.fsum(schedule(place, total_steps) for place in places) / points


def close(value: float, oracle: float, relative: float = 1e-12) -> bool:
    return math.isclose(value, oracle, rel_tol=relative)


@pytest.mark.parametrize("total", [10, 10_000, LONGEST])
def test_k_two_gives_the_printed_values_at_any_length(total: int) -> None:
    printed = [0.1, 0.09901, 0.09604, 0.09109, 0.08416, 0.07525, 0.06436, 0.05149]
    printed += [0.03664, 0.01981, 0.001]
    schedule = KDecaySchedule(ks=(2,))
    values = [schedule(tenth * total // 10, total) for tenth in range(11)]
    assert [round(value, 5) for value in values] == printed


def test_the_examples_in_the_documentation_run_as_printed() -> None:
    failed, tried = doctest.testmod(kdecay)
    assert (failed, tried > 0) == (0, True)


@pytest.mark.parametrize(
    ("family", "formula"),
    [
        ("polynomial", lambda phi: 0.099 * (1 - phi) + 0.001),
        ("cosine", lambda phi: 0.5 * 0.099 * (1 + math.cos(math.pi * phi)) + 0.001),
        (
            "exponential",
            lambda phi: (
                (0.099 * math.exp(-phi) + 0.001 - 0.1 * math.exp(-1.0)) / (1 - math.exp(-1.0))
            ),
        ),
    ],
)
def test_each_family_is_the_formula_of_the_paper(
    family: Any, formula: Callable[[float], float]
) -> None:
    schedule = KDecaySchedule(family, (1.5, 4.0))
    for step in range(51):
        phi = ((step / 50) ** 1.5 + (step / 50) ** 4.0) / 2
        assert close(schedule(step, 50), formula(phi))


@pytest.mark.parametrize("k", [1.0, 2.0, 3.5, 1000.0])
def test_half_of_the_lr_is_reached_at_two_to_the_minus_one_over_k(k: float) -> None:
    schedule = KDecaySchedule(ks=(k,), lr_max=1.0, lr_min=0.0)
    assert close(schedule.weight(2 ** (-1 / k)), 0.5)


@given(schedules(), st.integers(1, LONGEST))
@example(KDecaySchedule(lr_max=0.85, lr_min=0.291), 3)
@example(KDecaySchedule(lr_max=0.43, lr_min=0.154), 3)
def test_both_ends_are_exact_to_the_bit(schedule: KDecaySchedule, length: int) -> None:
    total = schedule.warmup_steps + length
    assert schedule(schedule.warmup_steps, total) == schedule.lr_max
    assert schedule(total, total) == schedule.lr_min


@given(schedules(), st.integers(1, LONGEST), st.data())
def test_the_lr_never_rises_after_the_warmup_and_stays_in_bounds(
    schedule: KDecaySchedule, length: int, data: st.DataObject
) -> None:
    first = schedule.warmup_steps
    start = data.draw(st.integers(first, first + length))
    steps = range(start, min(start + 50, first + length + 1))
    values = [schedule.lr_max, *(schedule(step, first + length) for step in steps), schedule.lr_min]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("lr_max", "lr_min"), [(0.85, 0.291), (0.43, 0.154)])
def test_rates_whose_difference_is_rounded_are_not_exceeded(lr_max: float, lr_min: float) -> None:
    assert (lr_max - lr_min) + lr_min != lr_max
    for tenths in range(10, 40):
        schedule = KDecaySchedule(ks=(tenths / 10,), lr_max=lr_max, lr_min=lr_min)
        values = [schedule(step, LONGEST) for step in range(20)]
        assert values[0] == lr_max
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("ks", [(1000.0,), (1.0, 1000.0), (0.01,), (37.0,)])
@pytest.mark.parametrize(("family", "power"), [(f, 1.0) for f in FAMILIES] + [("polynomial", 0.02)])
def test_ten_million_steps_neither_overflow_nor_rise_where_the_lr_hardly_moves(
    family: Any, power: float, ks: tuple[float, ...]
) -> None:
    schedule = KDecaySchedule(family, ks, power)
    for phi in (1e-300, 1e-17, 1e-16, 1e-8, 0.5, 1.0):
        start = min(int(LONGEST * phi ** (1 / ks[-1])), LONGEST - 500)
        values = [schedule(step, LONGEST) for step in range(start, start + 501)]
        assert values == sorted(values, reverse=True)
        assert LR_MIN <= values[-1] <= values[0] <= LR_MAX


@given(st.floats(0.05, 50.0), st.floats(0.0, 0.1), st.integers(0, 5), st.integers(6, LONGEST))
def test_k_one_is_the_plain_schedule_to_the_bit(
    power: float, lr_min: float, warmup: int, total: int
) -> None:
    rates: Any = {"lr_min": lr_min, "warmup_steps": warmup}
    pairs: list[tuple[KDecaySchedule, Schedule]] = [
        (KDecaySchedule(**rates), Linear(**rates)),
        (KDecaySchedule(power=power, **rates), Polynomial(power=power, **rates)),
        (KDecaySchedule("cosine", **rates), Cosine(**rates)),
        (KDecaySchedule("exponential", **rates), Exponential(**rates)),
    ]
    for ours, plain in pairs:
        assert close(ours.area(total), plain.area(total), 1e-13)
        for step in (0, 3, 5, total // 3, total - 1, total):
            assert ours(step, total) == plain(step, total)


@given(schedules(), st.integers(1, 1000))
def test_the_warmup_is_a_line_and_the_decay_is_shifted_behind_it(
    schedule: KDecaySchedule, length: int
) -> None:
    warmup, total = schedule.warmup_steps, schedule.warmup_steps + length
    line = [schedule.lr_max * ((step + 1) / (warmup + 1)) for step in range(warmup)]
    assert [schedule(step, total) for step in range(warmup)] == line
    plain = replace(schedule, warmup_steps=0)
    for step in {0, length // 2, length}:
        assert schedule(warmup + step, total) == plain(step, length)


@settings(max_examples=50)
@given(schedules(), st.integers(1, 10_000))
def test_the_area_equals_a_fine_riemann_sum(schedule: KDecaySchedule, length: int) -> None:
    total = schedule.warmup_steps + length
    error = abs(schedule.area(total) - midpoint_mean(schedule, total, 2000))
    assert error <= schedule.lr_max / 2000


@pytest.mark.parametrize(("k", "share"), [(1, 1 / 2), (2, 2 / 3), (1000, 1000 / 1001)])
def test_the_area_of_one_term_is_k_over_k_plus_one(k: float, share: float) -> None:
    assert close(KDecaySchedule(ks=(k,), lr_max=1, lr_min=0).area(100), share)


@given(st.floats(0.01, 1000.0), st.floats(0.05, 50.0))
def test_the_gamma_function_form_of_the_area_agrees_with_the_quadrature(
    k: float, power: float
) -> None:
    schedule = KDecaySchedule(ks=(k,), power=power)
    assert close(schedule.mean_weight(), mean_over_unit_interval(schedule.weight), 1e-11)


@pytest.mark.parametrize(
    ("k", "power", "exact"),
    [(1.0, 1e6, 1 / (1e6 + 1)), (1e-6, 2.0, 2e-12 / (1.000001 * 1.000002))],
)
def test_the_area_keeps_its_digits_where_gamma_functions_lose_them(
    k: float, power: float, exact: float
) -> None:
    assert close(KDecaySchedule(ks=(k,), power=power).mean_weight(), exact, 1e-10)


@given(KS)
def test_the_area_of_many_terms_agrees_with_the_expanded_square(ks: list[float]) -> None:
    n = len(ks)
    squares = math.fsum(1 / (a + b + 1) for a in ks for b in ks) / n**2
    exact = 1 - 2 * math.fsum(1 / (k + 1) for k in ks) / n + squares
    value = KDecaySchedule(ks=tuple(ks), power=2.0).mean_weight()
    assert math.isclose(value, exact, rel_tol=1e-9, abs_tol=1e-15)


@pytest.mark.parametrize("k", [0.1, 1.5, 10.0, 1000.0])
def test_the_area_of_cosine_and_exponential_agrees_with_the_power_series(k: float) -> None:
    falling = math.fsum((-1) ** m / math.factorial(m) / (m * k + 1) for m in range(30))
    waving = math.fsum(
        (-1) ** m * math.pi ** (2 * m) / math.factorial(2 * m) / (2 * m * k + 1) for m in range(30)
    )
    end = math.exp(-1)
    exponential = KDecaySchedule("exponential", (k,)).mean_weight()
    assert close(exponential, (falling - end) / (1 - end), 1e-11)
    assert close(KDecaySchedule("cosine", (k,)).mean_weight(), 0.5 + 0.5 * waving, 1e-11)


@pytest.mark.parametrize("k", [1e-320, 1e-9, 1e300])
@pytest.mark.parametrize("power", [1e-300, 0.3, 1e300])
def test_absurd_exponents_still_give_an_area_between_the_rates(k: float, power: float) -> None:
    area = KDecaySchedule(ks=(k,), power=power).area(10)
    assert LR_MIN <= area <= LR_MAX + 1e-12


def test_numbers_of_other_types_become_floats_and_equal_schedules_are_equal() -> None:
    schedule = KDecaySchedule(ks=[1, 2], power=2, lr_max=1, lr_min=0)  # type: ignore[arg-type]
    assert schedule == KDecaySchedule(ks=(1.0, 2.0), power=2.0, lr_max=1.0, lr_min=0.0)
    assert hash(schedule) == hash(replace(schedule))
    assert isinstance(schedule.lr_max, float)
    assert schedule.ks == (1.0, 2.0)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"family": "polynomal"}, "family='polynomal' is not one of polynomial, cosine, exponen"),
        ({"family": "polynomal"}, "did you mean 'polynomial'?"),
        ({"family": "x\ny"}, r"'x\ny'"),
        ({"family": None}, "family=None"),
        ({"ks": ()}, "ks=()"),
        ({"ks": 2.0}, "ks=2.0"),
        ({"ks": "2"}, "ks='2'"),
        ({"ks": (1.0, "2")}, "ks[1]='2'"),
        ({"ks": (0.0,)}, "ks[0]=0.0 must be above 0"),
        ({"ks": (-1.0,)}, "ks[0]=-1.0"),
        ({"ks": (math.nan,)}, "ks[0]=nan"),
        ({"ks": (1.0, math.inf)}, "ks[1]=inf"),
        ({"ks": (2.0, 1.0)}, "ks=(2.0, 1.0) must strictly increase"),
        ({"ks": (2.0, 2)}, "ks=(2.0, 2.0)"),
        ({"ks": (10**400,)}, "must be a finite number"),
        ({"power": 0}, "power=0 must be above 0"),
        ({"power": math.inf}, "power=inf"),
        ({"power": True}, "power=True"),
        ({"family": "cosine", "power": 2.0}, "power=2.0 must be 1 in the cosine family"),
        ({"lr_max": 0.0}, "lr_max=0.0 must be above 0"),
        ({"lr_max": math.nan}, "lr_max=nan"),
        ({"lr_max": "0.1"}, "lr_max='0.1'"),
        ({"lr_min": -0.1}, "lr_min=-0.1"),
        ({"lr_min": 0.2}, "lr_min=0.2 must not be above lr_max=0.1"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"warmup_steps": 1.5}, "warmup_steps=1.5"),
        ({"warmup_steps": True}, "warmup_steps=True"),
    ],
)
def test_a_field_outside_its_domain_is_refused_in_one_line(
    fields: dict[str, Any], shown: str
) -> None:
    with pytest.raises(InvalidSchedule) as refusal:
        KDecaySchedule(**fields)
    message = str(refusal.value)
    assert shown in message
    assert "\n" not in message
    assert ";" in message  # how to fix it


@pytest.mark.parametrize(
    ("step", "total", "shown"),
    [
        (-1, 10, "step=-1"),
        (11, 10, "step=11"),
        (math.nan, 10, "step=nan"),
        (0, 0, "total_steps=0"),
        (0, math.nan, "total_steps=nan"),
        (3, 5, "warmup_steps=5 must be below total_steps=5"),
    ],
)
def test_a_time_outside_the_training_is_refused_in_one_line(
    step: float, total: int, shown: str
) -> None:
    with pytest.raises(InvalidSchedule) as refusal:
        KDecaySchedule(warmup_steps=5)(step, total)
    assert shown in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("total", [0, 5])
def test_the_area_of_no_training_is_refused(total: int) -> None:
    with pytest.raises(InvalidSchedule, match=f"total_steps={total}"):
        KDecaySchedule(warmup_steps=5).area(total)


def timm_lrs(scheduler: str, k: float, steps: int, **options: Any) -> list[float]:
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm.scheduler")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    made = getattr(timm, scheduler)(optimizer, steps, lr_min=0.001, k_decay=k, **options)
    lrs = []
    for step in range(steps):
        made.step(step)
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


@pytest.mark.parametrize("k", [1.0, 2.0, 3.5, 8.0])
def test_timm_steps_through_the_same_rates(k: float) -> None:
    steps = 100
    pairs = [
        (KDecaySchedule(ks=(k,)), timm_lrs("PolyLRScheduler", k, steps, power=1.0)),
        (KDecaySchedule(ks=(k,), power=2.0), timm_lrs("PolyLRScheduler", k, steps, power=2.0)),
        (KDecaySchedule("cosine", (k,)), timm_lrs("CosineLRScheduler", k, steps)),
    ]
    for schedule, theirs in pairs:
        assert [schedule(step, steps) for step in range(steps)] == pytest.approx(theirs, rel=1e-12)
