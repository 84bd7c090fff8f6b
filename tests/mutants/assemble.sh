#!/usr/bin/env bash
# Assembles target/mutants/crate: the reference up to `exact` with its unit tests, the accuracy tables and the goldens, without
# samplers and recordings, whose tests take minutes. It is a workspace of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD crate=$PWD/target/mutants/crate
rm -rf "$crate/src" "$crate/tests" "$crate/reports"
mkdir -p "$crate/src" "$crate/tests" "$crate/reports" "$crate/.cargo"
modules=(choice error evidence number room input npy math diffusion law exact)
for module in "${modules[@]}"; do cp -r "src/tweedie/src/$module"* "$crate/src"; done
rm -f "$crate/src/law_file.rs"
printf 'pub mod %s;\n' "${modules[@]}" >"$crate/src/lib.rs"
echo 'pub use error::{Error, Result};' >>"$crate/src/lib.rs"
cp tests/accuracy.rs "$crate/tests"
cp -r tests/golden "$crate/tests"
echo 'mod accuracy;' >"$crate/tests/reference.rs"
# Where the sources look for goldens and the table: two folders up.
sed -i 's#"/../.."#""#; s#"/../../#"/#' "$crate"/tests/*.rs $(grep -rl CARGO_MANIFEST_DIR "$crate/src")
cp reports/accuracy.md "$crate/reports"
cp .cargo/mutants.toml "$crate/.cargo"
cp Cargo.lock rustfmt.toml "$crate"
{
  sed -e '/^members/d; s#path = "src/#path = "'"$root"'/src/#' Cargo.toml
  sed -e '/^\[\[/,$d; /^readme/d; s#^default = .*##' src/tweedie/Cargo.toml
  printf '[[test]]\nname = "reference"\npath = "tests/reference.rs"\n'
} >"$crate/Cargo.toml"
sed -i 's#^\[features\]#[features]\ndefault = ["fast"]#' "$crate/Cargo.toml"
