"""Hypothesis strategies for study files and for the texts and numbers in them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kdecay_search.schedules.kdecay import FAMILIES


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


# Letters, and whatever breaks lines, quotes, keys and terminals.
TEXTS = st.text("ab.=[]{}\"'\\#~/ \t\n\r\x00\x1b\x7f\x85é\u2028\ufeff\U0001f642", max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Valid study files of both kinds."""
    lr_min = draw(numbers(0, 1))
    k_min = draw(numbers(0.05, 5))
    k_max = k_min + draw(numbers(0, 10))
    family = draw(st.sampled_from(FAMILIES))
    epochs = draw(st.integers(2, 500))
    beat = draw(numbers(0.1, 100))
    task = draw(image_tasks() if draw(st.booleans()) else simulated_tasks())
    return {
        "name": "x" + draw(st.text("aZ09._-", max_size=30)),
        "description": draw(TEXTS),
        "task": task | {"epochs": epochs},
        "schedule": {
            "family": family,
            "power": draw(numbers(0.1, 9)) if family == "polynomial" else 1.0,
            "lr_min": lr_min,
            "lr_max": lr_min + draw(numbers(1e-6, 10)),
            "warmup_epochs": draw(numbers(0, epochs - 1)),
        },
        "search": {
            "sampler": draw(st.sampled_from(["grid", "tpe", "gp", "random"])),
            "k_min": k_min,
            "k_max": k_max,
            "k_step": draw(numbers(0.1, 5)),
            "k_cap": k_max + draw(numbers(0, 9)),
            "seeds": draw(st.integers(1, 9)),
            "max_terms": draw(st.integers(1, 5)),
            "min_gain": draw(numbers(0, 3)),
        },
        "pruning": {"enabled": draw(st.booleans()), "first_share": draw(numbers(0.01, 1))},
        "workers": {"heartbeat_seconds": beat, "grace_seconds": 2 * beat + draw(numbers(0, 99))},
    }


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(1, 30))
    resnet = {"depth": 6 * n + 2, "width": draw(st.integers(1, 64))}
    bottleneck = {"name": "resnet", "block": "preact-bottleneck", "depth": 9 * n + 2}
    wide = {"name": "wide-resnet", "depth": 6 * n + 4, "widen": 2, "dropout": draw(numbers(0, 0.9))}
    dense = {"name": "densenet-bc", "depth": 6 * n + 4, "growth": draw(st.integers(1, 64))}
    return draw(st.sampled_from([resnet, bottleneck, wide, dense, {"name": "resnet50"}]))


@st.composite
def image_tasks(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": "images",
        "batch_size": draw(st.integers(1, 1000)),
        "model": draw(models()),
        "data": {
            "name": draw(st.sampled_from(["digits", "cifar10", "image-folder"])),
            "root": draw(st.sampled_from(["/data", "data/pictures", "~/data"])),
            "validation": draw(numbers(0.01, 0.99)),
        },
        "optimizer": {"momentum": draw(numbers(0.1, 0.99)), "weight_decay": draw(numbers(0, 1))},
    }


@st.composite
def simulated_tasks(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": "simulated",
        "epoch_seconds": draw(numbers(0, 10)),
        "surface": {
            "best_ks": draw(st.lists(numbers(0.1, 50), min_size=1, max_size=4)),
            "best_error": draw(numbers(0, 100)),
            "noise_seed": draw(st.integers()),
        },
    }
