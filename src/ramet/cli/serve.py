"""`ramet serve`: from the command line to a server's options.

Knows files and spellings; the bounds of the values are the options' own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramet.cli.failure import UsageError
from ramet.engine.options import EngineOptions
from ramet.errors import InvalidRequest

__all__ = ["KEY_VARIABLE", "ServeLine", "run_server"]

KEY_VARIABLE = "RAMET_API_KEY"
_MOST_BYTES = 1 << 20  # of a file that is named on the command line


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
    """Serve; returns the exit code. Raises `UsageError` and other `RametError`s."""
    from ramet.server.options import ServeOptions
    from ramet.server.run import serve

    engine = {name: value for name, value in line.engine.items() if value is not None}
    server = {name: value for name, value in line.server.items() if value is not None}
    template = line.chat_template
    if template is not None and Path(template).is_file():
        server["template_source"] = _text("chat_template", template)
    elif template is not None:
        raise UsageError(f"--chat-template: {template!r} is no file; give one with the template")
    for name in ("tls_cert", "tls_key"):
        if name in server:
            server[name] = Path(server[name])
    try:
        options = ServeOptions(
            engine=EngineOptions.from_kwargs(engine),
            api_keys=_keys(line),
            public_prompts=tuple(_text("public_prompt", path) for path in line.public_prompts),
            **server,
        )
    except InvalidRequest as error:
        raise UsageError(f"--{error.field.replace('_', '-')}: {error}") from error
    return serve(options)


def _keys(line: ServeLine) -> dict[str, str]:
    """Tenants by key: `TENANT=KEY` or a key alone; a file with {"TENANT": "KEY"}; the environment."""
    found: dict[str, str] = {}
    given = [*line.api_keys]
    if not given and (key := os.environ.get(KEY_VARIABLE)):
        given = [key]
    for one in given:
        tenant, equals, key = one.partition("=")
        found[key if equals else one] = tenant if equals else "default"
    if line.api_keys_file is not None:
        try:
            loaded = json.loads(_text("api_keys_file", line.api_keys_file))
        except ValueError as error:
            raise UsageError(f"--api-keys-file: {line.api_keys_file}: {error}") from error
        if not isinstance(loaded, dict) or not all(isinstance(k, str) for k in loaded.values()):
            raise UsageError(f'--api-keys-file: {line.api_keys_file} is not {{"TENANT": "KEY"}}')
        found.update({key: tenant for tenant, key in loaded.items()})
    return found


def _text(option: str, path: str) -> str:
    name = "--" + option.replace("_", "-")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: {path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{name}: {path} is longer than {_MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: {path} is not UTF-8") from error
