"""Attention over a plan on a GPU: `attention.py` is the kernel, `tiles.py` its work cut up on the host.

Imports nothing, so that `tiles` stays free of torch and Triton is asked for only where it runs.
"""
