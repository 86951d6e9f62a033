"""Turn a training state into the checkpoint of the package: Hugging Face names, float16 weights.

The tokenizer's files are written by tokenizer.py; this file adds config.json, generation_config.json
and model.safetensors. `python -m ramet.pocket.export --run FOLDER` does it for a run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .network import Network, Shape

ENDS = [2, 0]  # <|im_end|>, <|endoftext|>


def config(shape: Shape) -> dict[str, object]:
    """What transformers' LlamaConfig reads."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape.as_dict(),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": ENDS,
        "pad_token_id": 0,
        "initializer_range": 0.02,
        "dtype": "float16",
    }


def export(state: Path, folder: Path, shape: Shape) -> None:
    """Write the three files; the optimizer's part of the state stays behind."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() for k, v in load_file(state).items() if k.startswith("model.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # it is a package file, not a private one
    (folder / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n")
    generation = {"eos_token_id": ENDS, "pad_token_id": 0, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def load_network(folder: Path) -> Network:
    """The network of a checkpoint folder, float32, ready to answer."""
    found = json.loads((folder / "config.json").read_text())
    network = Network(Shape(**{name: found[name] for name in Shape().as_dict()}))
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ramet.pocket.export", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("pocket_run"), help="the run's folder")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "model")
    args = parser.parse_args()
    with torch.no_grad():
        export(args.run / "state.safetensors", args.to, Shape())


if __name__ == "__main__":
    main()
