"""The joint search beside Optuna's samplers, small."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import search, search_methods, search_table
from benchmarks.landscapes import LAWS, SURFACES, Surface, study_spec
from benchmarks.record_points import points
from benchmarks.search_methods import (
    METHODS,
    Recommended,
    SimulatedGround,
    configuration,
    play_joint,
    play_optuna,
)
from benchmarks.search_table import PooledSpec, RecordedTable, TableGround
from kdecay_search.errors import DataError
from kdecay_search.study.candidate import Candidate

LEVEL = 0.1
TRUTH = Surface("made", Candidate(4.0, LEVEL, "polynomial", 1.0, lr_min=0.0))
"""What the made table is of."""
NOISE = 0.3


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """The rows that the command prints."""
    assert search.main([*arguments, "--processes=1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"rows"}
    rows: list[dict[str, Any]] = printed["rows"]
    return rows


def test_every_method_is_played_on_a_law_of_one_s_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law = {"L0": 2.4, "A": 0.6, "alpha": 0.4, "B": 500, "C": 2, "beta": 0.6, "gamma": 0.6}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(law))
    arguments = ("--landscape=multi-power", f"--law={path}", "--budgets=4,6", "--seeds=1")
    rows = rows_of(capsys, *arguments)
    keys = ["model", "method", "budget", "regret_mean", "regret_p90", "near_best"]
    assert all(list(row) == keys for row in rows)
    assert {row["model"] for row in rows} == {"mine"}
    assert [(row["method"], row["budget"]) for row in rows] == [
        (method, budget) for method in METHODS for budget in (4, 6)
    ]
    assert all(-0.001 < row["regret_mean"] <= row["regret_p90"] < 0.2 for row in rows)


def test_more_trainings_find_better_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--landscape=multi-power", "--models=400M", "--budgets=4,40", "--seeds=8")
    few, many = rows_of(capsys, *arguments, "--methods=random")
    assert many["regret_mean"] < 0.5 * few["regret_mean"]
    assert many["near_best"] > few["near_best"]


def test_a_table_for_people_has_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--landscape=multi-power", "--models=400M", "--budgets=4", "--seeds=1"]
    assert search.main([*arguments, "--methods=random,tpe"]) == 0
    printed = capsys.readouterr()
    assert all(name in printed.out for name in ("400M", "random", "tpe", "near best"))
    assert printed.err.count("\n") == 2


def test_a_surface_without_effect_shows_false_claims_of_the_joint_search_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--surface=nothing", "--budgets=6", "--seeds=2", "--methods=joint,random")
    joint, random = rows_of(capsys, *arguments)
    assert joint["regret_mean"] == random["regret_mean"] == 0.0
    assert 0.0 <= joint["false_better"] <= 1.0
    assert random["false_better"] is None
    assert joint["k_found"] is None


def test_a_surface_with_a_stated_k_shows_how_often_it_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter([0.3, 0.5, 0.51, None])

    def play(ground: SimulatedGround, each: bool, pauses: bool) -> search_methods.Played:
        k = next(found)
        point = Candidate(k, LEVEL, "cooldown" if k is None else "polynomial", lr_min=0.0)
        if k is None:
            point = point._replace(decay_share=0.2)
        return search_methods.Played([Recommended(point)], 1)

    monkeypatch.setattr(search, "play_joint", play)
    arguments = ("--surface=k04", "--budgets=4", "--seeds=4", "--methods=joint")
    (row,) = rows_of(capsys, *arguments)
    assert row["k_found"] == 0.5
    assert row["false_better"] is None


def test_the_joint_search_spends_its_budget_and_recommends_what_it_trained() -> None:
    ground = SimulatedGround(SURFACES["power3"], 10, 0)
    played = play_joint(ground)
    assert 4 <= played.trainings <= 10
    assert played.recommended[-1] in {chosen for chosen, _ in ground._runs}


@pytest.mark.parametrize(
    "method", ["tpe/flat/fixed", "tpe/grouped/own", "random/conditional/pairs"]
)
def test_optuna_recommends_its_best_trial(method: str) -> None:
    ground = SimulatedGround(LAWS["25M"], 20, 3)
    played = play_optuna(ground, 20, 3, configuration(method))
    assert len(played.recommended) == played.trainings == 20
    runs: dict[Recommended, list[float]] = {}
    for (chosen, _), error in ground._runs.items():
        runs.setdefault(chosen, []).append(error)
    means = {chosen: sum(errors) / len(errors) for chosen, errors in runs.items()}
    assert played.recommended[-1] == min(means, key=lambda chosen: means[chosen])
    seeds = {seed for _, seed in ground._runs}
    kind = method.rsplit("/", maxsplit=1)[-1]
    assert seeds == {"fixed": {0}, "own": set(range(20)), "pairs": {0, 1}}[kind]


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a table of 45 points and 3 seeds."""

    def write(**changed: Any) -> Path:
        rng, spec, found = (
            np.random.default_rng(0),
            study_spec(30, LEVEL, {}),
            points(LEVEL, 0.0, 30),
        )
        true = [
            TRUTH.error(spec.candidate_schedule(search_table._candidate(point))) for point in found
        ]
        seeds = {
            str(seed): {"raw": [[90.0, value + rng.normal(0, NOISE)] for value in true]}
            for seed in range(3)
        }
        seeds["1"]["raw"][0] = [90.0, None]
        table = {
            "task": "made",
            "metric": {"name": "error", "direction": "min", "unit": "%"},
            "lr_max": LEVEL,
            "points": found,
            "seeds": seeds,
        }
        path = tmp_path / "table.json"
        path.write_text(json.dumps(table | changed))
        return path

    return write


@pytest.fixture
def table(write: Write) -> RecordedTable:
    return search_table.read(write())


def test_a_recorded_table_is_replayed(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (f"--table={write()}", "--budgets=6,12", "--seeds=2", "--methods=joint,random")
    rows = rows_of(capsys, *arguments)
    assert [(row["table"], row["method"], row["budget"]) for row in rows] == [
        ("made", method, budget) for method in ("joint", "random") for budget in (6, 12)
    ]
    for row in rows:
        assert 0 <= row["regret_mean"] <= row["regret_p90"]
        assert (row["trainings"] is None) == (row["reached"] < 0.5)


@pytest.mark.parametrize(("suffix", "compressed"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_compressed_table_is_the_same_table(
    suffix: str, compressed: Callable[[bytes], bytes], write: Write, table: RecordedTable
) -> None:
    path = write()
    packed = path.with_name(path.name + suffix)
    packed.write_bytes(compressed(path.read_bytes()))
    assert np.array_equal(search_table.read(packed).errors, table.errors)
    packed.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="cannot be decompressed"):
        search_table.read(packed)


def test_a_table_knows_its_best_point_and_its_noise(table: RecordedTable) -> None:
    assert np.isinf(table.errors[1, 0])
    assert np.isinf(table.means[0])
    assert table.noise == pytest.approx(NOISE, rel=0.3)
    best = table.points[int(np.argmin(table.means))]
    assert table.regret(best) == 0 or best.family == "cosine"
    assert {point.family for point in table.points} == {
        "polynomial",
        "cosine",
        "cooldown",
        "linear-cooldown",
    }


def test_a_metric_to_be_maximised_is_turned_round(write: Write, table: RecordedTable) -> None:
    upside_down = search_table.read(write(metric={"name": "accuracy", "direction": "max"}))
    finite = np.isfinite(table.errors)
    assert np.array_equal(upside_down.errors[finite], -table.errors[finite])
    assert np.array_equal(upside_down.errors[~finite], table.errors[~finite])


def test_all_candidates_of_a_pool_are_recorded_points(table: RecordedTable) -> None:
    ground = TableGround(table, 12, 0)
    assert isinstance(ground.spec, PooledSpec)
    space = ground.spec.schedule_space()
    assert {each.family for each in space.families} == {"polynomial", "cooldown", "linear-cooldown"}
    for subspace in (*space.families, *space.baselines):
        number = len(subspace.searched)
        for share in (0.0, 0.3, 1.0):
            point = subspace.at([share] * number)
            assert point in table.points
            assert subspace.holds(point)
        own = next(point for point in table.points if subspace.holds(point))
        assert subspace.at(subspace.shares(own)) == own
    played = play_joint(ground, each=True)
    assert len(played.recommended) == played.trainings == len(ground._trained)
    other = TableGround(table, 12, 1)
    play_joint(other)
    assert {point for point, _ in other._trained} != {point for point, _ in ground._trained}


@pytest.mark.parametrize("seeding", search_methods.SEEDINGS)
def test_a_sampler_trains_no_run_of_a_table_twice(seeding: str, table: RecordedTable) -> None:
    ground = TableGround(table, 60, 1)
    played = play_optuna(ground, 60, 1, configuration(f"tpe/grouped/{seeding}"))
    assert len(ground._trained) == played.trainings
    reachable = sum(point.family != "cosine" for point in table.points)
    assert played.trainings == {"fixed": reachable, "own": 60, "pairs": 60}[seeding]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": {"0": {"raw": [None]}}}, "needs 2 seeds of which every point is recorded"),
        ({"seeds": {}}, "needs 2 seeds of which every point is recorded"),
        ({"points": []}, "is not a file of benchmarks.record_table: every seed must hold"),
        ({"metric": {"direction": "down"}}, "is not a file of benchmarks.record_table"),
        ({"lr_max": None}, "is not a file of benchmarks.record_table"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(
    changed: dict[str, Any], message: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(**changed)
    assert search.main([f"--table={path}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"benchmarks.search: {path}: {message}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --landscape --surface --table is required"),
        (["--surface=k04", "--law=x.json"], "--law needs --landscape multi-power"),
        (["--surface=k04", "--models=25M"], "--models needs --landscape multi-power"),
        (["--landscape=multi-power", "--models=7B"], "no model '7B'; there are 25M, 100M, 400M"),
        (["--surface=k04", "--budgets=3"], "each must be 4 or more; not 3"),
        (["--surface=k04", "--methods=best"], "no method 'best'; there are joint, random, tpe"),
        (["--surface=k04", "--methods=tpe/flat/twice"], "no method 'tpe/flat/twice'"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        search.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
