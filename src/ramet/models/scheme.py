"""How a config.json says that weights are quantized.

Knows the one scheme that Ramet runs, as compressed-tensors writes it; refuses the others by name.
"""

from __future__ import annotations

from typing import Any

from ramet.models.fields import Fields

__all__ = ["INT8_SCHEME", "read_scheme"]

_COMMON = {"num_bits": 8, "type": "int", "symmetric": True}
INT8_SCHEME: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_COMMON, "strategy": "channel", "dynamic": False},
            "input_activations": {**_COMMON, "strategy": "token", "dynamic": True},
            "output_activations": None,
        }
    },
}


def read_scheme(fields: Fields) -> str | None:
    """None for plain weights, "int8" for the scheme above. Raises CheckpointError for any other."""
    if not fields.has("quantization_config"):
        return None
    given = fields.values["quantization_config"]
    if not isinstance(given, dict):
        raise fields.error("quantization_config", f"is {given!r}, expected an object")
    problem = _problem(given)
    if problem is not None:
        raise fields.error(
            "quantization_config",
            f"{problem}; give the unquantized checkpoint (fp32, fp16 or bf16), or one in 8 bits with "
            "a scale per channel and per token (compressed-tensors, int-quantized)",
        )
    return "int8"


def _problem(given: dict[str, Any]) -> str | None:
    method = given.get("quant_method")
    if method != INT8_SCHEME["quant_method"]:
        return f"names the method {method!r}"
    if given.get("format") != INT8_SCHEME["format"]:
        return f"names the format {given.get('format')!r}"
    if given.get("kv_cache_scheme") is not None:
        return "quantizes the KV cache"
    groups = given.get("config_groups")
    wanted = INT8_SCHEME["config_groups"]["group_0"]
    if not isinstance(groups, dict) or len(groups) != 1:
        return "does not have one group of layers"
    group = next(iter(groups.values()))
    if not isinstance(group, dict) or group.get("targets") != wanted["targets"]:
        return "does not treat all linear layers alike"
    if group.get("output_activations") is not None:
        return "quantizes outputs"
    for part in ("weights", "input_activations"):
        found = group.get(part)
        if not isinstance(found, dict):
            return f"says nothing of {part}"
        for key, value in wanted[part].items():
            if found.get(key) != value:
                return f"has {part}.{key} {found.get(key)!r} and not {value!r}"
    ignored = given.get("ignore") or []
    if ignored != ["lm_head"]:
        return f"leaves out {ignored!r} and not just lm_head"
    return None
