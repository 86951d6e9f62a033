"""Names under the paths that programs written for SGLang import, and the functions behind some of them."""

from __future__ import annotations

import argparse
import http.server
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ramet
from ramet.backends.scripted import Scripted
from ramet.errors import InvalidRequest
from tests.backends.native_server import NativeServer

PATHS = {
    "api": "function gen gen_int gen_string select image video system user assistant user_begin "
    "user_end assistant_begin assistant_end system_begin system_end separate_reasoning "
    "set_default_backend flush_cache get_server_info Runtime RuntimeEndpoint Engine",
    "lang.ir": "REGEX_INT REGEX_FLOAT REGEX_BOOL REGEX_STR SglSamplingParams SglExpr SglExprList "
    "SglConstantText SglArgument SglGen SglSelect SglVariable SglFork SglGetForkItem SglRoleBegin "
    "SglRoleEnd SglVarScopeBegin SglVarScopeEnd SglImage SglVideo SglConcateAndAppend SglCommitLazy "
    "SglSeparateReasoning",
    "lang.choices": "ChoicesDecision ChoicesSamplingMethod token_length_normalized "
    "greedy_token_selection unconditional_likelihood_normalized",
    "lang.chat_template": "ChatTemplate get_chat_template get_chat_template_by_model_path "
    "register_chat_template register_chat_template_matching_function",
    "lang.interpreter": "ProgramState StreamExecutor ProgramStateGroup",
    "lang.backend.base_backend": "BaseBackend",
    "lang.backend.runtime_endpoint": "RuntimeEndpoint Runtime",
    "lang.backend.openai": "OpenAI",
    "lang.backend.anthropic": "Anthropic",
    "lang.backend.vertexai": "VertexAI",
    "lang.global_config": "global_config",
    "global_config": "global_config",
    "utils": "read_jsonl dump_state_text http_request download_and_cache_file",
    "test.test_utils": "add_common_sglang_args_and_parse select_sglang_backend",
}


@pytest.mark.parametrize("path", PATHS)
def test_names_are_where_programs_import_them(path: str) -> None:
    module = importlib.import_module(f"ramet.{path}")
    assert [name for name in PATHS[path].split() if not hasattr(module, name)] == []


def test_they_are_the_same_things_everywhere() -> None:
    from ramet.api import function, gen
    from ramet.lang.backend.runtime_endpoint import Runtime, RuntimeEndpoint

    assert (function, gen) == (ramet.function, ramet.gen)
    assert (Runtime, RuntimeEndpoint) == (ramet.Runtime, ramet.RuntimeEndpoint)
    assert importlib.import_module("ramet.api").Runtime is Runtime
    with pytest.raises(AttributeError):
        importlib.import_module("ramet.api").no_such_name  # noqa: B018


# Requests


class _Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    requests: list[tuple[str, str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        self._answer(200, b'{"got": true}\n{"line": 2}\n')

    def do_GET(self) -> None:
        status = 404 if "missing" in self.path else 200
        self._answer(status, b'{"error": "not here"}' if status == 404 else b"line one\nline two\n")

    do_PUT = do_POST

    def _answer(self, status: int, body: bytes) -> None:
        read = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        type(self).requests.append((self.command, self.path, dict(self.headers), read))
        self.send_response(status)
        if "cut" in self.path:
            self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site() -> Iterator[str]:
    _Site.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_requests(site: str) -> None:
    from ramet.utils import http_request

    response = http_request(site + "/x", json={"é": 1}, api_key="k", stream=True)
    assert response.status_code == 200
    assert list(response) == [b'{"got": true}', b'{"line": 2}']
    method, path, headers, body = _Site.requests[0]
    assert (method, path, json.loads(body)) == ("POST", "/x", {"é": 1})
    assert headers["Authorization"] == "Bearer k"
    assert headers["Accept"] == "text/event-stream"

    missing = http_request(site + "/missing")
    assert (missing.status_code, missing.json()) == (404, {"error": "not here"})
    http_request(site, json={}, method="PUT")
    assert [request[0] for request in _Site.requests] == ["POST", "GET", "PUT"]
    with pytest.raises(OSError, match="refused"):
        http_request("http://127.0.0.1:1/")
    with pytest.raises(InvalidRequest, match="address"):
        http_request("file:///etc/hosts")


def test_downloads_are_kept(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ramet.utils import download_and_cache_file

    file = str(tmp_path / "kept.txt")
    assert download_and_cache_file(site + "/a/data.txt", file) == file
    assert Path(file).read_text() == "line one\nline two\n"
    assert download_and_cache_file(site + "/a/data.txt", file) == file
    assert len(_Site.requests) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert download_and_cache_file(site + "/a/data.txt?x=1") == str(tmp_path / "data.txt")
    with pytest.raises(InvalidRequest, match="names no file"):
        download_and_cache_file(site)
    with pytest.raises(OSError):
        download_and_cache_file(site + "/missing", str(tmp_path / "none"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.txt", "kept.txt"]


# Benchmark scripts


def arguments(*words: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    from ramet.test.test_utils import add_common_sglang_args_and_parse

    monkeypatch.setattr(sys, "argv", ["bench", *words])
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-questions", type=int, default=200)
    return add_common_sglang_args_and_parse(parser)


def test_a_benchmark_script_finds_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from ramet.test.test_utils import select_sglang_backend

    defaults = vars(arguments(monkeypatch=monkeypatch))
    assert defaults == {
        "num_questions": 200,
        "parallel": 64,
        "host": "http://127.0.0.1",
        "port": 30000,
        "backend": "srt",
        "device": "auto",
        "result_file": "result.jsonl",
    }

    @ramet.function
    def program(s):
        s += "Q" + ramet.gen("a")

    monkeypatch.setattr(ramet.global_config, "enable_parallel_encoding", True)
    with NativeServer(Scripted(lambda _: "fine")) as server:
        for name, host in (("srt", "127.0.0.1"), ("srt-no-parallel", "http://127.0.0.1")):
            words = ["--port", str(server.port), "--host", host, "--backend", name]
            backend = select_sglang_backend(arguments(*words, monkeypatch=monkeypatch))
            assert program.run(backend=backend)["a"] == "fine"
    assert ramet.global_config.enable_parallel_encoding is False
