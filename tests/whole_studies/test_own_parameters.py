"""A study whose program has parameters of its own, with the real command, workers and database."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
import tomli_w
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kdecay_search.storage import Storage
from tests.support.kdecay_command import Kdecay

PROGRAM = """
import json, math, sys

k, lr, decay, layers, nesterov = sys.argv[1:]
far = abs(math.log(float(k or 4) / 2)) + abs(math.log10(float(decay) / 1e-3)) + abs(int(layers) - 3)
print(json.dumps({"epoch": 1, "error": 10 + far + (nesterov == "false")}))
"""
SPACE = {
    "weight_decay": [1e-5, 1e-1, "log"],
    "layers": [1, 6, "linear"],
    "nesterov": [True, False],
}


def study_file(folder: Path, name: str) -> str:
    (folder / "mine.py").write_text(PROGRAM)
    names = ("k", "lr_max", "weight_decay", "layers", "nesterov")
    command = ["python", str(folder / "mine.py"), *(f"{{{name}}}" for name in names)]
    table = {
        "name": name,
        "task": {"kind": "command", "epochs": 1, "command": command},
        "search": {"space": SPACE, "budget": 12, "max_terms": 1, "seeds": 2},
    }
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(table))
    return str(path)


def test_a_program_is_searched_with_its_own_parameters(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    file = study_file(tmp_path, "own-program")
    checked = " ".join(kdecay.run("check", file).stdout.split())
    assert "weight_decay 1e-05 to 0.1, log" in checked
    assert "layers 1 to 6, linear, integers nesterov true, false" in checked
    tried = kdecay.run("try", file).stdout
    assert "k = 1, layers = 4, nesterov = true, weight_decay = 0.001, seed 0" in tried
    assert "1.0 0.1 0.001 4 true" in tried

    found = kdecay.json("launch", file, "--workers", "2")
    assert found["state"] == "done"
    args = found["schedule"]["args"]
    assert args.keys() == SPACE.keys()
    assert json.loads(kdecay.run("best", "own-program").stdout)["schedule"]["args"] == args
    source = kdecay.run("best", "own-program", "--as", "python", "--total-steps", "10").stdout
    assert source.startswith("# Found together with layers = ")
    text = " ".join(kdecay.run("status", "own-program").stdout.split())
    assert "layers nesterov weight_decay runs mean error" in text

    trials = optuna.load_study(study_name="own-program/k1", storage=storage.rdb).trials
    assert len(trials) == 12
    for trial in trials:
        own = trial.user_attrs["point"]["args"]
        assert {name: trial.params[name] for name in own} == own
        assert type(trial.params["layers"]) is int
        assert trial.distributions["weight_decay"] == FloatDistribution(1e-5, 0.1, log=True)
        assert trial.distributions["layers"] == IntDistribution(1, 6)
        assert trial.distributions["nesterov"] == CategoricalDistribution((True, False))
    errors = [trial.value for trial in trials]
    best = min(errors)
    assert best == pytest.approx(min(c["mean"] for c in found["stages"][0]["candidates"]))
