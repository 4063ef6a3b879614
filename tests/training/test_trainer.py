from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kdecay_search.errors import DataError, KDecayError
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Lost, Released
from kdecay_search.training.averaging import AveragedModel
from kdecay_search.training.trainer import train
from tests.support.kdecay_command import TIMEOUT_SECONDS
from tests.support.processors import WITHOUT_AVX
from tests.support.whole_candidates import COOLDOWN, LATE

MakeRecorder = Callable[..., Any]


def curve(run: Any) -> list[dict[str, float]]:
    train(run)
    return [asdict(epoch) for epoch in run.epochs]


def test_training_learns_to_read_digits(recorder: MakeRecorder) -> None:
    run = recorder(epochs=6, batch_size=32, model={"width": 8}, data={"subset": 1000})
    train(run)
    assert run.epochs[-1].validation_error < 15
    assert run.epochs[-1].averaged_error < 15
    assert run.epochs[-1].training_loss < 0.5 * run.epochs[0].training_loss


def test_every_epoch_is_reported_and_every_batch_polls(recorder: MakeRecorder) -> None:
    run = recorder(epochs=3, batch_size=50)
    train(run)
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3]
    assert run.polls == 3 * (240 // 50)


@pytest.mark.parametrize("ks", [(1.0,), (3.0,), (1.5, 4.0)])
def test_every_update_has_the_schedules_rate(recorder: MakeRecorder, ks: tuple[float, ...]) -> None:
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    run = recorder(ks=ks, epochs=3, schedule={"warmup_epochs": 1.0, "family": "cosine"})
    try:
        train(run)
    finally:
        hook.remove()
    schedule = run.spec.schedule_for(ks, steps_per_epoch=4)
    assert rates == [schedule(step, 12) for step in range(12)]
    assert [epoch.learning_rate for epoch in run.epochs] == [rates[3], rates[7], rates[11]]


@pytest.mark.parametrize("point", [COOLDOWN, LATE])
def test_every_update_has_the_whole_candidate_s_rate(
    recorder: MakeRecorder, point: Candidate
) -> None:
    run = recorder(ks=() if point.k is None else (point.k,), epochs=2)
    run.point = point
    train(run)
    schedule = run.spec.candidate_schedule(point, (), 4)
    assert [epoch.learning_rate for epoch in run.epochs] == [schedule(3, 8), schedule(7, 8)]


def test_a_run_is_trained_at_its_own_lr_max(recorder: MakeRecorder) -> None:
    """As by a study file with this lr_max for all runs."""
    run = recorder(ks=(2.0,), epochs=1)
    run.lr_max = 0.03
    plain = recorder(ks=(2.0,), epochs=1, schedule={"lr_max": 0.03})
    assert curve(run) == curve(plain)
    assert curve(recorder(ks=(2.0,), epochs=1)) != curve(plain)


def test_the_same_run_gives_the_same_bits_in_any_process(
    recorder: MakeRecorder, tmp_path: Path
) -> None:
    """The other process has trained something else first, with other threads and random numbers."""
    run = recorder(seed=3, data={"validation": 0.5})
    torch.manual_seed(1234)
    torch.set_num_threads(2)
    here = curve(run)
    again = curve(recorder(seed=3, data={"validation": 0.5}))
    assert here == again == curve_of_another_process(run.spec, tmp_path)


def test_float64_gives_the_same_on_other_processors(recorder: MakeRecorder, tmp_path: Path) -> None:
    """The other process computes as a processor without AVX would. In float32 that changes the
    first weights and every sum, and so, after enough updates, whole images."""
    for precision, agrees in (("float32", False), ("float64", True)):
        run = recorder(seed=3, data={"validation": 0.5}, epochs=6, precision=precision)
        here = curve(run)
        there = curve_of_another_process(run.spec, tmp_path, **WITHOUT_AVX)
        assert [epoch["validation_error"] for epoch in here] != [here[0]["validation_error"]] * 6
        assert (here == [pytest.approx(epoch, rel=1e-9) for epoch in there]) is agrees


def curve_of_another_process(
    spec: StudySpec, folder: Path, **environment: str
) -> list[dict[str, float]]:
    """The curve of this study's run of seed 3 in a process that has trained another one before."""
    path = folder / "spec.json"
    path.write_text(spec.to_json())
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(path), str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdout=subprocess.PIPE,
        check=True,
        timeout=TIMEOUT_SECONDS,
    )
    trained: list[dict[str, float]] = json.loads(done.stdout)
    return trained


OTHER_PROCESS = """
import json, sys, torch
sys.path.insert(0, sys.argv[2])
from conftest import Recorder
from dataclasses import asdict
from kdecay_search.study.file import from_json
from kdecay_search.training.trainer import train
spec = from_json(open(sys.argv[1]).read())
torch.rand(17)
train(Recorder(spec, ks=(4.0,), seed=8))
torch.rand(5)
run = Recorder(spec, seed=3)
train(run)
print(json.dumps([asdict(epoch) for epoch in run.epochs]))
"""


def test_a_run_restores_the_global_generator(recorder: MakeRecorder) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    train(recorder(epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_changes_the_curve_and_what_only_the_averages(
    recorder: MakeRecorder,
) -> None:
    def columns(run: Any) -> tuple[list[float], list[float]]:
        train(run)
        return [e.training_loss for e in run.epochs], [e.averaged_error for e in run.epochs]

    base, averages = columns(recorder())
    assert columns(recorder(seed=1))[0] != base
    assert columns(recorder(ks=(9.0,)))[0] != base
    slow, slow_averages = columns(recorder(averaging_share=1.0))
    assert slow == base
    assert slow_averages != averages


def test_all_candidates_of_a_seed_start_alike(recorder: MakeRecorder) -> None:
    """Until the rates differ: the first update's loss is the same for every k."""

    def first_loss(k: float) -> float:
        run = recorder(ks=(k,), epochs=1, batch_size=1000)
        train(run)
        loss: float = run.epochs[0].training_loss
        return loss

    assert first_loss(1.0) == first_loss(7.0)


def test_averaged_error_is_that_of_the_average_of_all_updates(
    recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a half-life of no length the average is the newest weights, and so are its errors."""
    run = recorder(averaging_share=1e-6)
    train(run)
    assert [e.averaged_error for e in run.epochs] == [e.validation_error for e in run.epochs]
    updates = []
    original = AveragedModel.update
    monkeypatch.setattr(
        AveragedModel, "update", lambda self: (updates.append(1), original(self))[1]
    )
    train(recorder())
    assert len(updates) == 2 * (240 // 50)


def test_a_diverged_run_reports_its_last_epoch_and_stops(recorder: MakeRecorder) -> None:
    run = recorder(epochs=20, schedule={"lr_max": 1e30, "lr_min": 1e30})
    train(run)
    *before, last = run.epochs
    assert len(run.epochs) < 20
    assert last.diverged
    assert not math.isfinite(last.training_loss)
    assert (last.validation_error, last.averaged_error) == (math.inf, math.inf)
    assert not any(epoch.diverged for epoch in before)


def test_an_interruption_from_report_passes_through(
    recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recorder(epochs=5)

    def report(epoch: Any) -> None:
        run.epochs.append(epoch)
        if epoch.number == 2:
            raise Lost

    monkeypatch.setattr(run, "report", report)
    with pytest.raises(Lost):
        train(run)
    assert len(run.epochs) == 2


def test_an_interruption_from_poll_passes_through_at_once(
    recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recorder(epochs=5)

    def poll() -> None:
        run.polls += 1
        if run.polls == 3:
            raise Released

    monkeypatch.setattr(run, "poll", poll)
    with pytest.raises(Released):
        train(run)
    assert (run.polls, run.epochs) == (3, [])


def test_bfloat16_trains_too(recorder: MakeRecorder) -> None:
    exact, reduced = recorder(epochs=1), recorder(epochs=1, precision="bfloat16")
    train(exact)
    train(reduced)
    assert reduced.epochs[0].training_loss != exact.epochs[0].training_loss
    assert reduced.epochs[0].training_loss == pytest.approx(exact.epochs[0].training_loss, rel=0.1)


def test_an_image_folder_trains(recorder: MakeRecorder, image_folder: Callable[..., Path]) -> None:
    root = image_folder({"cat": 12, "dog": 12, "eel": 12})
    run = recorder(data={"name": "image-folder", "root": str(root), "subset": 30})
    train(run)
    assert len(run.epochs) == 2
    assert 0 <= run.epochs[-1].validation_error <= 100


def test_data_errors_come_before_any_training(recorder: MakeRecorder) -> None:
    run = recorder(data={"subset": 100_000})
    with pytest.raises(DataError, match=r"task\.data\.subset = 100000"):
        train(run)
    assert run.polls == 0


def test_an_unusable_device_is_a_kdecay_error(recorder: MakeRecorder) -> None:
    run = recorder()
    run.device = "cuda:99"
    with pytest.raises(KDecayError, match="cuda:99"):
        train(run)


def test_another_kind_of_task_is_refused(recorder: MakeRecorder) -> None:
    run = recorder()
    simulated = {"name": "test", "task": {"kind": "simulated", "epochs": 2}}
    run.spec = StudySpec.model_validate(simulated)
    with pytest.raises(TypeError, match="'simulated'"):
        train(run)
