"""`python -m benchmarks [NAME ...]` runs the named benchmarks, or the usual ones.

`python -m benchmarks NAME --its-own options` hands the options on; `NAME --help` lists them. `--full`
alone runs the usual ones in full.
"""

from __future__ import annotations

import importlib
import sys

# The first take no arguments; each of the others is given those that follow its name. Only what runs is
# imported.
PLAIN = {"shared_prefix": "benchmarks.shared_prefix"}
WITH_OPTIONS = {
    "api_speculation": "benchmarks.api_speculation",
    "workloads": "benchmarks.run_workloads",
    "compare": "benchmarks.compare",
    "constraints": "benchmarks.constraints",
    "fairness": "benchmarks.fairness",
    "serving": "benchmarks.serving",
}
USUAL = ("shared_prefix", "workloads")


def main(arguments: list[str]) -> int:
    first_option = next((i for i, a in enumerate(arguments) if a.startswith("-")), len(arguments))
    names, options = arguments[:first_option], arguments[first_option:]
    known = [*PLAIN, *WITH_OPTIONS]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known are: {', '.join(known)}", file=sys.stderr)
        return 2
    one = len(names) == 1 and names[0] in WITH_OPTIONS
    if options and not one and (names or options != ["--full"]):
        print(f"{options[0]}: options follow one of: {', '.join(WITH_OPTIONS)}", file=sys.stderr)
        return 2
    worst = 0
    for name in names or USUAL:
        print(f"== {name}", flush=True)
        if name in PLAIN:
            importlib.import_module(PLAIN[name]).main()
        else:
            worst = max(worst, importlib.import_module(WITH_OPTIONS[name]).main(options))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
