"""Samples that have no end of their own: aborted, or failed in the engine.

Knows the native form of such an end; refuses to know protocols. For those whose answers have no word for it,
so that it becomes an error with a status.
"""

from __future__ import annotations

from ramet.server.exchange import Failure, Sample, Status

__all__ = ["abort_failure"]


def abort_failure(sample: Sample) -> Failure | None:
    """Why the sample was ended, in words for the client; None where it ended by itself, or runs."""
    reason = sample.finish_reason or {}
    if reason.get("type") != "abort":
        return None
    status = reason.get("status_code")
    if type(status) is not int or not 400 <= status < 500:
        return Failure(status=Status.INTERNAL, message="the engine failed at this request")
    return Failure(status=status, message=reason.get("message") or "the request was aborted")
