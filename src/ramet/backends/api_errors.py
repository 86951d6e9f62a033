"""What the errors of the vendors' SDKs and of their HTTP libraries mean for an attempt.

Knows the classes by the SDK's module that is handed in, or by name: no SDK need be installed. Refuses to
know what is done about a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ramet.backends.api_limits import retried_status
from ramet.backends.api_records import Failure

__all__ = ["connection_failure", "sdk_failure", "status_failure"]


def sdk_failure(sdk: Any, error: Exception, key: str) -> Failure | None:
    """What an error means, of an SDK made by the generator that OpenAI and Anthropic both use."""
    if isinstance(error, sdk.APIStatusError):
        said = _said(error.body) or str(error)
        if (
            error.status_code < 400
        ):  # an answer that had begun well, and told of an error in its stream
            return Failure(f"the server said: {said[:200]}", retry=not _lasts(error.body))
        found = status_failure(
            error.status_code,
            said,
            key,
            error.response.headers,
            getattr(error, "request_id", None),
        )
        found.retry = found.retry and not _lasts(error.body)
        return found
    if isinstance(error, sdk.APITimeoutError):
        return Failure("no answer in time", retry=True)
    if isinstance(error, sdk.APIConnectionError):
        cause = error.__cause__
        kind = type(cause).__name__ if cause is not None else type(error).__name__
        return Failure(f"the connection failed ({kind})", retry=True)
    if isinstance(error, sdk.APIError):
        return Failure(f"the server said: {str(error)[:200]}", retry=True)
    return connection_failure(error)


def connection_failure(error: Exception) -> Failure | None:
    """What an HTTP library's own error means: these come through when a stream breaks."""
    for kind in type(error).__mro__:
        library = kind.__module__.split(".")[0]
        if library in ("httpx", "httpx2") and kind.__name__ in ("TransportError", "DecodingError"):
            return Failure(f"the connection failed ({type(error).__name__})", retry=True)
        if library == "aiohttp" and kind.__name__ == "ClientError":
            return Failure(f"the connection failed ({type(error).__name__})", retry=True)
    return None


def status_failure(
    status: int, said: str, key: str, headers: Mapping[str, str] | None, request_id: str | None
) -> Failure:
    """What an HTTP status means."""
    reason = f"HTTP {status}: {said[:300]}"
    if status == 401:
        reason = f"the key was refused (HTTP 401: {said[:200]}); set {key}"
    if status == 404:
        reason = f"no such model or address (HTTP 404: {said[:200]})"
    told = (headers or {}).get("x-should-retry", "")
    return Failure(
        reason,
        retry={"true": True, "false": False}.get(told, retried_status(status)),
        status=status,
        headers=headers,
        request_id=request_id,
    )


_LASTING = frozenset(
    [
        "insufficient_quota",
        "billing_error",
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
    ]
)


def _lasts(body: object) -> bool:
    """Does an error's own name say that another attempt would meet it, too?"""
    inner = _inner(body)
    return not _LASTING.isdisjoint(str(inner.get(name)) for name in ("type", "code"))


def _said(body: object) -> str:
    """The message in an error's body."""
    return str(_inner(body).get("message") or "")


def _inner(body: object) -> Mapping[str, Any]:
    """The error itself, which OpenAI's SDK has taken out of its body and Anthropic's has not."""
    if not isinstance(body, Mapping):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, Mapping) else body
