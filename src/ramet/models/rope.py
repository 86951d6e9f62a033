"""Rotary position embeddings: what config.json asks for, and the frequencies that follow.

Knows the scaling rules by name (default, linear, dynamic, llama3, yarn) as plain arithmetic on numpy
arrays; refuses to know tensors and to run a rule it does not know. The rules are those of transformers
(`modeling_rope_utils`), and the frequencies are float32 as there, because checkpoints were trained
with float32 frequencies.

Sources: Su et al., arXiv 2104.09864 (RoPE); Chen et al., arXiv 2306.15595 (linear); Peng et al., arXiv
2309.00071 (YaRN); the Llama 3.1 release (llama3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ramet.models.fields import Fields

__all__ = ["RopeConfig", "frequencies", "read_rope"]

_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """One rule with all its numbers. Fields that a rule does not use keep their defaults.
    `original_context` is the context length before scaling. `amplitude` multiplies cosines and sines
    (YaRN's attention factor)."""

    kind: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    amplitude: float = 1.0

    @property
    def scaled_context(self) -> int:
        """Tokens that the rule itself promises, or 0 when it names no original length."""
        return int(self.original_context * self.factor) if self.kind == "yarn" else 0


def read_rope(fields: Fields, max_positions: int) -> RopeConfig:
    """The rule in `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling` (4)."""
    rope = _parameters(fields)
    for place in (rope, fields):
        partial = place.number("partial_rotary_factor", 1.0)
        if partial != 1.0:
            raise place.error("partial_rotary_factor", f"is {partial}; Ramet runs 1.0 only")
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind not in _KINDS:
        raise rope.error("rope_type", f"is {kind!r}; Ramet runs {', '.join(_KINDS)}")
    theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0))
    if kind in ("default", "dynamic"):  # dynamic: see the first paragraph of config.py
        return RopeConfig(kind=kind, theta=theta)
    if kind == "linear":
        return RopeConfig(kind=kind, theta=theta, factor=rope.number("factor"))
    nested = rope.integer("original_max_position_embeddings", max_positions)
    original = fields.integer("original_max_position_embeddings", nested)
    if kind == "llama3":
        return _llama3(rope, theta, original)
    return _yarn(rope, theta, original, max_positions)


def _parameters(fields: Fields) -> Fields:
    # transformers 5 lets a non-empty rope_scaling win over rope_parameters
    key = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
    value = fields.values.get(key)
    if value is None:
        return Fields({}, fields.source)
    if not isinstance(value, dict):
        raise fields.error(key, f"is {value!r}, expected an object")
    nested = [name for name in value if name in ("full_attention", "sliding_attention")]
    if nested:  # one rule per kind of layer
        rules = [value[name] for name in nested]
        if any(rule != rules[0] for rule in rules) or not isinstance(rules[0], dict):
            raise fields.error(
                key, f"has different rules for {' and '.join(nested)}; Ramet runs one"
            )
        return Fields(rules[0], f"{fields.source}: {key}.{nested[0]}")
    return Fields(value, f"{fields.source}: {key}")


def _llama3(rope: Fields, theta: float, original: int) -> RopeConfig:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise rope.error("high_freq_factor", f"is {high}, expected more than low_freq_factor {low}")
    return RopeConfig(
        kind="llama3",
        theta=theta,
        factor=rope.number("factor"),
        original_context=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(rope: Fields, theta: float, original: int, max_positions: int) -> RopeConfig:
    factor = rope.number("factor", max_positions / original)
    if rope.has("attention_factor"):
        amplitude = rope.number("attention_factor")
    elif rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        over, under = rope.number("mscale"), rope.number("mscale_all_dim")
        amplitude = _yarn_scale(factor, over) / _yarn_scale(factor, under)
    else:
        amplitude = _yarn_scale(factor, 1.0)
    return RopeConfig(
        kind="yarn",
        theta=theta,
        factor=factor,
        original_context=original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.boolean("truncate", True),
        amplitude=amplitude,
    )


def _yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


def frequencies(rope: RopeConfig, head_dim: int) -> npt.NDArray[np.float32]:
    """Radians per position, float32 [head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = (1.0 / np.power(np.float32(rope.theta), exponents)).astype(np.float32)
    if rope.kind == "linear":
        return (plain / np.float32(rope.factor)).astype(np.float32)
    if rope.kind == "llama3":
        return _llama3_frequencies(rope, plain)
    if rope.kind == "yarn":
        return _yarn_frequencies(rope, plain, head_dim)
    return plain


def _llama3_frequencies(rope: RopeConfig, plain: Any) -> npt.NDArray[np.float32]:
    """Long waves are slowed by `factor`, short waves kept, those between interpolated."""
    wavelength = 2 * math.pi / plain
    smooth = (rope.original_context / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    scaled: npt.NDArray[np.float32] = (1 - smooth) * plain / rope.factor + smooth * plain
    return scaled.astype(np.float32)


def _yarn_frequencies(rope: RopeConfig, plain: Any, head_dim: int) -> npt.NDArray[np.float32]:
    """A linear ramp over dimensions from kept (fast) to slowed by `factor` (slow)."""

    def dimension(rotations: float) -> float:  # that turns so often over the original context
        return (head_dim * math.log(rope.original_context / (rotations * 2 * math.pi))) / (
            2 * math.log(rope.theta)
        )

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # the ramp needs a width
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low), 0.0, 1.0)
    scaled: npt.NDArray[np.float32] = plain / rope.factor * ramp + plain * (1 - ramp)
    return scaled.astype(np.float32)
