#!/bin/sh
# Installs OpenVINO GenAI and what exports checkpoints for it, for `python -m benchmarks compare`, into
# a virtual environment of its own: $RAMET_PEERS/openvino, or openvino in ramet/peers of the user's cache
# folder. Running it again is harmless. PYTHON names the interpreter (3.10 to 3.13; default python3);
# TORCH_INDEX=https://download.pytorch.org/whl/cpu saves the download of a PyTorch for CUDA.
set -eu
home=${RAMET_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/ramet/peers}/openvino
has() { "$home/bin/python" -c "from importlib.metadata import version as v; assert v('$1').startswith('$2')" 2>/dev/null; }
[ -x "$home/bin/pip" ] || "${PYTHON:-python3}" -m venv "$home"
has torch 2.13.0 || "$home/bin/pip" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
has openvino-genai 2026.4.1 && has optimum-intel 2.2.0 ||
    "$home/bin/pip" install openvino==2026.4.1 openvino-genai==2026.4.1.0 \
        openvino-tokenizers==2026.4.1.0 nncf==3.4.0 optimum-intel==2.2.0 optimum==2.3.0 \
        transformers==5.5.4 torch==2.13.0
# It comes as a build for CUDA, which breaks transformers' import on a machine without it.
"$home/bin/pip" uninstall -q -y torchvision
cd /
"$home/bin/python" -c 'import openvino_genai, optimum.intel; print("OpenVINO GenAI", openvino_genai.__version__)'
