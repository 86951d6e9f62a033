#!/bin/sh
# Installs plain transformers for `python -m benchmarks compare`, into a virtual environment of its own:
# $RAMET_PEERS/transformers, or transformers in ramet/peers of the user's cache folder. Running it again is
# harmless. PYTHON names the interpreter (3.10 or newer; default python3);
# TORCH_INDEX=https://download.pytorch.org/whl/cpu saves the download of a PyTorch for CUDA.
set -eu
home=${RAMET_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/ramet/peers}/transformers
has() { "$home/bin/python" -c "from importlib.metadata import version as v; assert v('$1').startswith('$2')" 2>/dev/null; }
[ -x "$home/bin/pip" ] || "${PYTHON:-python3}" -m venv "$home"
has torch 2.13.0 || "$home/bin/pip" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
has transformers 5.23.0 ||
    "$home/bin/pip" install transformers==5.23.0 torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
cd /
"$home/bin/python" -c 'import torch, transformers; print("transformers", transformers.__version__)'
