"""A character-level transformer on text that every Python ships, as the own code of a study.

The text is that of pydoc's help topics. It differs between versions of Python, so results of
different versions do not compare: :func:`text_sha256` tells texts apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdecay_search import TaskRun

PARTS = 10
"""Number of parts that the paragraphs are dealt into: the last is the test part, the one before it
is for validation."""
CHARACTERS = 128
"""Size of the vocabulary: ASCII. Other characters are read as the character 127."""

HIDDEN = -1e4
"""Bias of places to come: a softmax makes it 0. Buffers are averaged like weights, and the average
of infinities is NaN."""


def paragraphs() -> list[str]:
    """The paragraphs of all topics, each once: topics repeat each other."""
    return list(dict.fromkeys(p for name in sorted(topics) for p in topics[name].split("\n\n")))


def text_sha256() -> str:
    """Checksum of the text, which depends on the version of Python."""
    return hashlib.sha256("\n\n".join(paragraphs()).encode()).hexdigest()


@cache
def split(purpose: str) -> tuple[Tensor, Tensor]:
    """The text to train on and the text to measure the loss on, as numbers of characters.

    Args:
        purpose: ``search`` leaves the test part unread, ``confirmation`` measures on it.
    """
    parts: list[list[str]] = [[] for _ in range(PARTS)]
    for number, paragraph in enumerate(paragraphs()):
        parts[number % PARTS].append(paragraph)
    held_out = -1 if purpose == "confirmation" else -2
    training = [paragraph for part in parts[:held_out] for paragraph in part]
    return _encode(training), _encode(parts[held_out])


def _encode(texts: Sequence[str]) -> Tensor:
    numbers = [min(ord(character), CHARACTERS - 1) for character in "\n\n".join(texts)]
    return torch.tensor(numbers, dtype=torch.int64)


class Block(nn.Module):
    """Causal self-attention and a two-layer network on normalised inputs, each added to them.

    Places are known by linear biases (ALiBi, arXiv:2108.12409), steep enough for the first heads to
    look at the last characters from the start: a short training learns more with them.
    """

    bias: Tensor

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        ago = torch.arange(context)[:, None] - torch.arange(context)
        slopes = 2.0 * 4.0 ** -torch.arange(heads)
        bias = torch.where(ago < 0, HIDDEN, -slopes[:, None, None] * ago)
        self.register_buffer("bias", bias, persistent=False)
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.joined = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        projected = self.queries_keys_values(self.before_attention(x))
        q, k, v = projected.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias[:, :length, :length]
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.joined(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


class Transformer(nn.Module):
    """A decoder that predicts the next character, with tied embeddings."""

    def __init__(self, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, width)
        self.blocks = nn.Sequential(*(Block(width, heads, context) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.characters.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (N, L, 128) of the next character at each place of windows (N, L)."""
        x = self.blocks(self.characters(characters))
        return functional.linear(self.norm(x), self.characters.weight)


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross-entropy (nats a character) of windows (N, L + 1)."""
    logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def train(run: TaskRun) -> None:
    """Train one run, and report the loss of the raw and of the averaged weights."""
    torch.set_num_threads(1)
    args = run.args
    run.seed_everything()
    training, held_out = split(run.purpose)
    training, held_out = training.to(run.device), held_out.to(run.device)
    model = Transformer(args["width"], args["layers"], args["heads"], args["context"])
    model.to(run.device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), weight_decay=0.1)
    run.drive(optimizer)
    average = run.average(model, optimizer)
    run.keep(model, optimizer, average)

    length = args["context"] + 1
    every = (len(held_out) - length) // args["held_out_windows"]
    measured = held_out.unfold(0, length, every)[: args["held_out_windows"]]
    windows = training.unfold(0, length, 1)
    losses = []
    for step in run.remaining_steps():
        places = torch.randint(len(windows), (args["batch_size"],))
        loss = loss_of(model, windows[places.to(run.device)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        if run.is_report_due(step):
            with torch.no_grad():
                value = float(loss_of(model, measured))
                with average:
                    averaged = float(loss_of(model, measured))
            run.report(step=step, value=value, averaged_value=averaged, loss=_mean(losses))
            losses.clear()


def _mean(losses: Sequence[Tensor]) -> float:
    return float(torch.stack(list(losses)).mean())
