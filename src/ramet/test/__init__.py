"""Helpers that public benchmark scripts import from here; not Ramet's own tests."""
