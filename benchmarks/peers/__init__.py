"""Ramet beside other engines: the same workloads, weights and tokens, in turn, in one run."""
