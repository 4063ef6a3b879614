from __future__ import annotations

import pytest
import torch

from kdecay_search.errors import KDecayError
from kdecay_search.training.device import make_deterministic, resolve_device

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
one_gpu = pytest.mark.skipif(torch.cuda.device_count() != 1, reason="needs exactly one GPU")


def test_cpu_is_cpu() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


@no_gpu
def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert resolve_device("auto") == torch.device("cpu")


@one_gpu
def test_auto_is_the_gpu_where_there_is_one() -> None:
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_missing_gpu_is_one_clear_line(device: str) -> None:
    with pytest.raises(KDecayError, match=rf"'{device}': torch finds no usable GPU here; use cpu"):
        resolve_device(device)


@one_gpu
def test_a_gpu_that_does_not_exist_is_one_clear_line() -> None:
    with pytest.raises(KDecayError, match=r"'cuda:7' does not exist: this machine has only cuda:0"):
        resolve_device("cuda:7")


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "mps"])
def test_an_unknown_device_is_one_clear_line(device: str) -> None:
    with pytest.raises(KDecayError, match="must be auto, cpu, cuda or cuda:N"):
        resolve_device(device)


def test_zero_threads_leave_their_number_alone() -> None:
    make_deterministic(1)
    assert torch.get_num_threads() == 1
    make_deterministic(0)
    assert torch.get_num_threads() == 1
