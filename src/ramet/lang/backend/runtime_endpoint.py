"""The old path of `ramet.RuntimeEndpoint` and `ramet.Runtime`."""

from ramet.backends.remote import RuntimeEndpoint
from ramet.backends.runtime_process import Runtime

__all__ = ["Runtime", "RuntimeEndpoint"]
