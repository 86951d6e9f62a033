"""The old path of `ramet.VertexAI`."""

from ramet.backends.gemini import VertexAI

__all__ = ["VertexAI"]
