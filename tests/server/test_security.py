"""A server as users start it, attacked from outside: over its sockets, with its files, by its own tenants.
Docstrings name the CVE that a test answers."""

from __future__ import annotations

import ast
import asyncio
import json
import pickle
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.server.launched import ROOT, Launched, launched
from tests.server.scripted_engine import folder_with

from ramet.server.messages import FromEngine, ToEngine, WireError, read_frame

A, B, ADMIN = "key-of-tenant-a", "key-of-tenant-b", "key-of-the-admin"
PUBLIC = "You are the assistant of a shop that sells bicycles and everything that belongs to them. "


# -- one server with everything that is to be attacked -------------------------------------------------

EVIL = "import pathlib; pathlib.Path({!r}).write_text('it ran')\nclass Model: pass\nclass Config: pass\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launched, httpx.Client, Path]]:
    """Two tenants, an admin, TLS, a public prompt, and a model's folder that would like to be code."""
    folder = tmp_path_factory.mktemp("shop")
    mark = folder / "code_ran"
    model = folder_with(
        folder_path := folder_of(folder, "model"),
        modeling_evil_py=EVIL.format(str(mark)),
        configuration_evil_py=EVIL.format(str(mark)),
        __init___py=EVIL.format(str(mark)),
        sitecustomize_py=EVIL.format(str(mark)),
    )
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder_path / name).read_text())
        settings["auto_map"] = {
            "AutoConfig": "configuration_evil.Config",
            "AutoModelForCausalLM": "modeling_evil.Model",
            "AutoTokenizer": ["modeling_evil.Model", None],
        }
        settings["trust_remote_code"] = True
        (folder_path / name).write_text(json.dumps(settings))
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key)),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    keys, public = folder / "keys.json", folder / "public.txt"
    keys.write_text(json.dumps({"a": A, "b": B}))
    public.write_text(PUBLIC)
    options = {
        "--model-path": model,
        "--max-cache-tokens": 20_000,
        "--api-keys-file": keys,
        "--admin-key": ADMIN,
        "--public-prompt": public,
        "--tls-cert": cert,
        "--tls-key": key,
    }
    with launched(*(str(word) for pair in options.items() for word in pair)) as server:
        trusted = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=server.url, verify=trusted, timeout=30) as http:
            yield server, http, mark


def folder_of(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


def key(of: str) -> dict[str, str]:
    return {"authorization": f"Bearer {of}"}


def cached(http: httpx.Client, who: str, text: str, **more: Any) -> int:
    params = {"max_new_tokens": 1, "temperature": 0}
    body = {"text": text, "sampling_params": params, **more}
    response = http.post("/generate", json=body, headers=key(who))
    assert response.status_code == 200, response.text
    found: int = response.json()["meta_info"]["cached_tokens"]
    return found


def test_code_in_a_models_folder_never_runs(shop: Any) -> None:
    """CVE-2026-22807 and CVE-2025-66448 (`auto_map`), CVE-2025-24357 (pickled weights)."""
    server, http, mark = shop
    assert cached(http, A, "hello") == 0
    assert not mark.exists(), mark.read_text()
    assert not any("it ran" in line for line in server.lines)


def test_it_speaks_tls_and_nothing_else_on_that_port(shop: Any) -> None:
    server, http, _ = shop
    assert server.url.startswith("https://")
    assert http.get("/health").status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{server.port}/health", timeout=5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health", timeout=5)  # nobody vouches for its certificate


def test_a_tenants_prompts_are_in_no_other_tenants_cache(shop: Any) -> None:
    """CVE-2025-46570, and "The Early Bird Catches the Leak": how fast a prompt is would tell that somebody
    else has sent it."""
    _, http, _ = shop
    text = "The contract between the two parties says that the price is 4711 coins, payable in May."
    assert cached(http, A, text) == 0
    assert cached(http, A, text) > 10
    assert cached(http, B, text) == 0
    assert cached(http, ADMIN, text) == 0
    assert cached(http, A, text, cache_salt="own") == 0
    assert cached(http, A, text, cache_salt="own") > 10


def test_public_prompts_are_shared_and_what_follows_them_is_not(shop: Any) -> None:
    _, http, _ = shop
    first = cached(http, A, PUBLIC + "My name is Alice, and my order is number 12345 of last week.")
    shared = cached(
        http, B, PUBLIC + "My name is Alice, and my order is number 12345 of last week."
    )
    again = cached(http, B, PUBLIC + "My name is Alice, and my order is number 12345 of last week.")
    assert first <= shared < again
    assert shared > 10


def test_a_tenant_cannot_end_anothers_requests(shop: Any) -> None:
    _, http, _ = shop
    params = {"max_new_tokens": 400, "ignore_eos": True}
    body = {"text": "count", "rid": "the-same", "stream": True, "sampling_params": params}
    with http.stream("POST", "/generate", json=body, headers=key(A)) as stream:
        lines = stream.iter_lines()
        next(lines)
        told = http.post("/abort_request", json={"rid": "the-same"}, headers=key(B))
        assert told.json() == {"aborted": 0}
        told = http.post("/abort_request", json={"abort_all": True}, headers=key(B))
        assert told.json() == {"aborted": 0}
        mine = http.post("/generate", json={**body, "stream": False}, headers=key(B))
        assert mine.status_code == 200  # the same name is another tenant's, too
        rest = "\n".join(lines)
    assert '"type":"length"' in rest


@pytest.mark.parametrize("path", ["/flush_cache", "/start_profile", "/stop_profile", "/metrics"])
def test_what_concerns_all_tenants_is_for_admins(shop: Any, path: str) -> None:
    _, http, _ = shop
    assert http.get(path).status_code == 401
    assert http.get(path, headers=key(A)).status_code == 403
    assert http.get(path, headers=key(ADMIN)).status_code in (200, 400)


def test_no_answer_tells_keys_or_prompts_of_others(shop: Any) -> None:
    _, http, _ = shop
    secret = "zanzibar"
    cached(http, A, f"The password of the safe is {secret}, keep it for yourself and tell nobody.")
    seen = ""
    for path in ("/get_server_info", "/model_info", "/openapi.json", "/v1/models"):
        seen += http.get(path, headers=key(B)).text
    seen += http.get("/metrics", headers=key(ADMIN)).text + live(http, B)
    assert "event: tree" in seen
    for word in (secret[:4], A, ADMIN):
        assert word not in seen
    assert secret[:4] in live(http, A)  # it would be seen


def live(http: httpx.Client, who: str) -> str:
    """What the live page is told in two looks at the cache."""
    seen = ""
    end = time.monotonic() + 8
    with http.stream("GET", "/live", headers=key(who)) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            seen += line
            if time.monotonic() > end or ("event: tree" in seen and "event: state" in line):
                break
    return seen


# -- constraints, and those who wait beside them -------------------------------------------------------

ENUMERATED = {"enum": [f"word {i} " * 8 for i in range(3000)]}
DEEP: dict[str, Any] = {"type": "string"}
for _ in range(45):
    DEEP = {"anyOf": [DEEP, {"type": "array", "items": DEEP}]} if _ < 8 else {"items": DEEP}
HARD: dict[str, dict[str, Any]] = {
    "no regex": {"regex": "(((("},
    "repeats": {"regex": "((a{1,1000}){1,1000}){1,1000}"},
    "states": {"regex": ".*a.{40}b.{40}"},
    "a long regex": {"regex": "(a|b)" * 40_000},
    "nested groups": {"regex": "(" * 5000 + "a" + ")" * 5000},
    "no schema": {"json_schema": '{"type": "nothing"}'},
    "no JSON": {"json_schema": "{"},
    "recursion": {"json_schema": '{"$ref": "#"}'},
    "foreign schema": {"json_schema": '{"$ref": "http://127.0.0.1:1/x.json"}'},
    "deep schema": {"json_schema": json.dumps(DEEP)},
    "no grammar": {"ebnf": "root ::= ("},
    "left recursion": {"ebnf": "root ::= root root | root"},
    "no tag": {"structural_tag": "[]"},
}


def test_constraints_that_cannot_be_met_are_refused_in_time_and_hold_nobody_up(
    server: Launched,
) -> None:
    """CVE-2025-48942, CVE-2025-48943 (a schema or an expression ended the server), CVE-2025-57809."""
    took: dict[str, tuple[int, float]] = {}
    beside: list[float] = []
    over = threading.Event()

    def neighbour() -> None:
        params = {"max_new_tokens": 4, "ignore_eos": True}
        with httpx.Client(base_url=server.url, timeout=30) as http:
            while not over.is_set():
                began = time.monotonic()
                answer = http.post("/generate", json={"text": "x", "sampling_params": params})
                assert answer.status_code == 200
                beside.append(time.monotonic() - began)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        with httpx.Client(base_url=server.url, timeout=30) as http:
            for name, constraint in HARD.items():
                began = time.monotonic()
                body = {"text": "x", "sampling_params": {"max_new_tokens": 4, **constraint}}
                answer = http.post("/generate", json=body)
                took[name] = answer.status_code, time.monotonic() - began
                field = next(iter(constraint))
                assert answer.status_code in (200, 400), (name, answer.text)
                if answer.status_code == 400:
                    assert field in answer.json()["error"]["message"], answer.text[:300]
                    assert not re.search(r"Traceback|0x[0-9a-f]{8}|/ramet/|panicked", answer.text)
    finally:
        over.set()
        thread.join(30)
    for name in ("no regex", "repeats", "no schema", "no JSON", "no grammar", "no tag"):
        assert took[name][0] == 400, (name, took[name])
    assert took["foreign schema"][0] == 400
    assert max(seconds for _, seconds in took.values()) < 12, took
    assert len(beside) > 5
    assert max(beside) < 6, max(beside)
    server.wait_healthy(5)


# -- bytes --------------------------------------------------------------------------------------------


def raw(server: Launched, data: bytes, seconds: float = 3.0) -> bytes:
    """All that comes back until the server is done, or silent."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            while piece := connection.recv(65_536):
                found += piece
        except (TimeoutError, ConnectionError):
            pass
    return found


def answers(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", data)]


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"X-Long: " + b"a" * 100_000 + b"\r\n",
        b"".join(b"X-%d: a\r\n" % i for i in range(5000)),
        b"Cookie: " + b"a=b; " * 30_000 + b"\r\n",
    ],
    ids=["one long", "many", "cookies"],
)
def test_heads_have_a_bound(server: Launched, head: bytes) -> None:
    """CVE-2025-48956: a header of any length was kept in memory."""
    found = raw(server, b"GET /health HTTP/1.1\r\n" + HOST + head + b"\r\n")
    assert answers(found) in ([431], [])


def test_a_long_address_is_refused(server: Launched) -> None:
    found = raw(server, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answers(found) in ([431], [400], [])


HIDDEN = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SMUGGLED = {
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + HIDDEN,
    "a list of lengths": b"Content-Length: 0, 44\r\n\r\n" + HIDDEN,
    "a negative length": b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a signed length": b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a huge length": b"Content-Length: 99999999999999999999999\r\n\r\n" + HIDDEN,
    "another encoding": b"Transfer-Encoding: xchunked\r\n\r\n" + HIDDEN,
    "chunks twice": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "space before the colon": b"Content-Length : 44\r\n\r\n" + HIDDEN,
    "folded": b"Content-Length:\r\n 44\r\n\r\n" + HIDDEN,
    "a wrong chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + HIDDEN,
    "a huge chunk": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + HIDDEN,
    "zero in a name": b"X\x00Y: 1\r\n\r\n" + HIDDEN,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SMUGGLED))
def test_no_request_is_hidden_in_another(server: Launched, name: str) -> None:
    """What ends where must never be a matter of opinion: the connection ends instead."""
    found = raw(server, b"POST /tokenize HTTP/1.1\r\n" + HOST + SMUGGLED[name], 1.0)
    assert 200 not in answers(found), found
    assert len(answers(found)) <= 1, found


@pytest.mark.parametrize(
    "path",
    [
        *("/page/../../pyproject.toml", "/page/%2e%2e/%2e%2e/pyproject.toml", "/page/..%2fapp.py"),
        *("/page//etc/passwd", "/page/....//....//etc/passwd", "/page/%00", "/page/__init__.py"),
        *("/page/..\\app.py", "/v1/models/../../../etc/passwd", "/v1/models/%2e%2e%2fapp.py"),
    ],
)
def test_paths_lead_to_no_files(server: Launched, path: str) -> None:
    found = raw(server, f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n")
    assert answers(found)[0] in (400, 404)
    for content in (b"[project]", b"root:", b"import ", b"/ramet/"):
        assert content not in found


def test_nothing_is_put_into_answers_or_logs(server: Launched) -> None:
    evil = (
        b"GET /v1/models/x%0a%1b[31m12:00:00%20error%20forged%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\n"
    )
    found = raw(server, evil + HOST + b"x-request-id: a\x0bb\r\nConnection: close\r\n\r\n")
    head = found.partition(b"\r\n\r\n")[0]
    assert b"Set-Cookie" not in head
    assert b"\x1b" not in head
    split = raw(
        server, b"GET /no HTTP/1.1\r\n" + HOST + b"x-request-id: a\r\n Set-Cookie: b\r\n\r\n", 1.0
    )
    assert b"\r\nSet-Cookie" not in split.partition(b"\r\n\r\n")[0]
    with httpx.Client(base_url=server.url, timeout=10) as http:
        rid = "x\n12:00:00.000 error   forged"
        answer = http.post(
            "/generate", json={"text": "a", "rid": rid, "sampling_params": {"max_new_tokens": 1}}
        )
        assert answer.status_code in (200, 400)
    time.sleep(0.2)
    assert not [line for line in server.lines if line.startswith(("12:00:00", "\x1b"))]
    assert not [line for line in server.lines if "\x1b" in line]


# -- sockets ------------------------------------------------------------------------------------------


def listening(pid: int) -> list[str]:
    """What a process listens on: addresses and files."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if found := re.match(r"socket:\[(\d+)\]", str(entry.readlink())):
                inodes.add(found[1])
        except OSError:
            continue
    found_all = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found_all.append(words[1])
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "00010000" and words[6] in inodes:
            found_all.append(words[7] if len(words) > 7 else "?")
    return found_all


def test_it_listens_on_its_own_port_of_this_machine_and_the_engine_on_nothing(
    server: Launched,
) -> None:
    """CVE-2026-3059, CVE-2026-3060, CVE-2025-30202 and their kin: sockets between processes that anybody
    could speak to."""
    ours = listening(server.process.pid)
    assert len(ours) == 1
    address, port = ours[0].split(":")
    assert bytes.fromhex(address)[::-1] == bytes([127, 0, 0, 1])
    assert int(port, 16) == server.port
    assert listening(server.engine_pid) == []


def test_a_secret_is_on_no_command_line(shop: Any) -> None:
    server, _, _ = shop
    command = Path(f"/proc/{server.engine_pid}/cmdline").read_bytes()
    for secret in (A, B, ADMIN):
        assert secret.encode() not in command


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("/tmp/never").touch, ())


FRAMES = {
    "a pickle": pickle.dumps(Bomb()),
    "nothing": b"",
    "another type": msgspec.msgpack.encode({"type": "exec", "code": "1"}),
    "no type": msgspec.msgpack.encode({"key": 1}),
    "other fields": msgspec.msgpack.encode({"type": "ask", "key": 1, "what": "__class__"}),
    "other numbers": msgspec.msgpack.encode({"type": "abort", "key": "1"}),
    "an extension": msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"x")),
    "deep lists": b"\x91" * 100_000 + b"\x01",
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("name", sorted(FRAMES))
@pytest.mark.parametrize("kind", [ToEngine, FromEngine], ids=["to", "from"])
async def test_between_processes_only_our_own_messages_are_read(name: str, kind: Any) -> None:
    """CVE-2026-3989, CVE-2024-50050, CVE-2025-32444: pickles between processes."""
    reader = asyncio.StreamReader()
    reader.feed_data(struct.pack("<I", len(FRAMES[name])) + FRAMES[name])
    with pytest.raises(WireError):
        await read_frame(reader, msgspec.msgpack.Decoder(kind))


async def test_a_frame_says_how_long_it_is_within_bounds() -> None:
    """CVE-2026-27940's class: a size that was believed."""
    reader = asyncio.StreamReader()
    reader.feed_data(b"\xff\xff\xff\xff")
    with pytest.raises(WireError):
        await read_frame(reader, msgspec.msgpack.Decoder(ToEngine))


FORBIDDEN = frozenset(
    (
        *("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "multiprocessing"),
        *("eval", "exec", "compile", "__import__", "recv_pyobj", "send_pyobj", "import_module", "runpy"),
        *("yaml", "subprocess_shell", "system", "popen"),
    )
)  # fmt: skip


def test_nothing_that_strangers_send_can_become_code() -> None:
    """The family "ShadowMQ", and issue after issue: no name by which data becomes code is in these rooms."""
    for room in ("server", "constraints", "engine"):
        for path in sorted((ROOT / "src" / "ramet" / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names: list[str] = []
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    names = [alias.name for alias in node.names]
                    names += [getattr(node, "module", None) or ""]
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    names = [node.func.id]
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    names = [node.func.attr] if node.func.attr != "compile" else []
                if names == ["import_module"] and isinstance(node.args[0], ast.Constant):
                    continue  # a module of Python's that has another name in other versions
                if isinstance(node, ast.Call):
                    assert not any(k.arg == "shell" for k in node.keywords), (path, node.lineno)
                found = FORBIDDEN.intersection(name.partition(".")[0] for name in names)
                assert not found, (path, found)
