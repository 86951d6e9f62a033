"""The old path of `ramet.OpenAI`."""

from ramet.backends.openai import OpenAI

__all__ = ["OpenAI"]
