"""The averaged weights of ``TaskRun.average``."""

from __future__ import annotations

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.training.averaging import AveragedModel
from tests.support.recorded_run import RecordedRun
from tests.user_code.task_runs import with_steps


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout())


def updates(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def test_the_average_equals_the_built_in_task_s() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    task_run = with_steps(RecordedRun())
    average = task_run.average(model, optimizer)
    reference = AveragedModel(model, 0.08 * task_run.total_steps)
    optimizer.register_step_post_hook(lambda *_: reference.update())
    updates(model, optimizer, 6)
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average as averaged:
        assert averaged is model
        assert not any(module.training for module in model.modules())
        for name, tensor in reference.model.state_dict().items():
            if tensor.is_floating_point():
                assert torch.equal(model.state_dict()[name], tensor), name
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_the_weights_return_after_an_error() -> None:
    model = network()
    average = with_steps(RecordedRun()).average(model)
    updates(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    average.update()
    before = model[0].weight.clone()
    with pytest.raises(ZeroDivisionError), average:
        raise ZeroDivisionError
    assert torch.equal(model[0].weight, before)
    assert model.training


def test_half_precision_is_averaged_in_full() -> None:
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = with_steps(RecordedRun()).average(model)
    for value in (1.0, 1.0078125):
        model.weight.data.fill_(value)
        average.update()
    assert 1.0 < float(average.state_dict()["average"][0]) < 1.0078125


def test_a_model_that_moved_is_refused() -> None:
    model = network()
    average = with_steps(RecordedRun()).average(model)
    model.double()
    with pytest.raises(TaskError, match=r"call it after model\.to\(device\)"):
        average.update()


def test_training_averaged_weights_is_refused() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = with_steps(RecordedRun()).average(model, optimizer)
    with pytest.raises(TaskError, match="train outside of it"), average:
        updates(model, optimizer, 1)
