"""`ramet serve`: from the command line to a server's options.

Knows files, spellings and what can be checked before a model is loaded; the bounds of the values are the
options' own.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ramet.cli.failure import UsageError
from ramet.engine.options import EngineOptions
from ramet.errors import CheckpointError, InvalidRequest, RametError

if TYPE_CHECKING:
    from ramet.server.options import ServeOptions

__all__ = ["ADMIN_VARIABLE", "KEY_VARIABLE", "ServeLine", "run_server"]

# Keys on a command line are everybody's to read on the same machine.
KEY_VARIABLE, ADMIN_VARIABLE = "RAMET_API_KEY", "RAMET_ADMIN_KEY"
_MOST_BYTES = 1 << 20  # of a file that is named on the command line
_SHORTEST_KEY = 8  # characters; a key that holds a "=" and comes alone looks like a short one
_TENANT = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class ServeLine:
    """What was given. `engine` and `server` hold the options that were, by name."""

    engine: Mapping[str, Any]
    server: Mapping[str, Any]
    api_keys: Sequence[str] = ()
    api_keys_file: str | None = None
    public_prompts: Sequence[str] = ()
    chat_template: str | None = None


def run_server(line: ServeLine) -> int:
    """Serve; returns the exit code. Raises `UsageError` for what is wrong with the line, and other
    `RametError`s."""
    from ramet.server.run import serve

    options = _options(line)
    _check_model(options.engine.model_path)
    _check_tls(options)
    _check_port(options)
    try:
        return serve(options)
    except CheckpointError as error:
        raise UsageError(f"--model: {error}") from error


def _options(line: ServeLine) -> ServeOptions:
    from ramet.server.options import ServeOptions

    engine = {name: value for name, value in line.engine.items() if value is not None}
    server = {name: value for name, value in line.server.items() if value is not None}
    if line.chat_template is not None:
        server["template_source"] = _text("--chat-template", line.chat_template)
    if ("tls_cert" in server) != ("tls_key" in server):
        raise UsageError("--tls-cert and --tls-key: give both or none")
    for name in ("tls_cert", "tls_key"):
        if name in server:
            server[name] = Path(server[name])
    if "admin_key" not in server and (key := os.environ.get(ADMIN_VARIABLE)):
        server["admin_key"] = key
    for origin in server.get("allowed_origins", ()):
        _check_origin(origin)
    keys = _keys(line)
    public = tuple(_text("--public-prompt", path) for path in line.public_prompts)
    try:
        return ServeOptions(
            engine=EngineOptions.from_kwargs(engine),
            api_keys=keys,
            public_prompts=public,
            **server,
        )
    except InvalidRequest as error:
        remedy = f"; {error.remedy}" if error.remedy else ""
        name = error.field.replace("_", "-")
        raise UsageError(f"--{name}: {error.value!r} {error.problem}{remedy}") from error


# -- keys -----------------------------------------------------------------------------------------


def _keys(line: ServeLine) -> dict[str, str]:
    """Tenants by key. A tenant may have several keys; a key has one tenant."""
    found: dict[str, str] = {}
    for option, tenant, key in _given_keys(line):
        if not _TENANT.fullmatch(tenant) or len(key) < _SHORTEST_KEY:
            raise UsageError(
                f"{option}: a tenant's name is 1 to 64 letters, digits and . _ @ -, a key has 8 characters "
                "or more; one with a = in it needs its tenant before it: TENANT=KEY"
            )
        if found.setdefault(key, tenant) != tenant:
            raise UsageError(f"{option}: the tenants {found[key]} and {tenant} have the same key")
    return found


def _given_keys(line: ServeLine) -> Iterator[tuple[str, str, str]]:
    """Where it was given, its tenant, the key."""
    given = [("--api-key", one) for one in line.api_keys]
    if not given and (variable := os.environ.get(KEY_VARIABLE)):
        given = [(f"${KEY_VARIABLE}", variable)]
    for option, one in given:
        tenant, equals, key = one.partition("=")
        yield (option, tenant, key) if equals else (option, "default", one)
    if line.api_keys_file is None:
        return
    option, path = "--api-keys-file", line.api_keys_file
    text = _text(option, path)
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option}: {path} is not JSON: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(k, str) for k in loaded.values()):
        raise UsageError(f'{option}: {path} is not {{"TENANT": "KEY", ...}}')
    for tenant, key in loaded.items():
        yield option, tenant, key


# -- what is looked at before the model is loaded ---------------------------------------------------


def _text(option: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{option}: {path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{option}: {path} is longer than {_MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{option}: {path} is not UTF-8") from error


def _check_origin(origin: str) -> None:
    """A browser says scheme, host and port, and nothing else."""
    parts = urlsplit(origin)
    if origin == "*":
        return
    if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
        raise UsageError(f"--allow-origin: {origin!r} is not like https://chat.example.com")


def _check_model(path: str) -> None:
    from ramet.backends.local import resolve_model

    try:
        resolve_model(path)
    except CheckpointError as error:
        raise UsageError(f"--model: {str(error).removeprefix('model_path: ')}") from error


def _check_tls(options: ServeOptions) -> None:
    if options.tls_cert is None or options.tls_key is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key behind a passphrase would ask for it on the terminal.
        context.load_cert_chain(options.tls_cert, options.tls_key, password=lambda: b"-")
    except ssl.SSLError as error:
        problem = f"these two are no PEM certificate and its key: {error.reason or error}"
        raise UsageError(f"--tls-cert, --tls-key: {problem}") from error
    except OSError as error:
        unread = [p for p in (options.tls_cert, options.tls_key) if not os.access(p, os.R_OK)]
        shown = unread[0] if unread else options.tls_cert
        raise UsageError(f"--tls-cert, --tls-key: {shown}: {error.strerror}") from error


def _check_port(options: ServeOptions) -> None:
    """Said before the model is loaded, which may take minutes."""
    try:
        found = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise UsageError(f"--host: {options.host!r} is no address: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    try:
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        problem = f"{options.host} port {options.port} cannot be listened on: {error.strerror}"
        raise RametError(f"{problem}; --port takes another, 0 any free one") from error
