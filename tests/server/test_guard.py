"""Before every route: keys, hosts, origins, and the names of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.server.scripted_engine import ScriptedEngine, app, client

from ramet.server.exchange import Failure
from ramet.server.record import Record, Watcher

KEY, ADMIN = "a-key-for-tests", "an-admin-key-for-tests"


class Heard(Watcher):
    def __init__(self) -> None:
        self.records: list[Record] = []

    def ended(self, record: Record) -> None:
        self.records.append(record)


async def ask(
    server: Any, path: str = "/v1/models", method: str = "GET", **headers: str
) -> tuple[int, Mapping[str, str], str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client(server) as http:
        response = await http.request(method, path, headers=named)
    return response.status_code, response.headers, response.text


# -- keys -------------------------------------------------------------------------------------------


async def test_a_key_is_needed_except_where_it_is_not() -> None:
    server = app(api_keys={KEY: "t"})
    status, headers, text = await ask(server)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert "invalid_api_key" in text
    assert (await ask(server, authorization=f"Bearer {KEY}"))[0] == 200
    for path in ("/health", "/ping", "/openapi.json"):
        assert (await ask(server, path))[0] == 200
    assert (await ask(server, "/no/such/path"))[0] == 401


async def test_keys_in_addresses_are_no_keys() -> None:
    """They would be in logs and histories."""
    server = app(api_keys={KEY: "t"})
    for query in (f"?api_key={KEY}", f"?key={KEY}", f"?authorization=Bearer%20{KEY}"):
        assert (await ask(server, f"/v1/models{query}"))[0] == 401


@pytest.mark.parametrize("path", ["/health/../v1/models", "/page/../v1/models", "//v1/models", "/health%2f..%2fv1/models"])  # fmt: skip
async def test_open_paths_open_nothing_else(path: str) -> None:
    server = app(api_keys={KEY: "t"})
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    await server.asgi(scope, receive, send)
    assert sent[0]["status"] in (401, 404)
    assert b"pocket" not in b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize(
    ("path", "method"),
    [("/flush_cache", "POST"), ("/start_profile", "POST"), ("/stop_profile", "GET")],
)
async def test_what_concerns_all_is_for_admins(path: str, method: str) -> None:
    server = app(api_keys={KEY: "t", KEY + "2": "u"}, admin_key=ADMIN)
    assert (await ask(server, path, method, authorization=f"Bearer {KEY}"))[0] == 403
    assert (await ask(server, path, method, authorization=f"Bearer {ADMIN}"))[0] == 200
    assert (await ask(server, path, method))[0] == 401
    shared = app(api_keys={KEY: "t", KEY + "2": "u"})
    assert (await ask(shared, path, method, authorization=f"Bearer {KEY}"))[0] == 403


# -- hosts and origins ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:30000", "localhost", "LOCALHOST:1", "[::1]:30000", "127.8.8.8", ""],
)
async def test_this_machines_names(host: str) -> None:
    assert (await ask(app(), host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("example.org", "127.0.0.1.example.org", "127.example.org", "localhost.example.org"),
        *("[::2]", "10.0.0.1", "[", "127.0.0.1@example.org", "0.0.0.0"),
    ],
)
async def test_other_hosts_names_are_rebound_addresses(host: str) -> None:
    """A page of a foreign name that was made to point here."""
    status, _, text = await ask(app(), host=host)
    assert (status, "--api-key" in text) == (403, True)


async def test_with_keys_any_host_is_right() -> None:
    server = app(api_keys={KEY: "t"})
    assert (await ask(server, host="ai.example.org", authorization=f"Bearer {KEY}"))[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("https://example.org", "null", "http://127.0.0.1:8080", "http://localhost", "["),
        *("http://127.0.0.1.example.org", "file://", "http://127.0.0.1@example.org"),
    ],
)
async def test_pages_of_others_may_not_ask(origin: str) -> None:
    status, headers, _ = await ask(app(), origin=origin, host="127.0.0.1")
    assert status == 403
    assert "access-control-allow-origin" not in headers


async def test_the_servers_own_page_may_ask() -> None:
    assert (await ask(app(), origin="http://127.0.0.1:30000", host="127.0.0.1:30000"))[0] == 200


async def test_allowed_origins_get_their_headers_and_others_do_not() -> None:
    server = app(allowed_origins=("https://app.example.org",))
    status, headers, _ = await ask(server, origin="https://app.example.org")
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example.org")
    assert "access-control-allow-credentials" not in headers
    status, headers, _ = await ask(server, origin="https://app.example.org.evil.org")
    assert status == 403
    assert "access-control-allow-origin" not in headers
    asked = {"access_control_request_method": "POST"}
    status, headers, _ = await ask(
        server, "/generate", "OPTIONS", origin="https://app.example.org", **asked
    )
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example.org")
    status, headers, _ = await ask(
        server, "/generate", "OPTIONS", origin="https://evil.org", **asked
    )
    assert status == 400
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/flush_cache", "/start_profile", "/v1/models"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pictures_in_other_pages_do_nothing_here(path: str, site: str) -> None:
    """`<img src="http://127.0.0.1:30000/flush_cache">` has no origin."""
    image = {"sec_fetch_site": site, "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}
    assert (await ask(app(), path, **image))[0] == 403
    link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert (await ask(app(), path, **link))[0] == 403
    own = {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}
    assert (await ask(app(), path, **own))[0] == 200


async def test_a_link_to_the_page_is_followed() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert (await ask(app(), "/health", **link))[0] == 200


# -- names of requests, and what is told of failures --------------------------------------------------


async def test_a_fitting_request_id_comes_back() -> None:
    _, headers, _ = await ask(app(), "/no", x_request_id="trace-01.A_b")
    assert headers["x-request-id"] == "trace-01.A_b"


@pytest.mark.parametrize(
    "given",
    ["a b", "x" * 129, "", "a\tb", "caf\xe9", "\x7f"],
)
async def test_other_request_ids_are_replaced(given: str) -> None:
    heard = Heard()
    server = app(watchers=[heard])
    async with client(server) as http:
        response = await http.get("/no", headers={"x-request-id": given.encode("latin-1")})
    found = response.headers["x-request-id"]
    assert found != given
    assert len(found) == 32
    assert heard.records[0].id == found


async def test_lines_cannot_be_put_into_headers_by_a_request_id() -> None:
    """HTTP servers refuse such headers; what stands behind them does not rely on it."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    evil = b"x\r\nset-cookie: a=b"
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "raw_path": b"/v1/models",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"x-request-id", evil)],
    }
    await app().asgi(scope, receive, send)
    for name, value in sent[0]["headers"]:
        assert b"\r" not in name + value
        assert b"\n" not in name + value


async def test_a_failure_of_the_server_tells_its_request_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """CVE-2026-22778: an error's text gave away an address of memory."""
    engine = ScriptedEngine()
    engine.fails = RuntimeError("/secret/path <object at 0x7f0123456789>")
    heard = Heard()
    async with client(app(engine, watchers=[heard])) as http:
        response = await http.post("/generate", json={"text": "x"})
    assert response.status_code == 500
    assert heard.records[0].id in response.text
    for secret in ("secret", "0x7f", "RuntimeError", "Traceback", "object at"):
        assert secret not in response.text
    assert heard.records[0].status == 500
    fault = heard.records[0].fault or ""  # for the log: the type and the place, not the words
    assert "RuntimeError" in fault
    assert "secret" not in fault
    capsys.readouterr()


@pytest.mark.parametrize("status", [400, 429, 503, 504])
async def test_failures_of_the_engine_come_in_each_protocols_form(status: int) -> None:
    engine = ScriptedEngine()
    engine.fails = Failure(status=status, message="not now", retry_after=2.0)
    async with client(app(engine)) as http:
        native = await http.post("/generate", json={"text": "x"})
        openai = await http.post("/v1/completions", json={"prompt": "x"})
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        anthropic = await http.post("/v1/messages", json=body)
    for response in (native, openai, anthropic):
        assert response.status_code == status
        assert response.headers["retry-after"] == "2"
        assert response.json()["error"]["message"] == "not now"
    assert anthropic.json()["type"] == "error"
    assert "param" in openai.json()["error"]


async def test_an_answer_that_did_not_go_out_is_not_taken_for_whole() -> None:
    """The exception goes on, so that the connection is closed."""

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionError("gone")

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "raw_path": b"/v1/models",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
    }
    with pytest.raises(ConnectionError):
        await app().asgi(scope, receive, send)
