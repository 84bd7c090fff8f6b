#!/usr/bin/env bash
# Assembles target/mutants/crate: the layers error, math, diffusion, law and exact with their unit tests, the accuracy tables and
# the goldens. They import only downward, so this part of the crate builds and tests in seconds where the whole takes minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
crate=target/mutants/crate
rm -rf $crate/src $crate/tests
mkdir -p $crate/src $crate/tests $crate/reports
cp -r src/error.rs src/math src/diffusion src/law src/exact $crate/src
printf 'pub mod %s;\n' error math diffusion law exact >$crate/src/lib.rs
echo 'pub use error::{Error, Result};' >>$crate/src/lib.rs
cp tests/accuracy.rs $crate/tests
cp -r tests/golden $crate/tests
echo 'mod accuracy;' >$crate/tests/main.rs
cp reports/accuracy.md $crate/reports
mkdir -p $crate/.cargo
cp .cargo/mutants.toml $crate/.cargo
cp Cargo.lock rustfmt.toml $crate
# The dependencies stay, so that their builds are shared; the program and the bench go.
sed -e '/^default-run/d; /^readme/d; /^build = /d; /^\[\[bench\]\]/,$d' Cargo.toml >$crate/Cargo.toml
printf '[workspace]\n' >>$crate/Cargo.toml
