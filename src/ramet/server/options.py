"""What a server can be told when it starts: one frozen record, checked when built.

Knows names, defaults and bounds, the engine's own options as a part; refuses to know how they are used.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ramet.engine.options import EngineOptions
from ramet.errors import InvalidRequest

__all__ = ["ServeOptions"]

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Options of `ramet serve`.

    - `engine`: what the engine's process is started with.
    - `host`, `port`: where to listen; 0 takes a free port.
    - `api_keys`: who may ask, by key: the name of the key's tenant. Without any everybody may. Cached
      prefixes are shared within a tenant only.
    - `public_prompts`: texts (system prompts) whose cached prefixes all tenants share.
    - `tls_cert`, `tls_key`: PEM files; both or none.
    - `max_running` is the engine's; `max_queued`: samples that may wait behind them; what comes on top is
      refused with 429. `max_queued_tokens`: prompt tokens of all that run and wait.
    - `max_wait`: seconds that a request may be going to wait for its first token; one that would wait longer, or
      beyond its own deadline, is refused with 429 when it comes. None: its deadline alone counts.
    - `max_body_bytes`: of one request. `max_connections`: open at a time.
    - `request_timeout`: seconds from arrival to the end of the answer. `write_timeout`: seconds that a
      client may leave its answer unread. `stall_timeout`: seconds of silence after which the engine is
      started again. `shutdown_timeout`: seconds that running requests get when the server is stopped.
    - `enable_metrics`, `enable_page`: whether /metrics and the page at / are there.
    - `allowed_origins`: whose pages may use the server from a browser, besides its own.
    - `template_source`: a chat template instead of the checkpoint's own.
    - `admin_key`: the key for /flush_cache, /abort_request of all, and /metrics; None: any key will do
      while there is one tenant.
    """

    engine: EngineOptions = field(default_factory=EngineOptions)
    host: str = "127.0.0.1"
    port: int = 30000
    api_keys: Mapping[str, str] = field(default_factory=dict)
    admin_key: str | None = None
    public_prompts: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_queued: int = 1024
    max_queued_tokens: int = 4_000_000
    max_wait: float | None = None
    max_body_bytes: int = 16 << 20
    max_connections: int = 20_000
    request_timeout: float = 600.0
    write_timeout: float = 60.0
    stall_timeout: float = 120.0
    shutdown_timeout: float = 30.0
    log_level: str = "info"
    log_format: str = "text"
    enable_metrics: bool = True
    enable_page: bool = True
    allowed_origins: tuple[str, ...] = ()
    template_source: str | None = None

    def __post_init__(self) -> None:
        _whole("port", self.port, 0, 65_535)
        _whole("max_queued", self.max_queued, 1, 1_000_000)
        _whole("max_queued_tokens", self.max_queued_tokens, 1, 1 << 40)
        _whole("max_body_bytes", self.max_body_bytes, 1024, 256 << 20)
        _whole("max_connections", self.max_connections, 1, 1_000_000)
        for name in ("request_timeout", "write_timeout", "stall_timeout", "shutdown_timeout"):
            value = getattr(self, name)
            if not 0.1 <= value <= 86_400.0:
                raise InvalidRequest(name, value, "is not between 0.1 and 86400 seconds")
        if self.max_wait is not None and not 0.01 <= self.max_wait <= 86_400.0:
            raise InvalidRequest("max_wait", self.max_wait, "is not between 0.01 and 86400 seconds")
        if (self.tls_cert is None) != (self.tls_key is None):
            given = self.tls_cert or self.tls_key
            raise InvalidRequest(
                "tls_cert", str(given), "needs tls_key beside it, and it needs this"
            )
        if self.log_level not in LOG_LEVELS:
            raise InvalidRequest("log_level", self.log_level, f"is none of {', '.join(LOG_LEVELS)}")
        if self.log_format not in ("text", "json"):
            raise InvalidRequest("log_format", self.log_format, "is neither text nor json")
        for key in (*self.api_keys, self.admin_key):
            if key is not None and not (
                8 <= len(key) <= 256 and key.isascii() and key.isprintable()
            ):
                raise InvalidRequest(
                    "api_key", "(not shown)", "is not 8 to 256 printable characters"
                )

    @property
    def served_model_name(self) -> str:
        return self.engine.served_model_name or Path(self.engine.model_path).name

    @property
    def max_held(self) -> int:
        """Samples that may be there, running and waiting."""
        return self.engine.max_running + self.max_queued

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def engine_options(self) -> dict[str, Any]:
        """What another process can be told of `engine`."""
        return self.engine.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Without keys and other secrets."""
        hidden = ("engine", "api_keys", "admin_key", "public_prompts", "tls_key", "template_source")
        own = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden
        }
        return {**own, "tls_cert": str(self.tls_cert) if self.tls_cert else None}


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(name, value, f"is not a whole number between {low} and {high}")
