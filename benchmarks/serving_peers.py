"""What servers under test are started with: each one's command, environment, and form of the checkpoint.

Knows the servers' options and where peers are installed; refuses to know processes and requests.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import process
from benchmarks.peers.models import gibibytes, home, kept, kv_bytes, read_config
from benchmarks.peers.process import NotInstalled
from benchmarks.serving_server import Failed
from benchmarks.serving_workloads import LONGEST

__all__ = ["EXTRA", "SERVERS", "Setting", "command", "environment"]

SERVERS = ("ramet", "llamacpp", "vllm")
# Fields of a request that one server wants beside OpenAI's.
EXTRA: dict[str, dict[str, Any]] = {
    "ramet": {},
    "llamacpp": {"cache_prompt": True, "samplers": ["top_k"], "top_k": 1},
    "vllm": {},
}
_CACHE_TOKENS = 32_768
_SLOTS = 16
_ERROR = 1500  # characters of it


@dataclass(frozen=True)
class Setting:
    """What a server is started with. `options`: of this server alone, in its own names with _ for -."""

    model: Path
    threads: int
    options: Mapping[str, Any] = field(default_factory=dict)


def command(name: str, setting: Setting, port: int) -> list[str]:
    """How server `name` is started. Raises `NotInstalled`."""
    start, own = {"ramet": _ramet, "llamacpp": _llamacpp, "vllm": _vllm}[name](setting)
    options = {"port": port, "host": "127.0.0.1", **own, **setting.options}
    for key, value in options.items():
        flag = key.replace("_", "-")
        if value is True:
            start.append(f"--{flag}")
        elif value is False:
            start.append(f"--no-{flag}")
        elif value is not None:
            start += [f"--{flag}", str(value)]
    return start


def _ramet(setting: Setting) -> tuple[list[str], dict[str, Any]]:
    from ramet.cli import serve

    options = {
        "model_path": setting.model,
        "quantization": "int8",
        "num_threads": setting.threads,
        "max_cache_tokens": _CACHE_TOKENS,
        "log_level": "warning",
        "stall_timeout": 86_400,  # it is stopped while others are measured
    }
    # Random weights repeat themselves and guesses at repetitions are right: drafts would be flattered.
    if "drafts" in inspect.signature(serve).parameters:
        options["drafts"] = False
    return [sys.executable, "-m", "ramet.launch_server"], options


def _llamacpp(setting: Setting) -> tuple[list[str], dict[str, Any]]:
    binary = home() / "llamacpp" / "bin" / "llama-server"
    if not binary.exists():
        raise NotInstalled("not installed: benchmarks/peers/install/llamacpp.sh installs it")
    options = {
        "model": _gguf(setting.model),
        "threads": setting.threads,
        "threads_batch": setting.threads,
        "parallel": _SLOTS,
        "ctx_size": _SLOTS * LONGEST,
        "batch_size": 2048,
        "ubatch_size": 512,
        "kv_unified": False,
        "chat_template": "chatml",  # what the checkpoint's template writes
        # A kept connection holds one of these threads, also while it is idle.
        "threads_http": 1024,
        "log_disable": True,
    }
    return [str(binary)], options


def _vllm(setting: Setting) -> tuple[list[str], dict[str, Any]]:
    python = home() / "vllm" / "bin" / "python"
    if not python.exists():
        raise NotInstalled("not installed: benchmarks/peers/install/vllm.sh installs it")
    options = {
        "model": _converted("vllm", "w8a8", setting.model),
        "served_model_name": "bench",
        "dtype": "bfloat16",
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 64,
        "max_model_len": LONGEST,
        "block_size": 32,
        "enable_prefix_caching": True,
        "enable_prompt_tokens_details": True,
        "uvicorn_log_level": "error",
        "disable_log_stats": True,
    }
    return [str(python), "-m", "vllm.entrypoints.openai.api_server"], options


def environment(name: str, setting: Setting) -> dict[str, str]:
    env = process.environment(name, setting.threads)
    if name == "vllm":
        env |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        space = gibibytes(_CACHE_TOKENS * kv_bytes(read_config(setting.model), 2))
        env["VLLM_CPU_KVCACHE_SPACE"] = str(space)
    return env


# -- checkpoints in other forms --------------------------------------------------------------------


def _gguf(model: Path) -> Path:
    """The GGUF file at 8 bit. Written by the peer's own Python, which has the package for it."""
    return Path(_converted("llamacpp", "gguf", _plain(model)))


def _plain(model: Path) -> Path:
    """`model` with one number each where its config has several or none for the ends of texts."""
    config = read_config(model)
    ends = config.get("eos_token_id")
    end = ends[0] if isinstance(ends, list) else ends
    begin = end if config.get("bos_token_id") is None else config["bos_token_id"]
    if (begin, end) == (config.get("bos_token_id"), ends):
        return model

    def make(folder: Path) -> None:
        for path in model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config.update(bos_token_id=begin, eos_token_id=end)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    return kept(model, "plain", make)


_CONVERT = {
    "gguf": "from benchmarks.peers.gguf_file import gguf as f; print(f(Path(sys.argv[1]), 'int8'))",
    "w8a8": "from benchmarks.peers.vllm_engine import w8a8 as f; print(f(Path(sys.argv[1])))",
}


def _converted(peer: str, form: str, model: Path) -> str:
    script = f"import sys; from pathlib import Path; {_CONVERT[form]}"
    python = home() / peer / "bin" / "python"
    done = subprocess.run(
        [str(python), "-c", script, str(model.resolve())],
        cwd=process.ROOT,
        env={**os.environ, "PYTHONPATH": str(process.ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise Failed(f"{peer} cannot read {model}: {done.stderr[-_ERROR:]}")
    return done.stdout.splitlines()[-1]
