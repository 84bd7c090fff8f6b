# Recipes of tweedie. `just` lists them; install it with `pip install rust-just` (seconds) or `cargo install just` (minutes).

[private]
default:
    @just --list --unsorted

# The main job: run the experiments and write reports/index.html
[group('use')]
report *args:
    cargo run --release -- report {{ args }}

# The report as a PDF, reports/report.pdf, by headless Chromium
[group('use')]
pdf:
    cargo run --release -- report
    "$(command -v chromium || command -v chromium-browser || command -v google-chrome)" --headless --no-sandbox --disable-gpu --no-pdf-header-footer --print-to-pdf=reports/report.pdf "file://$PWD/reports/index.html"

# The default training run: 8 x 8 digits to samples, about a minute on two cores
[group('use')]
train *args:
    cargo run --release -- train experiments/recipes/train-digits.toml {{ args }}

# Rewrite reports/gallery from a fresh run of the whole report
[group('use')]
gallery:
    cargo run --release -- report --fresh
    cd reports/gallery && for file in */*; do cp "../$file" "$file"; done

# Every test, as CI runs them
[group('check')]
test *args:
    PROPTEST_RNG_SEED=20260101 cargo test --release {{ args }}

# The report in headless Chromium: console, links, captions, nothing to scroll sideways at 1280 and 390 pixels
[group('check')]
page:
    cargo run --release -- report
    TWEEDIE_SITE=reports cargo test --release --test main page:: -- --include-ignored

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

# The catalogue with other random cases: every verdict has to stay (60 seeds take about 10 minutes on two cores)
[group('check')]
seeds n="60":
    cargo build --release
    for seed in $(seq 1 {{ n }}); do target/release/tweedie verify --seed "$seed" > /dev/null || { echo "seed $seed"; exit 1; }; done

# Mutation tests of math, diffusion, law and exact: some 6,800 mutants in one binary, 10 to 15 minutes on 2 cores; words pick files (`just mutants law exact/vae`); needs `cargo install cargo-mutants`
[group('check')]
mutants *words:
    python3 -m venv .venv
    .venv/bin/pip install -q tree-sitter tree-sitter-rust
    .venv/bin/python tests/mutants/mutants.py {{ words }}

# Rewrite reports/accuracy.md from the golden tables
[group('check')]
accuracy:
    UPDATE=1 cargo test --release --test reference accuracy

# On a machine with an NVIDIA GPU: every kernel and network against f64, speed beside PyTorch there, into reports/gpu (10 minutes)
[group('measure')]
gpu *args:
    bash benches/gpu.sh {{ args }}

# Criterion benches: each checks its result, then times it
[group('measure')]
bench *args:
    cargo bench {{ args }}

# Side by side with numpy and PyTorch in one run (a private Python in .venv, 1 GB with torch)
[group('measure')]
bench-peers rounds="5":
    python3 -m venv .venv
    .venv/bin/pip install -q numpy diffusers torch --extra-index-url https://download.pytorch.org/whl/cpu
    PYTHON=.venv/bin/python cargo bench --bench law -- --test
    cargo build --release
    .venv/bin/python benches/peers/unet.py target/release/tweedie {{ rounds }}
