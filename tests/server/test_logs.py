"""The log: a line is a line, says no prompt, carries the request's id, and never makes the server wait."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from tests.server.launched import ROOT, Launched, launched

from ramet.server.log_writer import LineWriter
from ramet.server.logs import Log
from ramet.server.record import Record, fault_of

SECRET = "zebra crossing at midnight"


def record(**values: Any) -> Record:
    given = {"id": "r1", "path": "/generate", "tenant": None, "began": 0.0, "seconds": 0.5}
    return Record(**{**given, "status": 200, **values})


def lines(*records: Record, level: str = "debug", form: str = "json") -> list[Any]:
    stream = io.StringIO()
    log = Log(level, form, stream)
    for one in records:
        log.ended(one)
    assert log.flush(5)
    found = stream.getvalue().splitlines()
    return [json.loads(line) for line in found] if form == "json" else found


# -- lines ------------------------------------------------------------------------------------------


def test_a_request_as_json() -> None:
    one = record(
        tenant="a",
        num_samples=2,
        num_prompt_tokens=30,
        num_cached_tokens=20,
        num_output_tokens=9,
        first_token_seconds=0.123456,
        num_preemptions=1,
        finish="stop",
    )
    [line] = lines(one)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "request",
        "id": "r1",
        "path": "/generate",
        "status": 200,
        "seconds": 0.5,
        "tenant": "a",
        "samples": 2,
        "prompt_tokens": 30,
        "cached_tokens": 20,
        "output_tokens": 9,
        "finish": "stop",
        "first_token_seconds": 0.1235,
        "preemptions": 1,
    }


def test_a_request_as_text() -> None:
    [line] = lines(record(tenant="a b"), form="text")
    assert line[12:] == ' info    request id=r1 path=/generate status=200 seconds=0.5 tenant="a b"'


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ({}, "info"),
        ({"status": 404}, "info"),
        ({"status": 429}, "info"),
        ({"status": None}, "info"),  # the client left
        ({"status": 500}, "error"),
        ({"status": 200, "fault": "ValueError"}, "error"),  # after its headers were sent
        ({"status": 503}, "warning"),
        ({"status": 504}, "warning"),
        ({"path": "/health"}, "debug"),
        ({"path": "/page/page.js"}, "debug"),
        ({"path": "/live", "status": None}, "debug"),
        ({"path": "/metrics", "status": 401}, "info"),
        ({"path": "/health", "status": 503}, "warning"),
    ],
    ids=str,
)
def test_levels(values: dict[str, Any], level: str) -> None:
    one = record(**values)
    [line] = lines(one)
    assert line["level"] == level
    assert line["status"] == (one.status or 499)
    order = ["debug", "info", "warning", "error", "critical"]
    for least in order:
        wanted = order.index(level) >= order.index(least)
        assert len(lines(one, level=least)) == wanted, least


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "path",
    [
        "/a\nerror request id=forged",
        "/a\r\x1b[2J\x1b]0;title\x07",
        "/a\u2028b\u202ec\x85d",
        '/a" status=200 x="',
        "/a status=500",
        "/" + "a" * 100_000,
        "/\ud800",
    ],
    ids=["line", "terminal", "unicode", "quote", "space", "long", "surrogate"],
)
def test_strangers_texts_stay_where_they_are(path: str, form: str) -> None:
    [line] = lines(record(path=path, status=404), form=form)
    if form == "json":
        assert line["path"] == path[:300]
        return
    assert line.isprintable()
    assert len(line) < 2500
    words = line.partition(" path=")[2]
    value = json.JSONDecoder().raw_decode(words)[0] if words[0] == '"' else words.split()[0]
    assert value == path[:300]


def test_a_wrong_value_is_not_quoted() -> None:
    wrong = record(status=400, error=f"messages: '{SECRET}' is not a list")
    refused = record(status=429, error="the server has 9 requests to answer first; try again later")
    odd = record(status=400, error=f"{SECRET}: 1 is not a field")
    first, second, third = lines(wrong, refused, odd)
    assert first["field"] == "messages"
    assert second["error"] == refused.error
    assert "field" not in third
    assert SECRET not in json.dumps([first, third])


def test_a_fault_is_its_type_and_place() -> None:
    def inner() -> None:
        raise ValueError(SECRET)

    try:
        inner()
    except ValueError as error:
        fault = fault_of(error)
    assert fault.startswith("ValueError at test_logs.py:")
    assert " inner < test_logs.py:" in fault
    assert SECRET not in fault
    [line] = lines(record(status=500, fault=fault))
    assert line["fault"] == fault
    assert fault_of(KeyError("x")) == "KeyError"


def test_what_others_say_takes_the_same_form() -> None:
    stream = io.StringIO()
    log = Log("info", "json", stream)
    before = list(logging.getLogger("uvicorn.error").handlers)
    with log.adopted():
        logging.getLogger("uvicorn.error").warning("Invalid %s\nsecond line", "request")
        logging.getLogger("uvicorn.error").error("%d", "no number")
        warnings.warn("careful", stacklevel=1)
        try:
            raise OSError(SECRET)
        except OSError:
            logging.getLogger("asyncio").exception("Task failed\nfuture: %r", SECRET)
    assert list(logging.getLogger("uvicorn.error").handlers) == before
    log.flush(5)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(one["level"], one["event"]) for one in found] == [
        ("warning", "uvicorn.error"),
        ("error", "uvicorn.error"),
        ("warning", "py.warnings"),
        ("error", "asyncio"),
    ]
    assert found[0]["message"] == "Invalid request"
    assert found[1]["message"] == "%d", "its arguments do not fit"
    assert found[2]["message"].endswith("UserWarning: careful")
    assert found[3]["message"] == "Task failed"
    assert found[3]["fault"].startswith("OSError at test_logs.py:")
    assert SECRET not in stream.getvalue()


# -- a reader who does not read ---------------------------------------------------------------------


class Pipe:
    """A pipe as a text stream, and its other end."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w")

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while end not in data:
            data += os.read(self.reader, 1 << 16)
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    os.close(one.reader)
    one.stream.close()


def test_a_full_pipe_costs_lines_and_no_time(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream, lambda count: f"{count} lost", max_bytes=100_000)
    slowest = 0.0
    for i in range(5000):
        began = time.perf_counter()
        writer.put(f"{i:099d}")  # with its end 100 bytes
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 1.0, "a pipe holds 64 KiB: writing to it would have waited for ever"
    assert not writer.flush(0.1)
    dropped = writer.num_dropped
    assert 5000 - 1100 - 700 < dropped < 5000 - 1000 + 1
    found = pipe.read_until(b"lost\n").decode().splitlines()
    numbers = [int(line) for line in found if not line.endswith("lost")]
    assert [line for line in found if line.endswith("lost")] == [f"{dropped} lost"]
    rest = 5000 - dropped - len(numbers)
    while rest:
        more = os.read(pipe.reader, 1 << 16).decode().split()
        numbers += map(int, more)
        rest -= len(more)
    assert numbers == sorted(numbers), "what was kept is whole and in order"
    assert writer.flush(5)
    assert writer.num_dropped == dropped


def test_nobody_reads_any_more(pipe: Pipe) -> None:
    os.close(pipe.reader)
    writer = LineWriter(pipe.stream, lambda count: f"{count} lost")
    for _ in range(3):
        writer.put("x")
        assert writer.flush(5)
    assert writer.num_dropped == 3
    pipe.reader = os.open(os.devnull, os.O_RDONLY)  # for the fixture to close


def test_a_file_that_does_not_block_gets_all(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)  # as a program beside us may have made it
    writer = LineWriter(pipe.stream, lambda count: f"{count} lost")
    for i in range(3000):
        writer.put(f"{i:99d}")
    data = pipe.read_until(b"2999\n")
    assert [int(line) for line in data.splitlines()] == list(range(3000))
    assert writer.num_dropped == 0


def test_lines_of_many_threads_are_whole(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream, lambda count: f"{count} lost")

    def work(name: str) -> None:
        for i in range(200):
            writer.put(f"{name}{i}" + "." * 50)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    data = b""
    while data.count(b"\n") < 800:
        data += os.read(pipe.reader, 1 << 16)
    for thread in threads:
        thread.join()
    expected = {f"{name}{i}" + "." * 50 for name in "abcd" for i in range(200)}
    assert set(data.decode().splitlines()) == expected


def test_the_last_lines_come_and_the_thread_goes(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream, lambda count: f"{count} lost")
    writer.put("the last line")
    writer.close()
    writer.close()
    assert os.read(pipe.reader, 100) == b"the last line\n"
    writer.put("too late")
    assert writer.num_dropped == 1
    log = Log(stream=pipe.stream)
    log.happened("engine ready", {"pid": 1})
    del log
    gc.collect()
    assert b"engine ready pid=1" in os.read(pipe.reader, 100)
    end = time.monotonic() + 5
    while any(thread.name == "ramet-log" for thread in threading.enumerate()):
        assert time.monotonic() < end, "its thread ends with a log"
        time.sleep(0.01)


# -- a server's -------------------------------------------------------------------------------------


def ask(server: Launched, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers, body."""
    data = None if body is None else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, data, names)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def found_lines(server: Launched, count: int) -> list[dict[str, Any]]:
    """The log's lines of requests, when there are so many."""
    end = time.monotonic() + 10
    while True:
        found = [json.loads(line) for line in list(server.lines) if line.startswith("{")]
        requests = [one for one in found if one["event"] == "request"]
        if len(requests) >= count:
            return requests
        assert time.monotonic() < end, server.lines
        time.sleep(0.02)


def test_a_server_logs_ids_and_no_texts() -> None:
    chat = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 8}
    asked: list[tuple[str, Any]] = [
        ("/generate", {"text": SECRET, "sampling_params": {"max_new_tokens": 8}}),
        ("/generate", {"text": SECRET, "sampling_params": {"max_new_tokens": 8}, "stream": True}),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "messages": SECRET}),  # wrong
        ("/v1/chat/completions", {**chat, SECRET: 1}),
        ("/v1/messages", {**chat, "model": "pocket"}),
        ("/tokenize", {"prompt": SECRET}),
        ("/nowhere", None),
        ("/v1/models", None),
    ]
    with launched("--log-format", "json", "--log-level", "debug") as server:
        answers = []
        for i, (path, body) in enumerate(asked):
            status, headers, answer = ask(server, path, body, X_Request_Id=f"test-{i}")
            assert headers["x-request-id"] == f"test-{i}", path
            answers.append((status, answer))
        by_id = {one["id"]: one for one in found_lines(server, len(asked))}
        assert len(by_id) == len(asked), "one line each"
        found = [by_id[f"test-{i}"] for i in range(len(asked))]
        assert [one["status"] for one in found] == [status for status, _ in answers]
        assert [one["path"] for one in found] == [path for path, _ in asked]
        assert {status for status, _ in answers} == {200, 400, 404}
        generated = json.loads(answers[0][1])
        assert found[0]["output_tokens"] == generated["meta_info"]["completion_tokens"]
        assert found[0]["prompt_tokens"] == generated["meta_info"]["prompt_tokens"]
        assert found[0]["first_token_seconds"] <= found[0]["seconds"]

        status, headers, _ = ask(server, "/v1/models", X_Request_Id="two words")
        assert len(headers["x-request-id"]) == 32, "what is no word is replaced"
        assert server.stop() == 0
        text = "\n".join(server.lines)
    assert SECRET not in text
    assert generated["text"].strip()[:20] not in text
    assert all(line.startswith("{") for line in server.lines), "every line is JSON"


_SMALL_AND_TALKATIVE = ("--max-cache-tokens", "4000", "--log-level", "debug")


def test_a_server_whose_log_nobody_reads_goes_on() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ramet.launch_server", "--port", "0", *_SMALL_AND_TALKATIVE],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        url = ""
        while not url:
            line = process.stderr.readline().decode()
            assert line, "it did not start"
            url = line.partition(" at ")[2].strip()
        seconds = asyncio.run(_ask_often(int(url.rsplit(":", 1)[1]), 900))  # a pipe has ~700 lines
        assert max(seconds) < 5.0
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, "it ends, too"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()


async def _ask_often(port: int, count: int) -> list[float]:
    """Seconds of each of `count` health checks on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(3) == b"ok\n"
        found.append(time.perf_counter() - began)
    writer.close()
    return found
