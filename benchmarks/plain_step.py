"""LoRA steps of a Qwen2-shaped model in plain torch, without transformers, peft or emray: the yardstick of gpu_train.

Compiled layers, flash attention of variable length, bf16 products over float32 masters, logits of trained tokens only,
fused AdamW, optionally one CUDA graph for a pass. Random weights, one adapter, rank 32 on every linear layer. Nothing
in emray uses it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import cross_entropy, linear, silu

RANK, ALPHA = 32, 64


class Inputs(NamedTuple):
    """A pass of T tokens; the last example is filler."""

    ids: torch.Tensor
    places: torch.Tensor
    first: torch.Tensor
    keep: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


class Adapted(nn.Module):
    """A frozen weight and its adapter."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=torch.bfloat16).normal_(std=0.02), False)
        self.a = nn.Parameter(torch.empty(RANK, inputs).normal_(std=1 / math.sqrt(inputs)))
        self.b = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = linear(x, self.a.bfloat16()) * (ALPHA / RANK)
        return linear(x, self.weight) + linear(low, self.b.bfloat16())


class Layer(nn.Module):
    """Attention and MLP of one layer."""

    def __init__(self, c: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, wide, self.heads, self.groups = (
            c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"]
        )  # fmt: skip
        self.width = hidden // self.heads
        kv = self.groups * self.width
        self.q, self.k, self.v, self.o = (Adapted(hidden, n) for n in (hidden, kv, kv, hidden))
        self.gate, self.up, self.down = Adapted(hidden, wide), Adapted(hidden, wide), Adapted(wide, hidden)
        self.before = nn.Parameter(torch.ones(hidden, dtype=torch.bfloat16), False)
        self.between = nn.Parameter(torch.ones(hidden, dtype=torch.bfloat16), False)

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, ...], first: torch.Tensor, longest: int) -> Any:
        h = normalised(x, self.before)
        q, k, v = (m(h).unflatten(-1, (-1, self.width)) for m in (self.q, self.k, self.v))
        q, k = rotated(q, *turn), rotated(k, *turn)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        seen = varlen_attn(q, k, v, first, first, longest, longest, window_size=(-1, 0))
        x = x + self.o(seen.flatten(1))
        h = normalised(x, self.between)
        return x + self.down(silu(self.gate(h)) * self.up(h))


def normalised(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


class PlainStep:
    """Passes of a fixed size; `step()` makes one optimizer step of one pass and gives real tokens and examples."""

    def __init__(self, config: Mapping[str, Any], rows: Sequence[Any], *, num_tokens: int, graph: bool) -> None:
        with torch.device("cuda"):
            self._layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
            shape = (config["vocab_size"], config["hidden_size"])
            self._table = torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
            tied = config.get("tie_word_embeddings", False)
            self._head = self._table if tied else torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
            width = self._layers[0].width
            self._turns = 1e6 ** -(torch.arange(0, width, 2).float() / width)
        self._run = torch.compile(lambda layer, *inputs: layer(*inputs), dynamic=False)
        self._loss = torch.compile(weighted_loss, dynamic=False)
        self._longest = max(len(row.ids) for row in rows)
        self._passes = laid_out(rows, num_tokens=num_tokens)
        self.parameters = [p for p in self._layers.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=True)
        self._number = 0
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._graph = self._recorded() if graph else None

    def step(self) -> tuple[int, int]:
        inputs, num_real, num_examples = self._passes[self._number % len(self._passes)]
        self._number += 1
        if self._graph is None:
            self._pass(inputs)
        else:
            torch._foreach_copy_(list(self._inputs), list(inputs))
            self._graph.replay()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)
        return num_real, num_examples

    def _pass(self, inputs: Inputs) -> None:
        angles = torch.outer(inputs.places.float(), self._turns).repeat(1, 2)[:, None]
        turn = (angles.cos().bfloat16(), angles.sin().bfloat16())
        x = self._table[inputs.ids].requires_grad_()
        for layer in self._layers:
            x = self._run(layer, x, turn, inputs.first, self._longest)
        self._loss(x[inputs.keep], self._head, inputs.targets, inputs.weights).backward()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        self._inputs = Inputs(*(tensor.clone() for tensor in self._passes[0][0]))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._pass(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._pass(self._inputs)
        return graph


def weighted_loss(x: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (cross_entropy(linear(x, head).float(), targets, reduction="none") * weights).sum()


def laid_out(rows: Sequence[Any], *, num_tokens: int, count: int = 12) -> list[tuple[Inputs, int, int]]:
    """Rows in order of arrival, as many a pass as fit whole."""
    packs: list[list[Any]] = [[]]
    for row in rows:
        if sum(len(r.ids) for r in packs[-1]) + len(row.ids) > num_tokens:
            packs.append([])
        packs[-1].append(row)
    packs = packs[: min(count, len(packs) - 1)]
    most = max(len(pack) for pack in packs) + -(-num_tokens // 256)
    kept = -(-max(sum(len(r.ids) - r.start for r in pack) for pack in packs) // 256) * 256
    return [(_inputs(p, num_tokens, most, kept), sum(len(r.ids) for r in p), len(p)) for p in packs]


def _inputs(rows: Sequence[Any], num_tokens: int, most: int, kept: int) -> Inputs:
    lengths = [len(row.ids) for row in rows]
    rest = num_tokens - sum(lengths)
    lengths += [256] * (rest // 256) + ([rest % 256] if rest % 256 else [])
    starts = np.cumsum([0, *lengths])
    keep = np.concatenate([np.arange(a + r.start - 1, a + len(r.ids) - 1) for a, r in zip(starts, rows, strict=False)])
    targets = np.concatenate([row.ids[row.start :] for row in rows])
    weights = np.full(len(keep), 1 / len(keep), np.float32)
    columns = (
        np.concatenate([*(row.ids for row in rows), np.zeros(rest, np.int64)]),
        np.concatenate([np.arange(n) for n in lengths]),
        np.pad(starts.astype(np.int32), (0, most + 1 - len(starts)), constant_values=num_tokens),
        *(np.pad(column, (0, kept - len(keep))) for column in (keep, targets, weights)),
    )
    return Inputs(*(torch.from_numpy(column).cuda() for column in columns))
