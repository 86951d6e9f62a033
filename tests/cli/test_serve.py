"""`ramet serve` on its command line: what is wrong is said in a line before a model is loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.server.launched import ROOT, launched
from typer.testing import CliRunner, Result

import ramet.server.run
from ramet.cli import app
from ramet.cli.serve import ADMIN_VARIABLE, KEY_VARIABLE
from ramet.cli.serve_help import SHOWN
from ramet.server.options import ServeOptions

KEY = "a key of the test"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(ADMIN_VARIABLE, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServeOptions]:
    """What servers would be started with; none is."""
    found: list[ServeOptions] = []

    def serve(options: ServeOptions) -> int:
        found.append(options)
        return 0

    monkeypatch.setattr(ramet.server.run, "serve", serve)
    return found


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["serve", "--port", "0", *arguments], env=environment)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Paths of a certificate, its key, and the key behind a passphrase."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH: it makes the certificate")
    folder = tmp_path_factory.mktemp("pem")
    make_key = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run(
        [*make_key, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    lock_key = ["openssl", "rsa", "-aes128", "-passout", "pass:word"]
    subprocess.run(
        [*lock_key, "-in", folder / "key.pem", "-out", folder / "locked.pem"],
        check=True,
        capture_output=True,
    )
    return lambda name: str(folder / f"{name}.pem")


# -- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "--port: 70000 is not a whole number between 0 and 65535"),
        (["--port", "abc"], "Invalid value for '--port'"),
        (["--no-such-option"], "No such option: --no-such-option"),
        (["--model", "/no/such/folder"], "--model: '/no/such/folder' does not exist"),
        (["--max-running", "0"], "--max-running: 0 is not a whole number of at least 1"),
        (["--request-timeout", "nan"], "--request-timeout: nan is not between 0.1 and 86400"),
        (["--log-level", "loud"], "--log-level: 'loud' is none of debug, info"),
        (["--log-format", "xml"], "--log-format: 'xml' is neither text nor json"),
        (["--schedule-policy", "dice"], "--schedule-policy: 'dice' is unknown; known are lpm"),
        (["--host", "host.invalid"], "--host: 'host.invalid' is no address"),
        (["--chat-template", "/no/file"], "--chat-template: /no/file: No such file"),
        (["--public-prompt", "/no/file"], "--public-prompt: /no/file: No such file"),
        (["--api-keys-file", "/no/file"], "--api-keys-file: /no/file: No such file"),
        (["--api-key", "short"], "--api-key: a tenant's name is 1 to 64"),
        (["--api-key", "no good=a-key-of-it"], "--api-key: a tenant's name is 1 to 64"),
        (["--api-key", "YWJjZGVmZ2hpams="], "one with a = in it needs its tenant before it"),
        (["--api-key", f"a={KEY}", "--api-key", f"b={KEY}"], "tenants a and b have the same key"),
        (["--allow-origin", "https://a.example/"], "--allow-origin: 'https://a.example/' is not"),
        (["--tls-cert", "/no/file"], "--tls-cert and --tls-key: give both or none"),
        (["--tls-key", "/no/file"], "--tls-cert and --tls-key: give both or none"),
        (["--tls-cert", "/no/file", "--tls-key", "/no/f"], "--tls-cert, --tls-key: /no/file: No"),
        (["--tp-size", "2"], "Invalid value for '--tp-size'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_wrong_value_is_a_line_and_2(
    arguments: list[str], words: str, started: list[ServeOptions]
) -> None:
    result = run(*arguments)
    lines = [line for line in result.output.splitlines() if line and "sage" not in line[:6]]
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert len(lines) <= 2, "clear, and no traceback"
    assert KEY not in result.output
    assert not started


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('["a"]', 'is not {"TENANT": "KEY", ...}'),
        ('{"a": 1}', 'is not {"TENANT": "KEY", ...}'),
        ('{"a b": "a key of somebody"}', "a tenant's name"),
        ("\x00" * (1 << 20) + "\x00", "is longer than"),
    ],
    ids=["cut", "deep", "list", "number", "name", "long"],
)
def test_a_file_of_keys_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    result = run("--api-keys-file", str(file))
    assert (result.exit_code, words in result.output) == (2, True), result.output


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = run("--api-keys-file", str(tmp_path))
    assert (folder.exit_code, "Is a directory" in folder.output) == (2, True)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    result = run("--chat-template", str(binary))
    assert (result.exit_code, "is not UTF-8" in result.output) == (2, True)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    result = run("--model", str(tmp_path))
    assert (result.exit_code, "has no tokenizer.json" in result.output) == (2, True)


def test_tls_files(pem: Callable[[str], str], started: list[ServeOptions]) -> None:
    locked = run("--tls-cert", pem("cert"), "--tls-key", pem("locked"))
    assert (locked.exit_code, "no PEM certificate and its key" in locked.output) == (2, True)
    swapped = run("--tls-cert", pem("key"), "--tls-key", pem("cert"))
    assert (swapped.exit_code, "no PEM certificate and its key" in swapped.output) == (2, True)
    assert not started
    assert run("--tls-cert", pem("cert"), "--tls-key", pem("key")).exit_code == 0
    assert started[0].tls_cert == Path(pem("cert"))


def test_a_port_that_is_taken_is_1(started: list[ServeOptions]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--port", str(port))
    assert result.exit_code == 1
    assert f"127.0.0.1 port {port} cannot be listened on: Address already in use" in result.output
    assert not started, "it was noticed before the model was loaded"


# -- what is right ----------------------------------------------------------------------------------


def options_of(started: list[ServeOptions], *arguments: str, **environment: str) -> ServeOptions:
    result = run(*arguments, **environment)
    assert result.exit_code == 0, result.output
    return started[-1]


def test_keys(started: list[ServeOptions], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"c": "the key of c", "d": "the key=of d"}))
    given = [
        "--api-key",
        "a=a key of a",
        "--api-key",
        "a=another=of a",
        "--api-keys-file",
        str(file),
    ]
    assert options_of(started, *given).api_keys == {
        "a key of a": "a",
        "another=of a": "a",
        "the key of c": "c",
        "the key=of d": "d",
    }


def test_keys_of_the_environment(started: list[ServeOptions]) -> None:
    one = options_of(started, RAMET_API_KEY="the key of all", RAMET_ADMIN_KEY="the admin's key")
    assert (one.api_keys, one.admin_key) == ({"the key of all": "default"}, "the admin's key")
    line = ["--api-key", "b=the key of b", "--admin-key", "another admin's"]
    other = options_of(started, *line, RAMET_API_KEY="the key of all", RAMET_ADMIN_KEY="unused one")
    assert (other.api_keys, other.admin_key) == ({"the key of b": "b"}, "another admin's")
    assert "key of" not in json.dumps(other.to_dict())
    result = run(RAMET_API_KEY="short")
    assert (result.exit_code, "$RAMET_API_KEY: " in result.output) == (2, True)


def test_other_servers_names(started: list[ServeOptions]) -> None:
    own = ["--model", "pocket", "--max-running", "7", "--max-queued", "8", "--seed", "9"]
    own += ["--max-cache-tokens", "1000", "--max-step-tokens", "64"]
    theirs = ["--model-path", "pocket", "--max-running-requests", "7", "--max-queued-requests", "8"]
    theirs += ["--random-seed", "9", "--max-total-tokens", "1000", "--chunked-prefill-size", "64"]
    theirs += ["--tp-size", "1", "--enable-cache-report"]
    assert options_of(started, *own) == options_of(started, *theirs)


def test_defaults_are_the_options_own(started: list[ServeOptions]) -> None:
    assert options_of(started) == ServeOptions(port=0)


# -- its help ---------------------------------------------------------------------------------------


def test_the_help_fits_a_screen() -> None:
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "80"}, terminal_width=80)
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith("  -")]
    assert len(rows) == sum(map(len, SHOWN.values())), "an option is a line"


def test_the_help_says_the_defaults() -> None:
    output = CliRunner().invoke(app, ["serve", "--help"], terminal_width=80).output
    options = ServeOptions()
    found = dict(re.findall(r"--([a-z-]+) \S+ .*\[(?:default: )?([^]]+)\]\n", output))
    assert found == {
        "model": options.engine.model_path,
        "host": options.host,
        "port": str(options.port),
        "max-running": str(options.engine.max_running),
        "max-queued": str(options.max_queued),
        "max-wait": "off" if options.max_wait is None else str(options.max_wait),
        "request-timeout": f"{options.request_timeout:g}",
        "shutdown-timeout": f"{options.shutdown_timeout:g}",
        "log-level": options.log_level,
        "log-format": options.log_format,
    }


def test_every_option_is_documented() -> None:
    table = (ROOT / "docs" / "serving.md").read_text().partition("## All options")[2]
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", table))
    [command] = [c for c in typer.main.get_group(app).commands.values() if c.name == "serve"]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    known = {name for name in known if name.startswith("--")} - {"--help", "--metrics", "--page"}
    assert documented >= known - {"--tp"}
    assert documented <= known, "and no other"


# -- the whole way ----------------------------------------------------------------------------------


def test_a_server_with_a_key_from_the_environment_ends_with_0() -> None:
    with launched("--no-metrics", "--max-cache-tokens", "4000", RAMET_API_KEY=KEY) as server:

        def get(path: str, **headers: str) -> Any:
            request = urllib.request.Request(server.url + path, headers=headers)
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.load(response)

        with pytest.raises(urllib.error.HTTPError, match="401"):
            get("/v1/models")
        with_key = {"Authorization": f"Bearer {KEY}"}
        assert get("/v1/models", **with_key)["data"][0]["id"] == "pocket"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get("/metrics", **with_key)
        command = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        assert KEY not in command + "".join(server.lines)
        engine = server.engine_pid
        assert server.stop(signal.SIGTERM) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(engine, 0)
