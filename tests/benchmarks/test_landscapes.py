"""The simulated tasks with a known best schedule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import search
from benchmarks.landscapes import (
    ERROR,
    GRID,
    LAWS,
    LEVEL,
    SURFACES,
    MultiPowerLaw,
    best_of,
    read_law,
)
from benchmarks.search_methods import Recommended, SimulatedGround
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.axis import Axis
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import Subspace

PEAK = 3e-4
FLOOR = 0.01
PUBLISHED = {
    "25M": (3.2098, 3.1527, 12, 3.1496),
    "100M": (2.8613, 2.7976, 13, 2.7940),
    "400M": (2.6030, 2.5380, 11, 2.5338),
}
"""Computed with all 24,000 steps, at a floor of 1 %: the loss of the linear schedule, that of the
best k at N = 1 and this k, and that of the best cooldown."""


@pytest.mark.parametrize("name", LAWS)
def test_the_law_gives_what_all_steps_give(name: str) -> None:
    law = LAWS[name]
    linear, best_k, k, cooldown = PUBLISHED[name]
    common = {"lr_max": Axis((PEAK,)), "lr_min": Axis((FLOOR,))}
    exponents = {"k": Axis((1.0, 30.0), "log"), "power": Axis((1.0,))}
    spec = law.spec(30)

    def best(axes: dict[str, Axis], family: str) -> tuple[float, Candidate]:
        subspace = Subspace(family, family, {**axes, **common})
        return best_of(spec, law.error, [subspace], design=16, starts=1)

    assert law.error(KDecaySchedule(lr_max=PEAK, lr_min=FLOOR * PEAK)) == pytest.approx(
        linear, abs=6e-4
    )
    loss, point = best(exponents, "polynomial")
    assert loss == pytest.approx(best_k, abs=6e-4)
    assert point.k == pytest.approx(k, rel=0.15)
    loss, point = best({"decay_share": Axis((0.05, 0.6), "log")}, "cooldown")
    assert loss == pytest.approx(cooldown, abs=6e-4)
    assert point.decay_share == pytest.approx(0.1, rel=0.2)


def literal(law: MultiPowerLaw, schedule: Schedule, until: int) -> float:
    """The law's formula, word for word, after this number of updates behind the warm-up."""
    rates = [schedule(step, GRID) for step in range(until + 1)]
    warmed = law.peak * law.warmup / 2
    loss = law.L0 + law.A * (sum(rates[1:]) + warmed) ** -law.alpha
    for k in range(1, until + 1):
        if rates[k] > 0:
            x = rates[k] ** -law.gamma * sum(rates[k:])
            gain = 1 - (law.C * x + 1) ** -law.beta
            loss -= law.B * (rates[k - 1] - rates[k]) * gain
    return loss


@pytest.mark.parametrize(
    "schedule",
    [
        KDecaySchedule(ks=(4.0,), power=0.5, lr_max=PEAK, lr_min=0.0),
        WarmupStableDecay(lr_max=PEAK, lr_min=0.1 * PEAK, decay_share=0.3),
    ],
)
def test_a_curve_follows_the_formula_at_every_report(schedule: Schedule) -> None:
    law = replace(LAWS["400M"], steps=GRID + 60, warmup=60)
    curve = law.curve(schedule, 11)
    assert curve[0] == pytest.approx(law.L0 + law.A * (PEAK * 30) ** -law.alpha)
    assert curve[1:] == pytest.approx([literal(law, schedule, 60 * n) for n in range(1, 11)])
    assert curve[-1] == pytest.approx(law.error(schedule))


def test_a_curve_ends_with_the_final_loss_wherever_its_reports_fall() -> None:
    law, schedule = LAWS["25M"], KDecaySchedule(ks=(3.0,), lr_max=PEAK, lr_min=0.0)
    curve = law.curve(schedule, 7)
    assert curve[-1] == pytest.approx(law.error(schedule))
    assert curve == sorted(curve, reverse=True)


LAW: dict[str, Any] = {
    "L0": 2.0, "A": 0.5, "alpha": 0.5, "B": 400, "C": 2.0, "beta": 0.6, "gamma": 0.6,
    "steps": 10_000, "warmup": 0, "peak": 1e-3,
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(**changed: Any) -> Path:
        path = tmp_path / "mine.json"
        law = {key: value for key, value in (LAW | changed).items() if value is not None}
        path.write_text(json.dumps(law))
        return path

    return write


def test_a_law_is_read_from_a_file(write: Write) -> None:
    assert read_law(write()) == MultiPowerLaw(**LAW, name="mine")
    short = read_law(write(steps=None, warmup=None, peak=None))
    assert (short.steps, short.warmup, short.peak) == (24_000, 2_160, PEAK)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"A": None}, "lacks the key 'A'"),
        ({"delta": 1}, "has the unknown key 'delta'"),
        ({"A": "0.5"}, "A must be a number; it is '0.5'"),
        ({"A": True}, "A must be a number; it is True"),
        ({"L0": math.nan}, "L0 must be a number; it is nan"),
        ({"beta": 0}, "beta must be above 0; it is 0"),
        ({"peak": -1}, "peak must be above 0; it is -1"),
        ({"peak": 1e9}, "peak must be from 1e-12 to 1e+06; it is 1000000000.0"),
        ({"steps": 10.5}, "steps must be a whole number; it is 10.5"),
        ({"warmup": 10_000}, "warmup must be from 0 to below steps, 10000; it is 10000"),
        ({"warmup": -1}, "warmup must be from 0 to below steps, 10000; it is -1"),
    ],
)
def test_a_wrong_law_is_refused_in_one_line(
    changed: dict[str, Any], message: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(**changed)
    assert search.main(["--landscape=multi-power", f"--law={path}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"benchmarks.search: {path}: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "must hold a JSON object"), ("{", "is not JSON"), (None, "cannot")],
)
def test_a_file_without_a_law_is_refused_in_one_line(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "law.json"
    if text is not None:
        path.write_text(text)
    assert search.main(["--landscape=multi-power", f"--law={path}"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_each_surface_is_lowest_at_its_stated_optimum() -> None:
    for surface in SURFACES.values():
        spec = surface.spec(30)

        def error(point: Candidate, surface: Any = surface, spec: Any = spec) -> float:
            return float(surface.error(spec.candidate_schedule(point)))

        if surface.best is None:
            assert error(Candidate(5.0, LEVEL)) == error(Candidate(1.0, 3 * LEVEL)) == ERROR
            continue
        best = surface.best
        assert error(best) == ERROR
        assert best.k is not None
        assert best.power is not None
        assert best.lr_max is not None
        others = [
            best._replace(k=1.2 * best.k),
            best._replace(power=1.2 * best.power),
            best._replace(lr_max=1.2 * best.lr_max),
            best._replace(lr_min=0.02),
        ]
        assert all(error(other) > ERROR for other in others)
    best = SURFACES["edge"].best
    levels = SURFACES["edge"].spec(30).schedule_space().families[0].axes["lr_max"]
    assert best is not None
    assert best.lr_max is not None
    assert best.lr_max > levels.high


def test_a_replay_adds_the_noise_of_the_seed_and_of_the_run() -> None:
    law = LAWS["400M"]
    points = [Recommended(Candidate(k, PEAK, "polynomial", 1.0)) for k in (1.0, 2.0)]
    grounds = [SimulatedGround(law, 10, number) for number in range(60)]
    off = np.array(
        [[[g.error(p, s) - g.true(p) for s in range(10)] for p in points] for g in grounds]
    )
    assert off.std() == pytest.approx(math.hypot(0.002, 0.002), rel=0.1)
    between_seeds, within_a_seed = np.diff(off, axis=2), np.diff(off, axis=1)
    assert between_seeds.std() == pytest.approx(0.004, rel=0.1)
    assert within_a_seed.std() == pytest.approx(math.sqrt(2) * 0.002, rel=0.1)
    assert grounds[0].error(points[0], 0) == grounds[0].error(points[0], 0)
