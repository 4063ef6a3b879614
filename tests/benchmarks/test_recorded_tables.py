"""Tables of schedules: the points, and a small recording of the digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import record_table, search_table
from benchmarks.record_points import Point, points, quasi_random, schedule_of, usual
from kdecay_search.schedules.baselines import WarmupStableDecay
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.file import load

TABLES = Path(record_table.__file__).parent / "tables"
TINY = ["task.epochs=1", "task.data.subset=120", "task.model.width=4"]


def test_points_are_the_same_on_every_call_and_more_come_behind() -> None:
    assert points(0.1, 0.05, 96) == points(0.1, 0.05, 96)
    assert len(points(0.1, 0.05, 96)) == 111
    assert points(0.1, 0.05, 7) == points(0.1, 0.05, 96)[:22]
    assert quasi_random(0.1, 3) == [
        {
            "family": "polynomial",
            "k": 1.39248,
            "power": 0.757858,
            "lr_max": 0.1,
            "lr_min": 0.0142857,
            "warmup": 0.00909091,
        },
        {
            "family": "polynomial",
            "k": 6.4633,
            "power": 1.1487,
            "lr_max": 0.05,
            "lr_min": 0.0285714,
            "warmup": 0.0181818,
        },
        {
            "family": "cooldown",
            "decay_share": 0.0821876,
            "decay": "linear",
            "lr_max": 0.0629961,
            "lr_min": 0.0142857,
            "warmup": 0.00909091,
        },
    ]


def test_points_fill_the_space() -> None:
    found = quasi_random(0.1, 96)
    cooldowns = [point for point in found if point["family"] == "cooldown"]
    polynomials = [point for point in found if point["family"] == "polynomial"]
    assert (len(polynomials), len(cooldowns)) == (64, 32)
    assert sum(point["decay"] == "1-sqrt" for point in cooldowns) in (15, 16, 17)
    for chosen, name, low, high in (
        (polynomials, "k", 0.3, 30),
        (polynomials, "power", 0.5, 4),
        (polynomials, "lr_max", 0.025, 0.4),
        (cooldowns, "decay_share", 0.05, 0.6),
        (cooldowns, "lr_max", 0.025, 0.4),
    ):
        shares = np.log([float(point[name]) / low for point in chosen]) / np.log(high / low)
        assert 0 <= shares.min() < 0.05
        assert 0.95 < shares.max() <= 1
        assert abs(shares.mean() - 0.5) < 0.05
    for name in ("lr_min", "warmup"):
        values = [float(point[name]) for point in found]
        assert 0 < min(values) < 0.01
        assert 0.09 < max(values) < 0.1


def test_usual_schedules_are_there_at_five_levels() -> None:
    found = usual(0.02, 0.0)
    assert [point["family"] for point in found] == (
        ["polynomial"] * 5 + ["cosine"] * 5 + ["cooldown"] * 5
    )
    assert [point["lr_max"] for point in found[:5]] == [0.005, 0.01, 0.02, 0.04, 0.08]


def test_a_point_is_trained_with_its_schedule() -> None:
    common: dict[str, Any] = {"lr_max": 0.2, "lr_min": 0.1, "warmup": 0.05}
    given: dict[str, float] = {"lr_max": 0.2, "lr_min": 0.1 * 0.2}
    assert schedule_of({"family": "polynomial", "k": 3.0, "power": 2.0, **common}, 200) == (
        KDecaySchedule("polynomial", (3.0,), 2.0, warmup_steps=10, **given)
    )
    assert schedule_of({"family": "cosine", "k": 1.0, **common}, 200) == (
        KDecaySchedule("cosine", (1.0,), warmup_steps=10, **given)
    )
    cooldown = {"family": "cooldown", "decay_share": 0.3, "decay": "linear", **common}
    assert schedule_of(cooldown, 200) == (
        WarmupStableDecay(decay_share=0.3, decay="linear", warmup_steps=10, **given)
    )


def _record(out: Path, *options: str) -> int:
    sets = [part for value in TINY for part in ("--set", value)]
    return record_table.main(["digits", "--out", str(out), "--points", "2", *sets, *options])


def test_a_table_is_recorded_resumed_and_extended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(
        record_table, "points", lambda lr_max, _, number: quasi_random(lr_max, number)
    )
    out = tmp_path / "digits.json"
    assert _record(out, "--seeds", "1") == 0
    assert capsys.readouterr().err.count("seed 0") == 2
    table = json.loads(out.read_text())
    assert table["task"] == "digits"
    assert table["metric"] == {"name": "validation error", "direction": "min", "unit": "%"}
    assert table["lr_max"] == 0.02
    assert table["epochs"] == 1
    assert table["points"] == quasi_random(0.02, 2)
    assert "torch" in table["source"]["versions"]
    curves = table["seeds"]["0"]
    assert curves.keys() == {"raw", "averaged"}
    assert all(0 < curve[0] < 100 for runs in curves.values() for curve in runs)
    assert curves["raw"][0] != curves["raw"][1]

    lost = json.loads(out.read_text())
    lost["seeds"]["0"]["raw"][1] = lost["seeds"]["0"]["averaged"][1] = None
    out.write_text(json.dumps(lost))
    assert _record(out, "--seeds", "2") == 0
    printed = capsys.readouterr().err
    assert (printed.count("seed 0, point 1"), printed.count("seed")) == (1, 3)
    resumed = json.loads(out.read_text())
    assert resumed["seeds"]["0"] == curves, "trained again to the same bits"
    assert resumed["seeds"]["1"] != curves

    assert _record(out, "--seeds", "1") == 0
    assert json.loads(out.read_text()) == resumed, "nothing is lost by asking for less"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", sorted(TABLES.iterdir()), ids=lambda path: path.name)
def test_the_tables_that_are_kept_hold_every_schedule_of_their_task(path: Path) -> None:
    table = search_table.read(path)
    assert path.name == f"{table.name}.json.xz"
    wanted = points(table.lr_max, record_table.WARMUPS[table.name], 96)
    assert list(table.points) == list(map(search_table._candidate, wanted))
    seeds, number = table.errors.shape
    assert seeds >= 3
    assert number == 111
    assert table.lr_max == load(record_table.TASKS / f"{table.name}.toml").schedule.lr_max
    spread = np.ptp(table.means[np.isfinite(table.means)])
    assert 0 < table.noise < spread / 5


def test_the_tables_that_are_kept_are_small() -> None:
    assert 0 < sum(path.stat().st_size for path in TABLES.iterdir()) < 2_000_000


def test_files_of_something_else_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "digits.json"
    out.write_text("[]")
    assert _record(out) == 2
    assert "is not a file of this command" in capsys.readouterr().err
    monkeypatch.setattr(
        "benchmarks.record_tasks.make_trainer", lambda spec: lambda point, seed: ([None], [None])
    )
    out.unlink()
    assert _record(out, "--seeds", "1") == 0
    assert capsys.readouterr().err.count("seed") == 17
    assert _record(out, "--seeds", "1") == 0
    assert capsys.readouterr().err == "", "a run that diverged is recorded as well"
    assert _record(out, "--set", "task.batch_size=32") == 2
    assert "was recorded with another task; give another --out" in capsys.readouterr().err


def test_a_point_of_an_image_task_is_trained_as_by_a_worker_to_the_bit() -> None:
    pytest.importorskip("torch")
    from benchmarks.record_tasks import curves_of, make_trainer
    from benchmarks.recording import BareRun
    from kdecay_search.training import trainer

    spec = load(record_table.TASKS / "digits.toml", [*TINY, "schedule.power=2"])
    run = BareRun(spec, (1.0,), 3, "cpu")
    trainer.train(run)
    point: Point = {"family": "polynomial", "k": 1.0, "power": 2.0}
    point |= {"lr_max": 0.02, "lr_min": 0.01, "warmup": 0.0}
    assert make_trainer(spec)(point, 3) == curves_of(run.epochs, 1)
    assert make_trainer(spec)(point | {"k": 3.0}, 3) != curves_of(run.epochs, 1)


def test_points_of_the_transformer_are_trained_and_may_diverge() -> None:
    pytest.importorskip("torch")
    from benchmarks.record_tasks import make_trainer

    small = ["task.steps=6", "task.report_every=2", "task.args.width=8", "schedule.warmup_steps=0"]
    train = make_trainer(load(record_table.TASKS / "text.toml", small))
    linear, cosine, cooldown = usual(0.1, 0.0)[::5]
    raw, averaged = train(linear, 0)
    assert len(raw) == len(averaged) == 3
    assert all(value is not None and 0 < value < 6 for value in raw + averaged)
    assert raw != averaged
    assert train(linear, 0) == (raw, averaged)
    others = [
        train(linear, 1),
        train(cosine, 0),
        train(cooldown, 0),
        train({**linear, "k": 9.0}, 0),
    ]
    assert (raw, averaged) not in others
    assert train({**linear, "lr_max": 1e30}, 0) == ([None] * 3, [None] * 3)
