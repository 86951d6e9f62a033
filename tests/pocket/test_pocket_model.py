"""Network, training and checkpoint: resumable to the bit, equal to transformers' Llama, small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ramet.pocket import model_path
from ramet.pocket.evaluate import Direct, answers, generate, probes
from ramet.pocket.export import export, load_network
from ramet.pocket.network import Network, Shape
from ramet.pocket.skills import SHARES, Source, Turn, chat_pieces, task
from ramet.pocket.tokenizer import load
from ramet.pocket.train import Plan, train

TINY = Shape(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2)  # fmt: skip
PLAN = Plan(cycles=(6,), tokens=1024, warmup=2)
TOKENIZER = load()


def _train(run: Path, until: int | None = None) -> Network:
    return train(PLAN, TINY, TOKENIZER, run, until=until, fast=False)


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole").state_dict()
    _train(tmp_path / "parts", until=3)
    parts = _train(tmp_path / "parts").state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_cache_and_no_cache_agree() -> None:
    torch.manual_seed(0)
    network = Network(TINY).eval()
    prompts = [tuple(range(5, 25)), tuple(range(40, 47)), (9,)]
    for prompt, found in zip(prompts, generate(network, prompts, 6, set()), strict=True):
        ids = list(prompt)
        for token in found:
            assert int(network(torch.tensor([ids]))[0, -1].argmax()) == token
            ids.append(token)


def test_size_of_the_checkpoint() -> None:
    files = list(model_path().iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer_config.json"} <= {f.name for f in files}  # fmt: skip
    assert sum(f.stat().st_size for f in files) <= 12_000_000


def _close_to_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([TOKENIZER.encode("What is 47 + 38? Ana lives in Lima.\nLabel:").ids])
    with torch.no_grad():
        difference = (theirs(ids).logits - load_network(folder)(ids)).abs().max()
    assert float(difference) < 1e-3


def test_parity_with_transformers(tmp_path: Path) -> None:
    _close_to_transformers(model_path())
    _train(tmp_path, until=2)
    export(tmp_path / "state.safetensors", tmp_path / "model", TINY)
    _close_to_transformers(tmp_path / "model")


def test_transformers_reads_the_tokenizer() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")
    theirs = transformers.AutoTokenizer.from_pretrained(model_path())
    text = "Ünïcode 12 <|im_end|>\n  x"
    assert theirs(text)["input_ids"] == TOKENIZER.encode(text).ids
    messages = [{"role": "user", "content": "Hi"}]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "".join(p.text for p in chat_pieces([Turn("Hi", "x")])[:1])


@pytest.mark.parametrize("skill", list(SHARES))
def test_the_checkpoint_is_a_trained_one(skill: str) -> None:
    """Not the accuracy table (README), only that the packaged weights are not noise."""
    source = Source("smoke", held=True)
    asked = [probes(TOKENIZER, task(source, skill))[-1] for _ in range(24)]
    texts = answers(Direct(load_network(model_path())), TOKENIZER, asked)
    assert sum(p.right(t) for p, t in zip(asked, texts, strict=True)) >= 6


def test_importing_the_package_is_light() -> None:
    code = "import sys, ramet.pocket, ramet.pocket.skills; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
