#!/bin/sh
# Builds the emulator's libraries into a folder; with LD_LIBRARY_PATH=FOLDER the program finds a GPU. `build.sh FOLDER [compiler]`
set -e
out=$1 from=$(cd "$(dirname "$0")" && pwd) cxx=${2:-c++}
mkdir -p "$out"
build() {
    library=$1 version=$2
    shift 2
    $cxx -std=c++17 -Wall -Wextra -fPIC -shared -pthread -ffp-contract=off "-DEMULATOR=\"$from\"" -Wl,-soname,"lib$library.so.$version" \
        "$@" -o "$out/lib$library.so.$version"
    ln -sf "lib$library.so.$version" "$out/lib$library.so"
}
build nvrtc 12 -O1 "$from/nvrtc.cpp" &
nvrtc=$!
build cuda 1 -O2 "$from/driver.cpp" "$from/fibers.cpp" -ldl
build cublas 12 -O3 "$from/blas.cpp" -L"$out" -l:libcuda.so.1 &
cublas=$!
build nccl 2 -O2 "$from/nccl.cpp" -L"$out" -l:libcuda.so.1 &
nccl=$!
build cudnn 9 -O3 "$from/dnn.cpp" -L"$out" -l:libcuda.so.1
ln -sf libcublas.so.12 "$out/libcublasLt.so"
wait $nvrtc
wait $cublas
wait $nccl
