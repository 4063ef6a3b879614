"""A second host: a network namespace, joined to this host by a link that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Link:
    """A pair of virtual network devices that joins two hosts."""

    namespace: str
    """Name of the network namespace that is the other host."""
    device: str
    """Name of this host's device."""
    near: str
    """Address of this host."""
    far: str
    """Address of the other host."""
    is_cut: bool = False
    """Whether packets are dropped."""

    @property
    def prefix(self) -> list[str]:
        """A command that runs another command on the other host."""
        return ["ip", "netns", "exec", self.namespace]

    def cut(self) -> None:
        """Drop all packets, without closing any connection."""
        _ip("link", "set", self.device, "down")
        self.is_cut = True

    def restore(self) -> None:
        """Let packets through again."""
        _ip("link", "set", self.device, "up")
        self.is_cut = False


def unavailable_reason() -> str | None:
    """The reason why no second host can be made here; None if one can."""
    if shutil.which("ip") is None:
        return "the command ip (Debian: iproute2) is not installed"
    name = f"kdecay-try-{os.getpid()}"
    tried = _try("netns", "add", name)
    if tried is not None:
        return f"network namespaces are not permitted: {tried}"
    try:
        refused = _try("-n", name, "link", "add", "near", "type", "veth", "peer", "name", "far")
        return None if refused is None else f"no virtual network devices: {refused}"
    finally:
        _ip("netns", "del", name)


@contextmanager
def second_host() -> Iterator[Link]:
    """Create the namespace and its link, and remove them at the end of a ``with`` block."""
    number = os.getpid()
    subnet = f"10.{200 + number % 50}.{number // 50 % 256}"
    link = Link(f"kdecay-{number}", f"kd{number}", f"{subnet}.1", f"{subnet}.2")
    _ip("netns", "add", link.namespace)
    try:
        _ip("link", "add", link.device, "type", "veth", "peer", "name", "far",
            "netns", link.namespace)  # fmt: skip
        _ip("address", "add", f"{link.near}/24", "dev", link.device)
        _ip("link", "set", link.device, "up")
        _ip("-n", link.namespace, "address", "add", f"{link.far}/24", "dev", "far")
        _ip("-n", link.namespace, "link", "set", "far", "up")
        _ip("-n", link.namespace, "link", "set", "lo", "up")
        yield link
    finally:
        _ip("netns", "del", link.namespace)  # and with it both ends of the link


def _ip(*arguments: str) -> None:
    refused = _try(*arguments)
    if refused is not None:
        raise OSError(f"ip {' '.join(arguments)}: {refused}")


def _try(*arguments: str) -> str | None:
    """Run ``ip``; return its error message, or None if it succeeds."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"code {done.returncode}"
