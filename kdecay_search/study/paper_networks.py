"""The networks of the k-decay paper (arXiv:2004.05909) and of the papers that it builds on."""

from __future__ import annotations

from typing import NamedTuple

from kdecay_search.study.networks import (
    DenseNetSpec,
    ResNet50Spec,
    ResNetSpec,
    WideResNetSpec,
)

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
"""Number of classes by data set."""
SMALL = ("cifar10", "cifar100")
"""Data sets of small images."""


class PaperNetwork(NamedTuple):
    """A network under the name that papers use for it, and the data sets that it is trained on."""

    title: str
    """Name of the network in the papers, such as ``ResNet-110``."""
    spec: ResNetSpec | WideResNetSpec | DenseNetSpec | ResNet50Spec
    """Settings that build the network."""
    data_sets: tuple[str, ...] = SMALL
    """Data sets that the papers train the network on."""

    @property
    def depth(self) -> int:
        """Number of layers with weights."""
        return 50 if isinstance(self.spec, ResNet50Spec) else self.spec.depth

    @property
    def block(self) -> str | None:
        """Kind of the residual blocks; None for networks that have one kind only."""
        return self.spec.block if isinstance(self.spec, ResNetSpec) else None

    @property
    def parameters(self) -> dict[str, int]:
        """Number of trainable parameters by data set."""
        return {name: self.spec.parameters(CLASSES[name]) for name in self.data_sets}


PAPER_NETWORKS = (
    PaperNetwork("ResNet-20", ResNetSpec(depth=20)),
    PaperNetwork("ResNet-20", ResNetSpec(depth=20, shortcut="B")),
    PaperNetwork("ResNet-20", ResNetSpec(depth=20, block="preact-bottleneck")),
    PaperNetwork("ResNet-47", ResNetSpec(depth=47, block="preact-bottleneck")),
    PaperNetwork("ResNet-101", ResNetSpec(depth=101, block="preact-bottleneck")),
    PaperNetwork("ResNet-110", ResNetSpec(depth=110)),
    PaperNetwork("ResNet-110", ResNetSpec(depth=110, block="preact-basic")),
    PaperNetwork("ResNet-110", ResNetSpec(depth=110, block="preact-bottleneck")),
    PaperNetwork("ResNet-164", ResNetSpec(depth=164, block="preact-bottleneck")),
    PaperNetwork("WRN-16-8", WideResNetSpec(depth=16, widen=8)),
    PaperNetwork("WRN-28-10", WideResNetSpec(depth=28, widen=10)),
    PaperNetwork("DenseNet-BC-100-12", DenseNetSpec(depth=100, growth=12)),
    PaperNetwork("DenseNet-BC-250-24", DenseNetSpec(depth=250, growth=24)),
    PaperNetwork("ResNet-50", ResNet50Spec(), ("imagenet",)),
)
"""All networks of the paper, some in several variants."""
