"""llama.cpp's server as one of the engines, spoken to over HTTP on this machine.

Eight slots with a cache of their own each, by measurement: a request that waits for a slot finds there
what the one before it left, while more slots compute what they share once each. Answers come whole: a
stream of events from 64 slots would be parsed on the cores that compute. So the time of a
first token is the server's own figure, and only for a request that is alone.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.peers.gguf_file import gguf
from benchmarks.peers.models import home
from benchmarks.peers.serve import Answer, Settings

__all__ = ["LlamaCpp", "load"]

_START_SECONDS = 120
_SLOTS = 8
_SPARE = 64  # tokens per slot beyond the longest request


class LlamaCpp:
    def __init__(self, settings: Settings) -> None:
        binary = home() / "llamacpp" / "bin" / "llama-server"
        slots = int(settings.options.get("parallel", _SLOTS))
        options = {
            "threads": settings.threads,
            "threads-batch": settings.threads,
            "parallel": slots,
            "ctx-size": slots * (settings.longest + _SPARE),
            "batch-size": 2048,
            "ubatch-size": 512,
            "kv-unified": False,
            "cache-ram": 0,
            "cont-batching": True,
            "cache-prompt": True,
            **settings.options,
        }
        self._options = options
        self._port = _free_port()
        self._number = 0
        path = gguf(settings.model, settings.precision)
        command = [str(binary), "--model", str(path), "--port", str(self._port), "--log-disable"]
        for name, value in options.items():
            if value is False:
                command.append(f"--no-{name}")
            else:
                command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        self._server = subprocess.Popen(command, stdout=sys.stderr, env={**os.environ})
        self._pool = ThreadPoolExecutor(settings.requests)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if (code := self._server.poll()) is not None:
                raise RuntimeError(f"llama-server ended with {code}; its messages are above")
            try:
                if self._ask("GET", "/health", None).get("status") == "ok":
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"llama-server did not come up in {_START_SECONDS} s")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        connection.close()
        if response.status != 200 and path != "/health":
            raise RuntimeError(f"llama-server answered {response.status}: {answer}")
        return answer

    def _complete(self, prompt: list[int], out: int) -> dict[str, Any]:
        body = {
            "prompt": prompt,
            "n_predict": out,
            "temperature": 0,
            "samplers": ["top_k"],
            "top_k": 1,
            "ignore_eos": True,
            "cache_prompt": True,
            "return_tokens": True,
        }
        return self._ask("POST", "/completion", body)

    def generate(self, prompts: list[list[int]], outs: list[int]) -> list[Answer]:
        got = list(self._pool.map(self._complete, prompts, outs))
        alone = len(prompts) == 1
        return [
            Answer(answer["tokens"], answer["timings"]["prompt_ms"] / 1000 if alone else None)
            for answer in got
        ]

    def forget(self) -> None:
        """Every run brings tokens that the server has not seen; slots hold nothing else."""

    def about(self) -> dict[str, Any]:
        noted = home() / "llamacpp" / "VERSION"  # by the script that built it
        version = noted.read_text().strip() if noted.is_file() else "unknown"
        return {"version": version, **self._options}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._server.terminate()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def load(settings: Settings) -> LlamaCpp:
    return LlamaCpp(settings)
