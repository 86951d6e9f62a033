"""Ramet runs LLM programs."""
