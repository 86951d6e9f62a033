"""`python -m ramet.launch_server --model-path M`: another name of `ramet serve`."""

from __future__ import annotations

import sys

from ramet.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()
