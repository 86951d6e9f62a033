"""Command line and backend of benchmark scripts, under the path that they import."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ramet.config import global_config
from ramet.errors import InvalidRequest

__all__ = ["add_common_sglang_args_and_parse", "select_sglang_backend"]


def add_common_sglang_args_and_parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options that all such scripts share, and parse the command line."""
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--host", type=str, default="http://127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--backend", type=str, default="srt")
    parser.add_argument("--device", type=str, default="auto")
    parser.add_argument("--result-file", type=str, default="result.jsonl")
    return parser.parse_args()


def select_sglang_backend(args: argparse.Namespace) -> Any:
    """`srt...`: a server at host and port (`srt-no-parallel` also turns parallel encoding off);
    `gpt-...`: the OpenAI service."""
    ramet = sys.modules["ramet"]  # it is there, and loads its backends when they are named
    if args.backend.startswith("srt"):
        if args.backend == "srt-no-parallel":
            global_config.enable_parallel_encoding = False
        host = args.host if "://" in args.host else f"http://{args.host}"
        return ramet.RuntimeEndpoint(f"{host}:{args.port}")
    if args.backend.startswith("gpt-"):
        return ramet.OpenAI(args.backend)
    raise InvalidRequest("backend", args.backend, "is not known here", "use srt or gpt-...")
