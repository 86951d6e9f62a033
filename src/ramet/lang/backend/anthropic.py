"""The old path of `ramet.Anthropic`."""

from ramet.backends.anthropic import Anthropic

__all__ = ["Anthropic"]
