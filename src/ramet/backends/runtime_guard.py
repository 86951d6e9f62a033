"""Runs a command for as long as its parent lives: `python runtime_guard.py COMMAND...`.

A script of its own that imports nothing of Ramet, so that it starts at once. It knows a command and a pipe:
when its standard input ends (the parent has closed it, or is no more, however it died), the command is
asked to end, and killed if it does not. The command's process id goes to standard output in a first line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

PID_MARK = "ramet-runtime-pid "
SECONDS_TO_END = 10.0


def main(command: list[str]) -> int:
    """Returns the command's exit status."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", flush=True)
        return 127
    print(f"{PID_MARK}{child.pid}", flush=True)
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    return child.wait()


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    child.terminate()
    try:
        child.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
