"""The network of `pocket` in plain PyTorch: a Llama, written so that one page holds it.

It knows shapes and arithmetic and nothing about data, files or training. Training runs it without a
cache; evaluation runs it with one (`Cache`), left-aligned rows of unequal length. Its weights carry
the names of Hugging Face's `LlamaForCausalLM`, so that a checkpoint is a state dict and no more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The numbers that fix the network; the names are those of a Hugging Face config."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rope_table(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (positions, head_dim), halves repeated as Hugging Face has them."""
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(
        torch.arange(shape.max_position_embeddings, dtype=torch.float32),
        shape.rope_theta**-half,
    )
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (batch, heads, time, head_dim) by tables that broadcast to it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Cache:
    """Keys and values of every layer for a batch, (batch, kv heads, capacity, head_dim) each."""

    def __init__(self, shape: Shape, batch: int, capacity: int) -> None:
        size = (batch, shape.num_key_value_heads, capacity, shape.head_dim)
        self.layers = [
            (torch.zeros(size), torch.zeros(size)) for _ in range(shape.num_hidden_layers)
        ]


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner = shape.num_attention_heads * shape.head_dim
        kv = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        stored: tuple[Tensor, Tensor] | None,
        positions: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = (
            layer(x).view(batch, time, -1, self.shape.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rope), rotate(k, *rope)
        if stored is not None and positions is not None:
            rows = torch.arange(batch)[:, None]
            for store, new in zip(stored, (k, v), strict=True):
                store[rows, :, positions] = new.transpose(1, 2)
            k, v = stored
        repeat = self.shape.num_attention_heads // self.shape.num_key_value_heads
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).reshape(batch, time, -1))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *context)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)


class Network(nn.Module):
    """Token ids in, hidden states or logits out; the embedding is also the output matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.rope = rope_table(shape)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # What writes into the residual stream starts smaller, the deeper the network.
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth = (2 * shape.num_hidden_layers) ** -0.5 if writes else 1.0
                nn.init.normal_(weight, std=0.02 * depth)

    def hidden(self, ids: Tensor) -> Tensor:
        """(batch, time) ids to (batch, time, hidden_size), causal, positions from zero."""
        rope = (self.rope[0][: ids.shape[1]], self.rope[1][: ids.shape[1]])
        x = self.model.embed_tokens(ids)
        for block in self.model.layers:
            x = block(x, rope, None, None, None)
        return self.model.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.hidden(ids))

    def extend(self, ids: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Hidden states of new tokens at `positions` (batch, time); their keys go into `cache`.

        A row may be padded: a padded token is given a position that the row overwrites later.
        """
        cos, sin = (table[positions][:, None] for table in self.rope)
        capacity = cache.layers[0][0].shape[2]
        mask = torch.arange(capacity)[None, None, None] <= positions[:, None, :, None]
        x = self.model.embed_tokens(ids)
        for block, stored in zip(self.model.layers, cache.layers, strict=True):
            x = block(x, (cos, sin), stored, positions, mask)
        return self.model.norm(x)  # type: ignore[no-any-return]
