"""One line for each request and event, for people or for machines.

Knows records; refuses to know prompts and answers. A line is one line, whatever strangers send.
"""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any, TextIO

from ramet.server.record import Record, Watcher

__all__ = ["LEVELS", "Log"]

LEVELS = ("debug", "info", "warning", "error", "critical")
_QUIET = frozenset(("/health", "/ping", "/health_generate", "/metrics", "/live"))
_LONGEST = 300  # characters of a value


class Log(Watcher):
    """`form`: "text" or "json". Requests are "info", health checks "debug", what failed here "error"."""

    def __init__(
        self, level: str = "info", form: str = "text", stream: TextIO | None = None
    ) -> None:
        self._least = LEVELS.index(level)
        self._json, self._stream = form == "json", stream

    def ended(self, record: Record) -> None:
        status = record.status or 0
        quiet = record.path in _QUIET or record.path.startswith("/page/")
        level = "error" if status >= 500 else "debug" if quiet else "info"
        if not self._wanted(level):
            return
        facts: dict[str, Any] = {
            "id": record.id,
            "path": record.path,
            "status": status,
            "seconds": round(record.seconds or 0.0, 4),
        }
        if record.tenant is not None:
            facts["tenant"] = record.tenant
        if record.num_samples:
            facts |= {
                "samples": record.num_samples,
                "prompt_tokens": record.num_prompt_tokens,
                "cached_tokens": record.num_cached_tokens,
                "output_tokens": record.num_output_tokens,
                "finish": record.finish,
            }
            if record.first_token_seconds is not None:
                facts["first_token_seconds"] = round(record.first_token_seconds, 4)
            if record.num_preemptions:
                facts["preemptions"] = record.num_preemptions
        if record.error is not None:
            facts["error"] = record.error
        self.write(level, "request", facts)

    def happened(self, event: str, facts: dict[str, Any]) -> None:
        self.write("warning" if "ended" in event else "info", event, facts)

    def write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if not self._wanted(level):
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        short = {name: _short(value) for name, value in facts.items()}
        if self._json:
            line = json.dumps({"time": now, "level": level, "event": event, **short})
        else:
            words = " ".join(f"{name}={_word(value)}" for name, value in short.items())
            line = f"{now[11:23]} {level:<7} {event} {words}"
        print(line, file=self._stream or sys.stderr, flush=True)

    def _wanted(self, level: str) -> bool:
        return LEVELS.index(level) >= self._least


def _short(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


def _word(value: Any) -> str:
    """Texts with spaces or signs that a terminal obeys are quoted."""
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text)
