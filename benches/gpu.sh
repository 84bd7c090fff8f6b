#!/usr/bin/env bash
# `just gpu`: everything that runs on a GPU, checked and timed there in one call, beside PyTorch where Python has it; results in reports/gpu/.
#
# Where there is cargo the program is built first, as target/gpu/tweedie: carried along with the working tree, it is all that a machine without Rust
# and without a network needs besides NVIDIA's driver and libraries. PYTHON names another Python, COMMIT the commit where there is no git.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=target/gpu/tweedie
if command -v cargo > /dev/null; then
    cargo build --release
    mkdir -p target/gpu
    strip -o $binary target/release/tweedie
fi
python=${PYTHON:-python3}
# The libraries that came with PyTorch, where the loader would not look.
find='import glob, sysconfig; print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))'
libraries=$("$python" -c "$find" 2> /dev/null || true)
if [ -n "$libraries" ]; then export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"; fi
args=(--commit "${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}")
if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2> /dev/null; then args+=(--python "$python" --peers benches/peers/gpu.py); fi
exec $binary gpu "${args[@]}" "$@"
