"""Arithmetic. `reference.py` is the meaning; faster kernels agree with it."""
