"""Native kernels for CPUs: C++ sources, how they are compiled, and their Python faces."""
