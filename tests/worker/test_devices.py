"""Which devices a machine has: what CUDA's driver says, here a library that stands in for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kdecay_search.errors import KDecayError
from kdecay_search.worker import cuda_count, devices
from kdecay_search.worker.devices import count_gpus, expand, worker_options
from tests.support.kdecay_command import Kdecay, simulated_study

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static int seen(void) {  /* as CUDA reads it, on a machine with GPU-a, GPU-b and a MIG instance */
    const char *known[] = {"0", "1", "GPU-a", "GPU-b", "MIG-c"};
    char *text = getenv("CUDA_VISIBLE_DEVICES"), words[256], *word;
    int count = 0, used[5] = {0};
    if (getenv("CRASH")) abort();
    if (!text) return 2;
    strcpy(words, text);
    for (word = strtok(words, ", "); word; word = strtok(0, ", ")) {
        int found = -1;
        for (int i = 0; i < 5; i++) if (!strcmp(word, known[i])) found = i;
        if (found < 0) break;
        if (used[found]++) return 0;
        count++;
        if (found == 4) return 1;
    }
    return count;
}
int cuInit(unsigned flags) { return seen() ? 0 : 100; }
int cuDeviceGetCount(int *count) { *count = seen(); return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library with CUDA's entry points, which counts as CUDA documents it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    library = folder / "libcuda-standin.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "cuda.c"], check=True)
    return str(library)


@pytest.fixture
def gpus(driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has two GPUs, by the stand-in for the driver."""
    script = tmp_path / "cuda_count.py"
    source = Path(cuda_count.__file__).read_text()
    script.write_text(source.replace(f'"{cuda_count.LIBRARY}"', repr(driver)))
    monkeypatch.setattr(cuda_count, "__file__", str(script))
    monkeypatch.setattr(cuda_count, "LIBRARY", driver)
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.usefixtures("gpus")
def test_the_driver_s_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_gpus() == 2
    assert (expand("auto"), expand("all"), expand("cuda:1")) == (
        ["cuda"], ["cuda:0", "cuda:1"], ["cuda:1"]
    )  # fmt: skip
    for visible, count in {
        "": 0, "NoDevFiles": 0, "none": 0, "void": 0, "-1": 0, "0,0": 0, "0,-1,1": 1, "0,7,1": 1,
        " 1, 0 ": 2, "GPU-b,GPU-a": 2, "GPU-x": 0, "MIG-c,0": 1,
    }.items():  # fmt: skip
        monkeypatch.setenv(VISIBLE, visible)
        assert count_gpus() == count, visible
        assert expand("all") == ([f"cuda:{index}" for index in range(count)] or ["cpu"])
        assert expand("auto") == ["cuda" if count else "cpu"]


@pytest.mark.usefixtures("gpus")
def test_a_gpu_that_cuda_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-a")
    with pytest.raises(KDecayError, match=r"CUDA shows no GPU here with \w+=GPU-a,GPU-a; use cpu"):
        expand("cuda")
    monkeypatch.setenv(VISIBLE, "1")
    with pytest.raises(KDecayError, match=r"^--device cuda:1: CUDA shows only cuda:0 here"):
        expand("cuda:1")


@pytest.mark.usefixtures("gpus")
def test_a_driver_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH", "1")
    with pytest.raises(KDecayError, match=r"CUDA failed with exit code -6; run nvidia-smi, or use"):
        expand("auto")
    assert expand("cpu") == ["cpu"], "CUDA is not asked"


@pytest.mark.usefixtures("gpus")
def test_several_devices_for_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 5)
    for device, groups in {
        "auto": ["cuda:0,1"], "cuda": ["cuda:0,1"], "all": ["cuda:0,1", "cuda:2,3"],
        "cuda:4,2": ["cuda:4,2"], "cuda:3,1,0,2": ["cuda:3,1", "cuda:0,2"], "cpu": ["cpu,cpu"],
    }.items():  # fmt: skip
        assert expand(device, 2) == groups
        assert [expand(*_options(group)) for group in groups] == [[group] for group in groups]
    assert expand("cuda:4,2") == ["cuda:4", "cuda:2"]
    for device in ("cuda:1", "cuda:1,1", "cuda:0,1,2"):
        with pytest.raises(
            KDecayError, match=rf"^--device {device} with --devices-per-run 2: needs"
        ):
            expand(device, 2)
    with pytest.raises(KDecayError, match="needs 6 different GPUs for each run, and has 5"):
        expand("all", 6)
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    assert (expand("auto", 3), expand("all", 2)) == (["cpu,cpu,cpu"], ["cpu,cpu"])


def _options(group: str) -> tuple[str, int]:
    """Return the options of the worker that trains on these devices."""
    _, device, *rest = worker_options(group)
    return device, int(rest[1])


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_count, "LIBRARY", "libkdecay-has-no-such-library.so")


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("device", ["auto", "all"])
def test_no_driver_is_the_cpu(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    assert expand(device) == ["cpu"]


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("mps", "Apple's GPUs (MPS) are not supported; use cpu"),
        ("rocm:1", "AMD's GPUs (ROCm) are not supported; use cpu"),
        ("gpu", "must be auto, cpu, cuda, cuda:N, cuda:N,M or all"),
        ("cuda:-1", "must be auto, cpu, cuda, cuda:N, cuda:N,M or all"),
    ],
)
def test_what_is_no_device(device: str, text: str) -> None:
    with pytest.raises(KDecayError) as caught:
        expand(device)
    assert str(caught.value) == f"--device {device}: {text}"


def test_a_machine_without_device_files(
    kdecay: Kdecay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm sets this on nodes without GPUs; one word, but no device."""
    monkeypatch.setenv(VISIBLE, "NoDevFiles")
    file = simulated_study(tmp_path, name="no-dev-files", search__seeds=1)
    kdecay.run("launch", file, "--workers", "1")
    log = next(Path(kdecay.home).glob("logs/no-dev-files/worker-0.log")).read_text()
    assert ":cpu serves no-dev-files" in log
