"""A server that misbehaves: nothing hangs, nothing is swallowed, errors name the program's line."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from tests.backends.native_server import Fault, NativeServer

import ramet as sgl
from ramet import RuntimeEndpoint
from ramet.backends.scripted import Fail, Scripted
from ramet.errors import Aborted, BackendError, ProgramError

Faults = Callable[[str, int], Fault | None]


@sgl.function
def program(s):
    s += "first " + sgl.gen("a")
    s += " second " + sgl.gen("b", return_logprob=True)  # this line
    s += " third " + sgl.gen("c")


LINE = f"{__file__}:{program.func.__code__.co_firstlineno + 3}"


def at(number: int, fault: Fault) -> Faults:
    return lambda path, count: fault if path == "/generate" and count >= number else None


def once(number: int, fault: Fault) -> Faults:
    return lambda path, count: fault if path == "/generate" and count == number else None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("style", ["ramet", "sglang"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("status"), "HTTP 500: scripted trouble"),
        (Fault("status", status=422, body=b'{"detail": "no such field"}'), "no such field"),
        (Fault("status", status=502, body=b"<html>Bad gateway</html>"), "Bad gateway"),
        (Fault("close"), "disconnected"),
        (Fault("stall"), "not answered within 0.2 s"),
        (Fault("halfway"), "broke"),
        (Fault("garbage"), "no JSON"),
    ],
)
def test_every_trouble_is_an_error_of_the_line(
    fault: Fault, said: str, style: str, stream: bool
) -> None:
    if stream and fault.kind == "halfway":
        fault = Fault("close", after=1)
    if stream and fault.kind == "status" and fault.status != 500:
        fault, said = Fault("status", after=1, status=500), "scripted trouble"
    with NativeServer(Scripted(), style, faults=at(1, fault)) as server:
        endpoint = RuntimeEndpoint(server.url, timeout=0.2, retries=1)
        state = program.run(backend=endpoint, stream=stream)
        error = state.error()
        assert isinstance(error, ProgramError)
        assert error.location == LINE
        if not stream or fault.kind in ("stall", "garbage"):
            assert said in str(error)
        assert isinstance(error.__cause__, BackendError)
        assert state["a"] == program.run(backend=Scripted())["a"]  # what came before stays
        for name in "bc":
            with pytest.raises(ProgramError, match="gen"):
                state[name]


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("kind", ["close", "stall", "end", "garbage", "status"])
def test_a_stream_that_breaks_off(kind: str, after: int) -> None:
    backend = Scripted(lambda _: "one two three four")
    with NativeServer(backend, faults=at(1, Fault(kind, after=after))) as server:
        endpoint = RuntimeEndpoint(server.url, timeout=0.2, retries=0)
        state = program.run(backend=endpoint, stream=True)
        pieces: list[str] = []
        with pytest.raises(ProgramError) as caught:
            pieces += state.text_iter("b")
        assert caught.value.location == LINE
        assert "".join(pieces) == "one two three four"[: sum(map(len, pieces))]
        with pytest.raises(ProgramError):
            list(state.text_iter())


def test_a_broken_connection_is_tried_again_and_told() -> None:
    with NativeServer(Scripted(), faults=once(1, Fault("close"))) as server:
        state = program.run(backend=RuntimeEndpoint(server.url))
        assert state.error() is None
        assert state.get_meta_info("b")["retries"] == 1
        assert "retries" not in state.get_meta_info("a")
        assert state.text() == program.run(backend=Scripted()).text()
        assert len(server.bodies()) == 4
        assert [call.retries for call in state.calls] == [0, 1, 0]


def test_how_often_it_was_tried_in_vain_is_told() -> None:
    with NativeServer(Scripted(), faults=at(1, Fault("close"))) as server:
        state = program.run(backend=RuntimeEndpoint(server.url, retries=2))
        assert "tried 3 times" in str(state.error())
        assert [call.retries for call in state.calls] == [0, 2]


def test_nothing_is_repeated_once_an_answer_has_begun() -> None:
    with NativeServer(Scripted(), faults=once(1, Fault("halfway"))) as server:
        state = program.run(backend=RuntimeEndpoint(server.url))
        assert "in the midst of the answer" in str(state.error())
        assert len(server.bodies()) == 2


def test_a_server_that_restarts_between_calls() -> None:
    """The kept connection is dead, and the next call does not notice."""
    with NativeServer(Scripted()) as server:
        endpoint = RuntimeEndpoint(server.url)
        assert program.run(backend=endpoint).error() is None
        port = server.port
    with NativeServer(Scripted(), port=port):
        assert program.run(backend=endpoint).error() is None


def test_a_failed_branch_does_not_touch_the_others() -> None:
    @sgl.function
    def branches(s):
        s += "x"
        forks = s.fork(3)
        forks += lambda i: f" {i}" + sgl.gen("v")
        forks.join(return_exceptions=True)
        return forks

    def respond(call):
        return Fail("out of luck") if call.prompt.text().endswith(" 1") else "fine"

    with NativeServer(Scripted(respond)) as server:
        state = branches.run(backend=RuntimeEndpoint(server.url))
        values = state["v"]
    assert (values[0], values[2]) == ("fine", "fine")
    assert "out of luck" in str(values[1])


def test_an_aborted_request_is_an_error() -> None:
    aborted = Fault(
        "status",
        status=200,
        body=b'{"text": "", "meta_info": {"finish_reason": {"type": "abort", "message": "too long"}}}',
    )
    with NativeServer(Scripted(), faults=at(0, aborted)) as server:
        error = program.run(backend=RuntimeEndpoint(server.url)).error()
    assert error is not None
    assert isinstance(error.__cause__, Aborted)
    assert "too long" in str(error)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "0 answers instead of 1"),
        (b'"text"', "no object"),
        (b'{"text": 3, "meta_info": {}}', "no text"),
        (b'{"text": "x"}', "no text or meta_info"),
        (b'{"error": {"message": "went wrong"}}', "went wrong"),
        (b'{"text": "x", "meta_info": {}, "output_spans": [{"ids": 5}]}', "output_spans"),
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_answers_of_another_form(body: bytes, said: str) -> None:
    with NativeServer(Scripted(), faults=at(0, Fault("status", status=200, body=body))) as server:
        error = program.run(backend=RuntimeEndpoint(server.url)).error()
    assert said in str(error)


# Before there is a server


def test_no_server_at_the_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(BackendError, match=r"get_model_info.*refused"):
        RuntimeEndpoint(url)


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 X\r\nContent-Length: 900\r\n\r\n{"])
def test_a_server_that_does_not_answer(says: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kept: list[socket.socket] = []

        def accept() -> None:
            connection, _ = silent.accept()
            kept.append(connection)
            connection.sendall(says)

        thread = threading.Thread(target=accept)
        thread.start()
        started = time.monotonic()
        with pytest.raises(BackendError, match=r"within 0\.2 s"):
            RuntimeEndpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.2)
        assert time.monotonic() - started < 2
        thread.join()
        kept[0].close()


def test_an_address_of_something_else() -> None:
    faults: Faults = lambda _path, _count: Fault("garbage")  # noqa: E731
    with NativeServer(Scripted(), faults=faults) as server:
        with pytest.raises(BackendError, match="address of an LLM server"):
            RuntimeEndpoint(server.url)


def test_the_information_about_the_server_is_not_needed() -> None:
    faults: Faults = lambda path, _: Fault("status") if path == "/get_server_info" else None  # noqa: E731
    with NativeServer(Scripted(), faults=faults) as server:
        endpoint = RuntimeEndpoint(server.url)
        assert program.run(backend=endpoint).error() is None
        with pytest.raises(BackendError, match="scripted trouble"):
            endpoint.get_server_info()
