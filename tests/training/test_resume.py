"""A run that is interrupted and resumed gives the same bits as one that is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Released
from kdecay_search.training import checkpoints
from kdecay_search.training.trainer import train

MakeRecorder = Callable[..., Any]
STEPS_PER_EPOCH = 4
EPOCHS = 3


class Host:
    """Trains one run repeatedly, each time until it is interrupted after a number of polls."""

    def __init__(self, make: MakeRecorder, folder: Path, **settings: Any) -> None:
        self._make, self._folder, self._settings = make, folder, settings

    def run(self, polls: int | None = None, every_seconds: float = 300.0) -> Any:
        run = self._make(epochs=EPOCHS, ks=(1.5, 4.0), seed=2, **self._settings)
        run.checkpoint = Checkpoint(
            self._folder, RunKey(1, 0, 2), run.spec.fingerprint(run.ks, run.seed), every_seconds
        )
        poll = run.poll

        def poll_or_stop() -> None:
            poll()
            if polls is not None and run.polls > polls:
                raise Released

        run.poll = poll_or_stop
        return run

    def undisturbed(self) -> list[Epoch]:
        run = self._make(epochs=EPOCHS, ks=(1.5, 4.0), seed=2, **self._settings)
        train(run)
        return list(run.epochs)

    def interrupted(self, polls: int) -> Any:
        run = self.run(polls)
        with pytest.raises(Released):
            train(run)
        return run


@pytest.fixture
def host(recorder: MakeRecorder, tmp_path: Path) -> Host:
    return Host(recorder, tmp_path / "checkpoints")


def values(epochs: list[Epoch]) -> list[Mapping[str, float]]:
    return [asdict(epoch) for epoch in epochs]


@pytest.mark.parametrize("polls", range(EPOCHS * STEPS_PER_EPOCH))
def test_a_run_interrupted_before_any_update_gives_the_same_bits(host: Host, polls: int) -> None:
    expected = host.undisturbed()
    first = host.interrupted(polls)
    torch.manual_seed(99)  # another process has other random numbers
    second = host.run()
    train(second)
    assert second.restored == first.epochs
    assert values(second.restored + second.epochs) == values(expected)
    assert len(second.epochs) == EPOCHS - polls // STEPS_PER_EPOCH
    assert second.polls == EPOCHS * STEPS_PER_EPOCH - polls


def test_a_run_interrupted_at_every_update_gives_the_same_bits(host: Host) -> None:
    expected = host.undisturbed()
    for _ in range(EPOCHS * STEPS_PER_EPOCH):
        run = host.run(polls=1)
        try:
            train(run)
        except Released:
            continue
    assert values(run.restored + run.epochs) == values(expected)


def test_a_killed_run_resumes_after_its_last_whole_epoch(host: Host) -> None:
    """Nothing is saved on the way out when a process is killed: the epoch's end must do."""
    expected = host.undisturbed()
    run = host.run()
    report = run.report

    def report_or_die(epoch: Epoch) -> None:
        report(epoch)
        if epoch.number == 2:
            raise KeyboardInterrupt

    run.report = report_or_die
    with pytest.raises(KeyboardInterrupt):
        train(run)
    second = host.run()
    train(second)
    assert [epoch.number for epoch in second.restored] == [1]
    assert values(second.restored + second.epochs) == values(expected)


def test_within_an_epoch_the_state_is_saved_when_due(host: Host) -> None:
    run = host.run(every_seconds=0.0)
    update = run.poll

    def die_in_the_second_epoch() -> None:
        update()
        if run.polls == STEPS_PER_EPOCH + 3:
            raise KeyboardInterrupt

    run.poll = die_in_the_second_epoch
    with pytest.raises(KeyboardInterrupt):
        train(run)
    state = checkpoints.load(run.checkpoint)
    assert state is not None
    assert state["step"] == STEPS_PER_EPOCH + 1
    second = host.run()
    train(second)
    assert values(second.restored + second.epochs) == values(host.undisturbed())


def test_a_finished_run_is_reported_again_and_not_trained(host: Host) -> None:
    train(host.run())
    again = host.run()
    train(again)
    assert values(again.restored) == values(host.undisturbed())
    assert (again.epochs, again.polls) == ([], 0)


def test_a_diverged_run_stays_diverged_after_a_resume(
    recorder: MakeRecorder, tmp_path: Path
) -> None:
    host = Host(recorder, tmp_path, schedule={"lr_max": 1e6, "lr_min": 1e5})
    train(host.run())
    again = host.run()
    train(again)
    assert again.restored[-1].diverged
    assert again.epochs == []


def test_bytes_that_torch_cannot_load_are_set_aside(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    run = host.run()
    run.checkpoint.write(b"whole, but of another kind")
    train(run)
    assert "cannot be loaded" in caplog.text
    assert values(run.epochs) == values(host.undisturbed())


def test_a_state_that_would_run_code_is_set_aside(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import io

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "trapped",))

    buffer = io.BytesIO()
    torch.save({"step": Trap()}, buffer)
    run = host.run()
    run.checkpoint.write(buffer.getvalue())
    assert checkpoints.load(run.checkpoint) is None
    assert not (tmp_path / "trapped").exists()
