"""`ramet.Runtime`: a server in a process of its own on this machine, and the endpoint that talks to it.

Knows command lines, ports, processes and when a server is ready. Refuses to know what a server does: any
command that speaks the native protocol and takes `--host`, `--port` and `--log-level` will do.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ramet.backends import runtime_guard
from ramet.backends.remote import RuntimeEndpoint
from ramet.backends.remote_protocol import StreamAnswers
from ramet.errors import BackendError, InvalidRequest, Unsupported

__all__ = ["Runtime", "command_line"]

_SERVER = (sys.executable, "-m", "ramet.launch_server")
_KEY_VARIABLE = "RAMET_API_KEY"  # which such a server reads, too
_KEPT_LINES = 200  # of the server's output
_SHOWN_LINES = 20  # of these, in an error
_POLL_SECONDS = 0.05
_SECONDS_TO_END = runtime_guard.SECONDS_TO_END + 5.0


class Runtime:
    """Starts a server and waits until it can generate; `launch_timeout` seconds at most.

    The first of `args` is the model's path. `server_args` are the server's options by their names with
    underscores, so `tp_size=2` is `--tp-size 2` and `disable_radix_cache=True` a flag. With `port` the
    first free one from there up is taken, else any. `command` is what to start, with these options behind
    it. With `log_level` "info" or "debug" the server's output is passed on to standard error.

    Programs run on it with `backend=runtime`. The server ends with `shutdown()`, with this process, or at
    the end of a `with` block. Raises `BackendError` with the server's last lines if it does not start.
    """

    def __init__(
        self,
        log_level: str = "error",
        launch_timeout: float = 300.0,
        *args: str,
        command: Sequence[str] = _SERVER,
        **server_args: Any,
    ) -> None:
        if len(args) > 1:
            raise InvalidRequest(
                "Runtime", args[1], "has no place", "give all but the model's path by name"
            )
        if args:
            server_args = {"model_path": args[0], **server_args}
        host = server_args.setdefault("host", "127.0.0.1")
        server_args["port"] = _free_port(host, server_args.get("port"))
        self.url = f"http://{host}:{server_args['port']}"
        self.generate_url = f"{self.url}/generate"
        self.pid: int | None = None
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._echo = log_level in ("info", "debug")
        self._key = _key(server_args.get("api_key"), ours=tuple(command) == _SERVER)
        guarded = [*command, *command_line({**server_args, "log_level": log_level})]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", runtime_guard.__file__, *guarded],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the program; it ends the server through `shutdown`
        )
        atexit.register(self.shutdown)
        self._reader = threading.Thread(
            target=self._read_output, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()
        try:
            self._wait_until_ready(time.monotonic() + launch_timeout, launch_timeout)
            self.endpoint = RuntimeEndpoint(self.url, api_key=self._key)
        except BaseException:
            self.shutdown()
            raise

    def _read_output(self, output: IO[bytes]) -> None:
        for raw in output:
            line = raw.decode("utf-8", "replace").rstrip()
            if self.pid is None and line.startswith(runtime_guard.PID_MARK):
                self.pid = int(line.removeprefix(runtime_guard.PID_MARK))
                continue
            self._lines.append(line)
            if self._echo:
                print(line, file=sys.stderr, flush=True)
        output.close()

    def _wait_until_ready(self, end: float, seconds: float) -> None:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        if self._key is not None:
            direct.addheaders = [("Authorization", f"Bearer {self._key}")]
        while True:
            status = self._process.poll()
            if status is not None:
                self._reader.join(1.0)
                raise BackendError(f"the server ended with status {status}{self._last_lines()}")
            left = end - time.monotonic()
            if left <= 0:
                raise BackendError(
                    f"the server was not ready within {seconds:g} s{self._last_lines()}"
                )
            with contextlib.suppress(OSError):  # not listening yet, or not ready
                with direct.open(f"{self.url}/health_generate", timeout=left) as response:
                    if response.status == 200:
                        return
            time.sleep(_POLL_SECONDS)

    def _last_lines(self) -> str:
        lines = list(self._lines)[-_SHOWN_LINES:]
        return "; its last lines:\n" + "\n".join(lines) if lines else "; it printed nothing"

    def shutdown(self) -> None:
        """End the server. Calling it twice does nothing."""
        atexit.unregister(self.shutdown)
        endpoint = getattr(self, "endpoint", None)
        if endpoint is not None:
            endpoint.shutdown()
        if self._process.stdin is not None:
            self._process.stdin.close()  # the guard ends the server
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "ended" if self._process.poll() is not None else f"process {self.pid}"
        return f"Runtime({self.url!r}, {state})"

    # The native protocol, for scripts

    def cache_prefix(self, prefix: str) -> None:
        self.endpoint.cache_prefix(prefix)

    def get_tokenizer(self) -> Any:
        """The model's tokenizer, read here from the model's folder."""
        from ramet.engine.tokenizer import Tokenizer
        from ramet.pocket import model_path

        info = self.endpoint.model_info
        path = str(info.get("tokenizer_path") or info["model_path"])
        return Tokenizer.load(model_path() if path == "pocket" else Path(path))

    def generate(
        self,
        prompt: str | Sequence[str],
        sampling_params: Mapping[str, Any] | None = None,
        return_logprob: bool | Sequence[bool] = False,
        logprob_start_len: int | Sequence[int] | None = None,
        top_logprobs_num: int | Sequence[int] | None = None,
    ) -> str:
        """The response of `/generate` as JSON text."""
        wire = self.endpoint._wire
        body = {
            "text": prompt,
            "sampling_params": sampling_params or {},
            "return_logprob": return_logprob,
            "logprob_start_len": logprob_start_len,
            "top_logprobs_num": top_logprobs_num,
        }
        sent = {name: value for name, value in body.items() if value is not None}
        answer = wire.request("POST", "/generate", wire.timeout, sent)
        return json.dumps(json.loads(answer), ensure_ascii=False)

    async def async_generate(
        self, prompt: str, sampling_params: Mapping[str, Any] | None = None
    ) -> AsyncIterator[str]:
        """Pieces of the generated text, as they come."""
        body = {"text": prompt, "sampling_params": sampling_params or {}, "stream": True}
        answers = StreamAnswers(1)
        async with self.endpoint._wire.stream("/generate", body) as (events, _):
            async for data in events:
                chunk = answers.event(data)
                if chunk is not None and chunk.text:
                    yield chunk.text
                if answers.done:
                    break
        answers.answers()

    add_request = async_generate

    def encode(self, prompt: str | Sequence[str]) -> str:
        raise Unsupported(
            f"Runtime.encode({prompt!r}): servers that Ramet starts generate text, they give no embeddings"
        )

    async def get_server_info(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.endpoint.get_server_info)


def command_line(options: Mapping[str, Any]) -> list[str]:
    """Options as arguments: True is a flag, False and None are left out, a list gives several values."""
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            many = value if isinstance(value, (list, tuple)) else [value]
            words += [str(one) for one in many]
    return words


def _key(given: Any, ours: bool) -> str | None:
    """The key to ask with: the first that the server was told, without its tenant's name."""
    if isinstance(given, (list, tuple)):
        given = given[0] if given else None
    if given is None:
        given = os.environ.get(_KEY_VARIABLE) if ours else None
    if not given:
        return None
    _tenant, equals, key = str(given).partition("=")
    return key if ours and equals else str(given)


def _free_port(host: str, first: int | None) -> int:
    """The first free port from `first` up; without it, one that the system picks."""
    for port in [0] if first is None else range(first, min(first + 1000, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    raise InvalidRequest("port", first, f"has no free port of {host} behind it")
