from __future__ import annotations

import pytest
import torch
from torch import nn

from kdecay_search.training.averaging import AveragedModel, SwappedAverage


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


def train_one_step(model: nn.Module, step: int) -> None:
    random = torch.Generator().manual_seed(step)
    loss = model(torch.randn(6, 1, 4, 4, generator=random)).square().mean()
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad


def floats(model: nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {name: t.double().clone() for name, t in state.items() if t.is_floating_point()}


@pytest.mark.parametrize("half_life", [0.5, 3.0, 1000.0])
def test_the_average_is_a_weighted_mean_of_all_weights_so_far(half_life: float) -> None:
    model = small_model()
    averaged = AveragedModel(model, half_life)
    history = []
    for step in range(12):
        train_one_step(model, step)
        averaged.update()
        history.append(floats(model))
        shares = [0.5 ** ((step - i) / half_life) for i in range(step + 1)]
        for name, average in floats(averaged.model).items():
            rows = zip(shares, history, strict=True)
            expected = sum(share * past[name] for share, past in rows) / sum(shares)
            torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)


def test_the_first_average_is_the_first_updated_weights_exactly() -> None:
    model = small_model()
    averaged = AveragedModel(model, 100.0)
    train_one_step(model, 0)
    averaged.update()
    for name, tensor in floats(model).items():
        assert torch.equal(floats(averaged.model)[name], tensor)


def test_batch_norm_statistics_are_averaged_and_counters_are_not() -> None:
    model = small_model()
    averaged = AveragedModel(model, 2.0)
    for step in range(4):
        train_one_step(model, step)
        averaged.update()
    norm, average = model[1], averaged.model[1]
    assert not torch.equal(average.running_mean, norm.running_mean)
    assert average.running_mean.any()
    assert average.num_batches_tracked == 0


def test_the_averaged_model_shares_no_memory_with_the_trained_one() -> None:
    model = small_model()
    averaged = AveragedModel(model, 2.0)
    mine = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert mine.isdisjoint(t.data_ptr() for t in averaged.model.state_dict().values())
    assert not any(p.requires_grad for p in averaged.model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_a_mask_s_infinite_entries_stay_as_they_are() -> None:
    model = nn.Linear(2, 2)
    mask = torch.triu(torch.full((3, 3), -torch.inf), diagonal=1)
    model.register_buffer("mask", mask.clone())
    averaged, swapped = AveragedModel(model, 2.0), SwappedAverage(model, 2.0)
    for step in range(3):
        with torch.no_grad():
            model.weight += step
        averaged.update()
        swapped.update()
    assert torch.equal(averaged.model.mask, mask)
    with swapped:
        assert torch.equal(model.mask, mask)
        assert torch.equal(model.weight, averaged.model.weight)
    assert torch.equal(model.mask, mask)
    assert not torch.equal(model.weight, averaged.model.weight)


def test_the_finite_entries_of_a_mask_are_averaged() -> None:
    model = nn.Module()
    model.register_buffer("bias", torch.tensor([-torch.inf, 0.0, torch.inf]))
    averaged = AveragedModel(model, 1.0)
    for value in (1.0, 4.0):
        model.bias[1] = value
        averaged.update()
    assert averaged.model.bias.tolist() == pytest.approx([-torch.inf, 3.0, torch.inf])
