# Recipes of tweedie. `just` lists them; install it with `pip install rust-just` (seconds) or `cargo install just` (minutes).

[private]
default:
    @just --list --unsorted

# The main job: run the experiments and write reports/index.html
[group('use')]
report *args:
    cargo run --release -- report {{ args }}

# Rewrite reports/gallery from a fresh run
[group('use')]
gallery:
    cargo run --release -- report digits-theory
    for file in reports/gallery/*; do cp "reports/digits-theory/${file##*/}" reports/gallery/; done

# Every test, as CI runs them
[group('check')]
test *args:
    PROPTEST_RNG_SEED=20260101 cargo test --release {{ args }}

# Formatting, lints and documentation, warnings denied
[group('check')]
lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

# The whole gate
[group('check')]
ci:
    bash .ci/run

# Rewrite reports/accuracy.md from the golden tables
[group('check')]
accuracy:
    UPDATE=1 cargo test --release --test main accuracy

# Criterion benches: each checks its result, then times it
[group('measure')]
bench *args:
    cargo bench {{ args }}

# Side by side with numpy in one run: ratios against a peer are printed by the bench itself (a private Python in .venv)
[group('measure')]
bench-peers:
    python3 -m venv .venv
    .venv/bin/pip install -q numpy
    PYTHON=.venv/bin/python cargo bench --bench law -- --test
