"""Training scripts of others, unchanged: the examples in ``docs/examples``.

The scripts are not part of this repository. Two of these tests run them where an environment
variable says where they are.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from PIL import Image

from kdecay_search.schedules.export import schedule_csv
from kdecay_search.study.file import load
from kdecay_search.study.user_tasks import CommandTask
from kdecay_search.user_code import command
from tests.support.recorded_run import RecordedRun

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TIMM_TRAIN, NANOGPT = "KDECAY_TIMM_TRAIN", "KDECAY_NANOGPT"
pytestmark = pytest.mark.usefixtures("own_folder")


def recorded(
    example: str,
    change: Callable[[list[str]], list[str]],
    schedule: dict[str, Any] | None = None,
    **task: Any,
) -> RecordedRun:
    """Return a run of an example's study, smaller by ``change`` of its command and these keys."""
    study = load(EXAMPLES / example / "study.toml")
    tables = study.model_dump(mode="json", include={"task", "schedule"})
    tables["task"] |= task | {"command": change(tables["task"]["command"])}
    tables["schedule"] |= schedule or {}
    return RecordedRun(**tables)


@pytest.mark.parametrize("example", ["timm", "nanogpt"])
def test_the_studies_of_the_examples(example: str) -> None:
    task = load(EXAMPLES / example / "study.toml").task
    assert isinstance(task, CommandTask)
    assert task.report is not None


def test_nanogpt_s_configurator_takes_the_schedule_and_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``train.py`` executes the file with its own names, and then sets the options after it."""
    hooks: list[Any] = []
    module = import_module("torch.optim.optimizer")
    monkeypatch.setattr(module, "register_optimizer_step_pre_hook", hooks.append)
    run = recorded(
        "nanogpt", lambda arguments: arguments, {"warmup_steps": 1}, steps=6, report_every=2
    )
    schedule, seeds = run.spec.schedule_for(run.ks), []
    Path("rates.csv").write_text(schedule_csv(schedule, 6))
    names: dict[str, Any] = {"torch": SimpleNamespace(manual_seed=seeds.append)}
    exec((EXAMPLES / "nanogpt" / "kdecay.py").read_text(), names)
    names |= {"kdecay_csv": "rates.csv", "kdecay_seed": 3}
    names["torch"].manual_seed(1337)
    assert seeds == [1340]
    optimizer, rates = SimpleNamespace(param_groups=[{"lr": 7.0}, {"lr": 7.0}]), []
    for names["iter_num"] in range(6 + 1):
        hooks[0](optimizer, (), {})
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [pytest.approx([schedule(step, 6)] * 2, rel=1e-12) for step in range(7)]


@pytest.mark.skipif(NANOGPT not in os.environ, reason=f"{NANOGPT} names no folder")
def test_nanogpt_for_real() -> None:
    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copy(Path(os.environ[NANOGPT]) / name, ".")
    shutil.copy(EXAMPLES / "nanogpt" / "kdecay.py", ".")
    Path("letters.py").write_text(
        "dataset, compile, eval_iters, block_size, batch_size = 'letters', False, 4, 16, 8\n"
        "n_layer, n_head, n_embd, gradient_accumulation_steps = 1, 2, 16, 1\n"
    )
    data = Path("data/letters")
    data.mkdir(parents=True)
    letters = numpy.random.default_rng(0).choice(26, p=[0.5] + [0.02] * 25, size=6000)
    letters.astype(numpy.uint16).tofile(data / "train.bin")
    letters.astype(numpy.uint16).tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 26}))

    def small(arguments: list[str]) -> list[str]:
        return ["letters.py" if "/" in argument else argument for argument in arguments]

    run = recorded("nanogpt", small, {"warmup_steps": 4}, steps=60, report_every=20)
    command.train(run)
    errors = [epoch.validation_error for epoch in run.epochs]
    assert len(errors) == 3
    assert 1 < errors[2] < errors[0] < 4


@pytest.mark.skipif(TIMM_TRAIN not in os.environ, reason=f"{TIMM_TRAIN} names no script")
def test_timm_for_real() -> None:
    random = numpy.random.default_rng(0)
    for folder, count in (("train", 16), ("validation", 8)):
        for label in range(4):
            made = Path("data", folder, f"class{label}")
            made.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 128, (32, 32, 3), dtype=numpy.uint8)
                pixels[8 * label : 8 * label + 8, :, label % 3] = 255
                Image.fromarray(pixels).save(made / f"{number}.png")
    shutil.copy(os.environ[TIMM_TRAIN], "train.py")
    changes = {"resnet18": "test_resnet", "10": "4", "128": "16", "0.9998": "0.8"}

    def small(arguments: list[str]) -> list[str]:
        changed = [changes.get(argument, argument) for argument in arguments]
        return [*changed, "--img-size", "32", "--workers", "1"]

    run = recorded("timm", small, epochs=2)
    command.train(run)
    assert len(run.epochs) == 2
    for epoch in run.epochs:
        assert 0 <= epoch.validation_error <= 100
        assert epoch.averaged_error == epoch.validation_error
        assert epoch.training_loss is not None
