"""Networks as settings: numbers of parameters as published, and rules of depth."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kdecay_search.study.networks import (
    LAYERS_PER_STEP,
    MAX_DEPTH,
    DenseNetSpec,
    ModelSpec,
    ResNet50Spec,
    ResNetSpec,
    WideResNetSpec,
)
from kdecay_search.study.paper_networks import PAPER_NETWORKS
from tests.support.kdecay_command import Kdecay

PUBLISHED = [
    (ResNetSpec(depth=20), 269_722, 275_572),
    (ResNetSpec(depth=20, shortcut="B"), 272_474, None),
    (ResNetSpec(depth=20, block="preact-bottleneck"), 219_482, 242_612),
    (ResNetSpec(depth=47, block="preact-bottleneck"), 497_690, 520_820),
    (ResNetSpec(depth=101, block="preact-bottleneck"), 1_054_106, 1_077_236),
    (ResNetSpec(depth=110), 1_727_962, 1_733_812),
    (ResNetSpec(depth=110, block="preact-basic"), 1_727_962, 1_733_812),
    (ResNetSpec(depth=110, block="preact-bottleneck"), 1_146_842, 1_169_972),
    (ResNetSpec(depth=164, block="preact-bottleneck"), 1_703_258, 1_726_388),
    (WideResNetSpec(depth=16, widen=8), 10_961_370, 11_007_540),
    (WideResNetSpec(depth=28, widen=10), 36_479_194, 36_536_884),
    (DenseNetSpec(depth=100, growth=12), 769_162, 800_032),
    (DenseNetSpec(depth=250, growth=24), 15_324_406, 15_480_556),
]


@pytest.mark.parametrize(("spec", "cifar10", "cifar100"), PUBLISHED)
def test_a_network_has_the_published_number_of_parameters(
    spec: ModelSpec, cifar10: int, cifar100: int | None
) -> None:
    assert spec.parameters(10) == cifar10
    assert cifar100 is None or spec.parameters(100) == cifar100


def test_the_network_for_imagenet_has_the_published_number_of_parameters() -> None:
    assert ResNet50Spec().parameters(1000) == 25_557_032


def test_kdecay_models_lists_every_published_count(tmp_path: Path) -> None:
    done = Kdecay(tmp_path).run("models", "--json")
    rows = json.loads(done.stdout)
    listed = {(row["name"], row["depth"], row["data"], row["parameters"]) for row in rows}
    for spec, *counts in PUBLISHED:
        for data, count in zip(("cifar10", "cifar100"), counts, strict=True):
            assert count is None or (spec.name, spec.depth, data, count) in listed
    assert ("resnet50", 50, "imagenet", 25_557_032) in listed
    assert {row["block"] for row in rows if row["name"] == "resnet"} == set(LAYERS_PER_STEP)


def test_what_kdecay_models_prints_can_stand_in_a_study_file(tmp_path: Path) -> None:
    _, *lines = Kdecay(tmp_path).run("models").stdout.splitlines()
    for network, line in zip(PAPER_NETWORKS, lines, strict=True):
        assert line.split()[0] == network.title
        settings = re.search(r"name = .*?(?=  )", line).group()
        table = tomllib.loads("model = {" + settings + "}")
        assert TypeAdapter(ModelSpec).validate_python(table["model"]) == network.spec
        for count in network.parameters.values():
            assert f"{count:,}" in line


@given(
    depth=st.integers(-50, MAX_DEPTH), block=st.sampled_from([*LAYERS_PER_STEP, "wide", "dense"])
)
def test_a_depth_either_fits_or_is_answered_with_the_nearest_that_do(
    depth: int, block: str
) -> None:
    try:
        of(block, depth)
    except ValidationError as error:
        text = error.errors()[0]["msg"].split(";")[1]
        nearest = [int(number) for number in re.findall(r"\d+", text)]
        step = LAYERS_PER_STEP.get(block, 6)  # type: ignore[call-overload]
        assert nearest
        for near in nearest:
            of(block, near)
            assert depth < 10 or abs(depth - near) < step or len(nearest) == 1
    else:
        assert of(block, depth).parameters(10) > 0


def of(block: str, depth: int) -> ResNetSpec | WideResNetSpec | DenseNetSpec:
    if block == "wide":
        return WideResNetSpec(depth=depth, widen=1)
    if block == "dense":
        return DenseNetSpec(depth=depth, growth=1)
    return ResNetSpec.model_validate({"block": block, "depth": depth})
