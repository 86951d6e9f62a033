"""`python -m benchmarks [NAME ...]` runs the named benchmarks, or all of them."""

from __future__ import annotations

import sys

from benchmarks import shared_prefix

BENCHMARKS = {"shared_prefix": shared_prefix.main}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(
            f"unknown benchmark {unknown[0]!r}; known are: {', '.join(BENCHMARKS)}", file=sys.stderr
        )
        return 2
    for name in names or list(BENCHMARKS):
        print(f"== {name}")
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
