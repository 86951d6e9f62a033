"""From a checkpoint folder to a Decoder: which tensor goes where, in which dtype.

Knows the tensor names of Hugging Face checkpoints and fuses the matrices that read the same input;
refuses to know how a forward pass runs. One fused matrix at a time is in memory beside the result.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ramet.errors import CheckpointError, InvalidRequest
from ramet.kernels.cpu.library import why_not
from ramet.kernels.cpu.linear import NativeLinear
from ramet.kernels.linear import Linear, TorchLinear, exceeds_fp16, pack_linear
from ramet.models.config import ModelConfig
from ramet.models.decoder import Decoder, DecoderWeights, LayerWeights
from ramet.models.weights import Checkpoint, Progress

__all__ = ["load"]

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_EMBEDDING, _LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load(
    path: str | Path,
    *,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    quantization: str | None,
    kv_dtype: str | torch.dtype | None,
    native: bool | None,
    max_context: int | None,
    progress: Progress | None,
) -> Decoder:
    """See `ramet.models.load_model`."""
    target = _device(device)
    asked = _dtype(dtype, target)
    config = ModelConfig.from_folder(path)
    context = _max_context(max_context, config)
    use_native = _native(native, target)
    int8 = _int8(quantization, config, dtype, target, use_native)
    kv = _kv_dtype(kv_dtype)
    if kv is None and int8:
        # Finer than what 8-bit activations leave, and twice as fast where bfloat16 can be multiplied.
        kv = torch.bfloat16
    with Checkpoint(path, progress) as checkpoint:
        builder = _Builder(config, checkpoint, target, asked, native=use_native, int8=int8)
        weights = builder.build()
    compute = torch.float32 if target.type == "cpu" else builder.dtype
    return Decoder(
        config,
        weights,
        device=target,
        dtype=compute,
        kv_dtype=kv or compute,
        max_context=context,
        native=use_native,
    )


class _Builder:
    """Reads a checkpoint's tensors in order of their use and packs them. `dtype` is that of weights."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype | None,
        *,
        native: bool,
        int8: bool,
    ) -> None:
        self._config, self._checkpoint, self._device = config, checkpoint, device
        self._native, self._int8 = native, int8
        self._num_bytes = 0
        self._embedding = checkpoint.tensor(_EMBEDDING, (config.vocab_size, config.hidden_size))
        self.dtype = dtype or self._natural_dtype()

    def _natural_dtype(self) -> torch.dtype:
        if self._device.type == "cpu" or self._embedding.dtype != torch.bfloat16:
            return torch.float16
        return torch.bfloat16

    def build(self) -> DecoderWeights:
        config = self._config
        embedding = self._convert(self._embedding, _EMBEDDING)
        self._num_bytes += embedding.numel() * embedding.element_size()
        layers = tuple(self._layer(number) for number in range(config.num_layers))
        return DecoderWeights(
            embedding=embedding,
            layers=layers,
            final_norm=self._norm("model.norm.weight", config.hidden_size),
            lm_head=self._lm_head(embedding),
            num_bytes=self._num_bytes,
        )

    def _layer(self, number: int) -> LayerWeights:
        c = self._config
        at, mlp = f"model.layers.{number}.self_attn.", f"model.layers.{number}.mlp."
        num_q, num_kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        hidden, inner = c.hidden_size, c.intermediate_size
        return LayerWeights(
            input_norm=self._norm(f"model.layers.{number}.input_layernorm.weight", hidden),
            qkv=self._linear(
                {at + "q_proj": num_q, at + "k_proj": num_kv, at + "v_proj": num_kv},
                hidden,
                c.qkv_bias,
            ),
            qk_norm=self._qk_norm(at) if c.qk_norm else None,
            o=self._linear({at + "o_proj": hidden}, num_q, c.o_bias),
            post_norm=self._norm(f"model.layers.{number}.post_attention_layernorm.weight", hidden),
            gate_up=self._linear(
                {mlp + "gate_proj": inner, mlp + "up_proj": inner}, hidden, c.mlp_bias
            ),
            down=self._linear({mlp + "down_proj": hidden}, inner, c.mlp_bias),
        )

    def _linear(self, sizes: dict[str, int], num_in: int, has_bias: bool) -> Linear:
        """One matrix out of those named: {name: number of outputs}, in this order."""
        read = self._checkpoint.tensor
        bias = None
        if has_bias:
            bias = torch.cat([read(f"{name}.bias", (n,)) for name, n in sizes.items()])
        else:
            self._refuse_hidden_biases(sizes)
        name = " + ".join(sizes)
        if self._config.quantization is not None:
            return self._linear_of_bytes(sizes, num_in, bias)
        weight = torch.cat([read(f"{name}.weight", (n, num_in)) for name, n in sizes.items()])
        return self._pack(weight, bias, name)

    def _linear_of_bytes(
        self, sizes: dict[str, int], num_in: int, bias: torch.Tensor | None
    ) -> Linear:
        """As `_linear`, of a checkpoint whose matrices are in 8 bits."""
        read = self._checkpoint.tensor
        parts = [read(f"{name}.weight", (n, num_in), int8=True) for name, n in sizes.items()]
        scales = [read(f"{name}.weight_scale", (n, 1)) for name, n in sizes.items()]
        linear = NativeLinear(torch.cat(parts), bias, "int8", scale=torch.cat(scales).float())
        self._num_bytes += linear.num_bytes
        return linear

    def _refuse_hidden_biases(self, sizes: dict[str, int]) -> None:
        """A bias that config.json denies would be dropped silently; one of zeros changes nothing."""
        for name, n in sizes.items():
            bias = f"{name}.bias"
            if bias in self._checkpoint and bool(self._checkpoint.tensor(bias, (n,)).any()):
                raise CheckpointError(
                    f"{self._checkpoint.folder}: the weights have {bias!r}, but by config.json this "
                    "model has no such bias; set attention_bias or mlp_bias if it is meant to be used"
                )

    def _pack(self, weight: torch.Tensor, bias: torch.Tensor | None, name: str) -> Linear:
        linear: Linear
        if self._int8:
            linear = NativeLinear(weight, bias, "int8")
        elif self._device.type == "cpu":
            linear = pack_linear(weight, bias, self.dtype, name, native=self._native)
        else:
            on_device = None if bias is None else self._convert(bias, f"bias of {name}")
            linear = TorchLinear(self._convert(weight, name), on_device)
        self._num_bytes += linear.num_bytes
        return linear

    def _lm_head(self, embedding: torch.Tensor) -> Linear:
        if not self._config.tie_word_embeddings:
            shape = (self._config.vocab_size, self._config.hidden_size)
            return self._pack(self._checkpoint.tensor(_LM_HEAD, shape), None, _LM_HEAD)
        if self._device.type == "cpu":  # packed, so it cannot share the embedding's memory
            return self._pack(embedding, None, _EMBEDDING)
        return TorchLinear(embedding)

    def _norm(self, name: str, size: int) -> torch.Tensor:
        weight = self._checkpoint.tensor(name, (size,)).to(self._device, torch.float32)
        self._num_bytes += weight.numel() * 4
        return weight

    def _qk_norm(self, prefix: str) -> torch.Tensor:
        c = self._config
        q = self._norm(prefix + "q_norm.weight", c.head_dim).expand(c.num_heads, -1)
        k = self._norm(prefix + "k_norm.weight", c.head_dim).expand(c.num_kv_heads, -1)
        return torch.cat((q, k))

    def _convert(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """To the device in the weights' dtype. On a CPU, what float16 cannot hold stays float32."""
        if self.dtype == torch.float16 and exceeds_fp16(tensor):
            if self._device.type != "cpu":
                raise InvalidRequest(
                    "dtype", "float16", f"cannot hold the numbers of {name}", 'use "bfloat16"'
                )
            return tensor.float()
        return tensor.to(self._device, self.dtype)


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError):
        target = None
    if target is None or target.type not in ("cpu", "cuda"):
        raise InvalidRequest(
            "device", device, "is not a device Ramet runs on", 'use "cpu" or "cuda"'
        )
    if target.type == "cuda":
        if not torch.cuda.is_available():
            raise InvalidRequest(
                "device", str(device), "is not available: torch sees no CUDA GPU", 'use "cpu"'
            )
        num_gpus = torch.cuda.device_count()
        if target.index is not None and target.index >= num_gpus:
            raise InvalidRequest(
                "device", str(device), f"does not exist: there are {num_gpus} GPUs"
            )
    return target


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise InvalidRequest("dtype", name, "is not known", f"use {', '.join(_DTYPES)} or None")
    if device.type == "cpu" and name == "bfloat16":
        raise InvalidRequest(
            "dtype",
            name,
            "is not run on a CPU",
            'use "float16" (weights; arithmetic is float32) or "float32"; both read bf16 checkpoints',
        )
    return _DTYPES[name]


def _native(asked: bool | None, device: torch.device) -> bool:
    """Whether the native kernels run the model: on a CPU where they can be built, unless not wanted."""
    if device.type != "cpu" or asked is False:
        return False
    reason = why_not()
    if reason is not None and asked:
        raise InvalidRequest(
            "exact",
            True,
            f"needs the native CPU kernels, and there are none: {reason}",
            "install a C++ compiler, or leave the option out",
        )
    return reason is None


def _int8(
    asked: str | None,
    config: ModelConfig,
    dtype: str | torch.dtype | None,
    device: torch.device,
    native: bool,
) -> bool:
    if asked not in (None, "int8"):
        raise InvalidRequest("quantization", asked, "is not known", 'use "int8" or None')
    if asked is None and config.quantization is None:
        return False
    if not native:
        where = "on a GPU" if device.type != "cpu" else "without the native CPU kernels"
        raise InvalidRequest(
            "quantization",
            asked or config.quantization,
            f"does not run {where}",
            "give the unquantized checkpoint without this option",
        )
    if dtype is not None:
        raise InvalidRequest(
            "dtype", str(dtype), "and 8-bit weights exclude each other", "give one of the two"
        )
    return True


def _kv_dtype(asked: str | torch.dtype | None) -> torch.dtype | None:
    if asked is None or asked == "auto":
        return None
    name = str(asked).removeprefix("torch.")
    known = ("float32", "float16", "bfloat16")
    if name not in known:
        raise InvalidRequest("kv_cache_dtype", name, "is not known", f"use {', '.join(known)}")
    return _DTYPES[name]


def _max_context(asked: int | None, config: ModelConfig) -> int:
    if asked is None:
        return config.max_context
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise InvalidRequest("max_context", asked, "is not a positive integer")
    if asked > config.max_context:
        raise InvalidRequest(
            "max_context",
            asked,
            f"is more than the {config.max_context} tokens of this checkpoint "
            f"(max_position_embeddings {config.max_position_embeddings}, sliding_window "
            f"{config.sliding_window}, rope {config.rope.kind})",
        )
    return asked
