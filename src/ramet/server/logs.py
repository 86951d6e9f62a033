"""One line for each request and event, for people or for machines.

Knows records, and what Python's own `logging` says; refuses to know prompts and answers. A line is one line,
whatever strangers send, and writing it never waits.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from ramet.server.log_writer import LineWriter
from ramet.server.record import Record, Watcher, fault_of

__all__ = ["LEVELS", "Log"]

LEVELS = ("debug", "info", "warning", "error", "critical")
_ADOPTED = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "py.warnings")
_QUIET = frozenset(("/health", "/ping", "/health_generate", "/metrics", "/live"))
_LONGEST = 300  # characters of a value
_FIELD = re.compile(r"[\w.\[\]-]{1,80}", re.ASCII)
_SIGNS = frozenset(" \"'=\\")  # in a value that is quoted


class Log(Watcher):
    """`form`: "text" or "json". Requests are "info", health checks that went well "debug", what the server
    could not do "warning", what went wrong in it "error"."""

    def __init__(
        self, level: str = "info", form: str = "text", stream: TextIO | None = None
    ) -> None:
        self._wanted = frozenset(LEVELS[LEVELS.index(level) :])
        self._line = line = _json_line if form == "json" else _text_line
        self._writer = LineWriter(
            sys.stderr if stream is None else stream,
            lambda count: line("warning", "log lines dropped", {"count": count}),
        )

    @property
    def num_dropped(self) -> int:
        """Lines that nobody took in time."""
        return self._writer.num_dropped

    def ended(self, record: Record) -> None:
        level = _level(record)
        if level in self._wanted:
            self.write(level, "request", _facts(record))

    def happened(self, event: str, facts: dict[str, Any]) -> None:
        self.write("warning" if "ended" in event else "info", event, facts)

    def write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if level in self._wanted:
            self._writer.put(self._line(level, event, facts))

    def flush(self, seconds: float = 1.0) -> bool:
        """Whether all lines were written before `seconds` were over."""
        return self._writer.flush(seconds)

    def close(self) -> None:
        self._writer.close()

    @contextlib.contextmanager
    def adopted(self) -> Iterator[None]:
        """What uvicorn, asyncio and Python's warnings have to say becomes lines of this log."""
        handler = _Handler(self)
        loggers = [logging.getLogger(name) for name in _ADOPTED]
        before = [(one, one.handlers, one.propagate) for one in loggers]
        for one in loggers:
            one.handlers, one.propagate = [handler], False
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for one, handlers, propagate in before:
                one.handlers, one.propagate = handlers, propagate


class _Handler(logging.Handler):
    """Messages of `logging`: their first line, and an exception's type and place. What else they hold may
    be a stranger's text."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage().strip()
        except (TypeError, ValueError):  # its arguments do not fit
            message = str(record.msg)
        facts: dict[str, Any] = {"message": message.partition("\n")[0]}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            facts["fault"] = fault_of(error)
        level = record.levelname.lower()
        self._log.write(level if level in LEVELS else "info", record.name, facts)


def _level(record: Record) -> str:
    code = record.code
    if code == 500 or record.fault is not None:
        return "error"
    if code > 500:
        return "warning"
    quiet = record.path in _QUIET or record.path.startswith("/page/")
    return "debug" if quiet and (code < 400 or code == 499) else "info"


def _facts(record: Record) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": record.id,
        "path": record.path,
        "status": record.code,
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
    facts |= _why(record)
    if record.fault is not None:
        facts["fault"] = record.fault
    return facts


def _why(record: Record) -> dict[str, str]:
    """The words that the client got; of a wrong value, which they quote, the field's name alone."""
    if record.error is None:
        return {}
    if record.code != 400:
        return {"error": record.error}
    field = record.error.partition(":")[0]
    return {"field": field} if _FIELD.fullmatch(field) else {}


def _json_line(level: str, event: str, facts: dict[str, Any]) -> str:
    short = {name: _short(value) for name, value in facts.items()}
    return json.dumps({"time": _now(), "level": level, "event": event, **short})


def _text_line(level: str, event: str, facts: dict[str, Any]) -> str:
    words = "".join(f" {name}={_word(_short(value))}" for name, value in facts.items())
    return f"{_now()[11:23]} {level:<7} {event}{words}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _short(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


def _word(value: Any) -> str:
    """Texts with spaces, quotes or signs that a terminal obeys are quoted."""
    text = str(value)
    plain = text and text.isprintable() and _SIGNS.isdisjoint(text)
    return text if plain else json.dumps(text)
