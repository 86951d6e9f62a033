"""Backends: whatever runs models for programs, each behind the protocol of `ramet.backend`.

Importing this imports none of them.
"""
