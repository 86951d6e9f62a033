"""A server that is started here: ready, used, ended, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ramet as sgl
from ramet import Runtime
from ramet.backends.runtime_process import command_line
from ramet.backends.scripted import Scripted
from ramet.errors import BackendError, InvalidRequest, Unsupported

ROOT = Path(__file__).parents[2]
SERVER = (sys.executable, "-m", "tests.backends.native_server")


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(Path(sgl.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, str(ROOT)]))


@sgl.function
def program(s):
    s += "Hello " + sgl.gen("a") + sgl.select("b", [" yes", " no"])


def gone(pid: int | None, seconds: float = 10.0) -> bool:
    assert pid is not None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_a_server_is_started_used_and_ended() -> None:
    with Runtime(model_path="some-model", command=SERVER, launch_timeout=30) as runtime:
        assert runtime.url.startswith("http://127.0.0.1:")
        assert runtime.generate_url == runtime.url + "/generate"
        info = runtime.endpoint.get_server_info()
        assert info["pid"] == runtime.pid
        assert runtime.endpoint.model_path == "some-model"
        wanted = program.run(backend=Scripted())
        state = program.run(backend=runtime)  # a backend through its endpoint
        assert (state.text(), state["b"]) == (wanted.text(), wanted["b"])
        assert sgl.flush_cache(runtime) is True

        answer = json.loads(runtime.generate("Hello ", {"max_new_tokens": 2}))
        assert answer["text"] == wanted["a"][: len(answer["text"])]
        two = json.loads(runtime.generate(["a", "b"], {"max_new_tokens": 2}))
        assert len(two) == 2
        asyncio.run(check_coroutines(runtime, wanted["a"]))
        runtime.cache_prefix("Hello")
        with pytest.raises(Unsupported, match="embeddings"):
            runtime.encode("x")
        pid = runtime.pid
        assert f"process {pid}" in repr(runtime)
    assert gone(pid)
    runtime.shutdown()  # again
    assert "ended" in repr(runtime)


def test_a_model_in_a_process_is_the_model_here() -> None:
    with (
        Runtime("error", 50.0, "pocket", command=SERVER) as runtime,
        sgl.Engine("pocket") as engine,
    ):
        tokenizer = runtime.get_tokenizer()
        assert tokenizer.decode(tokenizer.encode("Hello there")) == "Hello there"
        states = [asks.run(backend=backend, temperature=0) for backend in (runtime, engine)]
        assert states[0].text() == states[1].text()
        assert states[0].messages() == states[1].messages()
        template = runtime.endpoint.chat_template  # the checkpoint's own
        assert template is not None
        own = engine.endpoint.chat_template
        for role in ("system", "user", "assistant"):
            assert template.get_prefix_and_suffix(role, ()) == own.get_prefix_and_suffix(role, ())


@sgl.function
def asks(s):
    s += sgl.user("Where is the key?")
    s += sgl.assistant(sgl.gen("a", max_tokens=8) + sgl.select("b", [" Yes", " No"]))


async def check_coroutines(runtime: Runtime, wanted: str) -> None:
    for method in (runtime.async_generate, runtime.add_request):
        pieces = [piece async for piece in method("Hello ", {"temperature": 0})]
        assert len(pieces) > 1
        assert "".join(pieces) == wanted
    assert (await runtime.get_server_info())["version"] == "test"


def test_the_last_lines_of_a_server_that_does_not_start() -> None:
    with pytest.raises(BackendError) as caught:
        Runtime("error", 30.0, "model", command=SERVER, refuse="no such model here")
    assert "status 1" in str(caught.value)
    assert "loading the model\nno such model here" in str(caught.value)
    with pytest.raises(BackendError, match="cannot start /no/such/command"):
        Runtime(command=["/no/such/command"])


def test_a_server_that_is_not_ready_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"not ready within 0\.5 s"):
        Runtime(command=SERVER, launch_timeout=0.5, seconds_to_start=60)
    assert time.monotonic() - started < 8


def test_a_free_port_from_the_given_one_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Runtime(command=SERVER, port=port, launch_timeout=30) as runtime:
            assert int(runtime.url.rpartition(":")[2]) > port


def test_the_server_dies_with_its_parent_however_that_dies() -> None:
    code = (
        "import sys, time; from ramet import Runtime\n"
        f"r = Runtime(command={SERVER!r}, launch_timeout=30)\n"
        "print(r.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, 0.1)
        parent.send_signal(signal.SIGKILL)
        assert gone(pid)


def test_a_parent_that_ends_without_saying_so() -> None:
    code = f"from ramet import Runtime; r = Runtime(command={SERVER!r}, launch_timeout=30); print(r.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=50, check=True)
    assert gone(int(done.stdout), 0.5)


def test_options_are_arguments() -> None:
    options = {"model_path": "m", "tp_size": 2, "disable_radix_cache": True, "api_key": None}
    assert command_line({**options, "x": False, "many": [1, 2]}) == (
        ["--model-path", "m", "--tp-size", "2", "--disable-radix-cache", "--many", "1", "2"]
    )
    with pytest.raises(InvalidRequest, match="by name"):
        Runtime("error", 1.0, "model", "tokenizer")
