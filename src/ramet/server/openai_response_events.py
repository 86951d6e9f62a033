"""Answers of the Responses protocol: a whole response, or the typed events of a stream.

Knows the response object, its one message, usage and events. Refuses to know requests' bodies and HTTP. The
whole response is also what a stream's last event holds, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramet.server.aborted import abort_failure
from ramet.server.exchange import Call, EventWriter, Failure, Sample, Status
from ramet.server.generation import Refused
from ramet.server.native import event

__all__ = ["ResponseExchange"]

_ERROR_CODES = {
    Status.BAD_REQUEST: "invalid_prompt",
    Status.TOO_LARGE: "invalid_prompt",
    Status.TOO_MANY: "rate_limit_exceeded",
}
_PLACE = {"output_index": 0, "content_index": 0}  # of the only text there is


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseExchange:
    """One response to be generated. `facts` are the fields that do not depend on what is generated."""

    calls: tuple[Call, ...]
    stream: bool
    cache_salt: str
    facts: Mapping[str, Any]

    def answer(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Raises `Refused` for an aborted sample, so that it is an error with a status of its own."""
        if (failure := abort_failure(samples[0])) is not None:
            raise Refused(failure)
        return self.finished(samples[0])

    def events(self) -> EventWriter:
        return _Events(self)

    def started(self) -> dict[str, Any]:
        return self._response("in_progress", [])

    def finished(self, sample: Sample) -> dict[str, Any]:
        status = _status(sample)
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self._response(status, [self.message(status, [_part(sample.text)])]),
            "incomplete_details": details,
            "usage": _usage(sample),
        }

    def failed(self, failure: Failure, text: str) -> dict[str, Any]:
        """`text`: what had been generated."""
        output = [self.message("incomplete", [_part(text)])] if text else []
        code = _ERROR_CODES.get(failure.status, "server_error")
        error = {"code": code, "message": failure.message}
        return {**self._response("failed", output), "error": error}

    def message(self, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": parts,
        }

    @property
    def item_id(self) -> str:
        return str(self.facts["id"]).replace("resp_", "msg_", 1)

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **self.facts,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": output,
            "usage": None,
        }


def _status(sample: Sample) -> str:
    cut = (sample.finish_reason or {}).get("type") == "length"
    return "incomplete" if cut else "completed"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(sample: Sample) -> dict[str, Any]:
    prompt = sample.meta.get("prompt_tokens") or 0
    completion = sample.meta.get("completion_tokens") or 0
    cached = sample.meta.get("cached_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


class _Events:
    """The stream of one response. Its message begins with its first text, or where there is none at its end."""

    def __init__(self, exchange: ResponseExchange) -> None:
        self._exchange = exchange
        self._number = 0  # of the next event
        self._has_message = False
        self._text = ""  # that was written

    def begin(self) -> Iterable[bytes]:
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._exchange.started())

    def changed(self, sample: Sample) -> Iterable[bytes]:
        new, self._text = sample.text[len(self._text) :], sample.text
        if new:
            yield from self._begin_message()
            yield self._text_event("delta", delta=new, logprobs=[])

    def end(self, samples: Sequence[Sample]) -> Iterable[bytes]:
        sample = samples[0]
        yield from self.changed(sample)
        if (failure := abort_failure(sample)) is not None:
            yield from self.failed(failure)
            return
        yield from self._begin_message()
        yield self._text_event("done", text=sample.text, logprobs=[])
        item, part = self._exchange.item_id, _part(sample.text)
        yield self._event("response.content_part.done", item_id=item, part=part, **_PLACE)
        response = self._exchange.finished(sample)
        message = response["output"][0]
        yield self._event("response.output_item.done", output_index=0, item=message)
        yield self._event(f"response.{response['status']}", response=response)

    def failed(self, failure: Failure) -> Iterable[bytes]:
        yield self._event("response.failed", response=self._exchange.failed(failure, self._text))

    def _begin_message(self) -> Iterator[bytes]:
        if self._has_message:
            return
        self._has_message = True
        item = self._exchange.message("in_progress", [])
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event(
            "response.content_part.added", item_id=item["id"], part=_part(""), **_PLACE
        )

    def _text_event(self, kind: str, **values: Any) -> bytes:
        item = self._exchange.item_id
        return self._event(f"response.output_text.{kind}", item_id=item, **_PLACE, **values)

    def _event(self, kind: str, **values: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        frame = event({"type": kind, "sequence_number": number, **values})
        return f"event: {kind}\n".encode() + frame
