//! The architecture's invariants that no compiler holds, read off the source: inside the reference
//! modules import downward only, each kind of side effect has its rooms, and no maximum of
//! floating-point numbers drops a NaN.

use std::path::{Path, PathBuf};

/// The top of the checkout.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Modules of the reference from the bottom up; a module may name its own layer and those below.
/// The crates above it are held apart by the compiler.
const LAYERS: [&[&str]; 9] = [
    &["choice", "error", "evidence"],
    &["number", "room"],
    &["input", "npy"],
    &["math"],
    &["diffusion"],
    &["law"],
    &["exact"],
    &["sample"],
    &["law_file", "recording"],
];

/// What may be named only in some rooms: (needle, where, why). A room is a crate, or a module of
/// the reference.
const ROOMS: [(&str, &[&str], &str); 7] = [
    ("plotters", &["tweedie-report"], "plots are drawn by the report"),
    ("cudarc", &["tweedie-device"], "CUDA is reached through the device crate"),
    ("println!", &["tweedie-cli"], "libraries do not print"),
    ("eprintln!", &["tweedie-cli", "tweedie-report"], "libraries do not print"),
    (
        "std::time",
        &["tweedie-cli", "tweedie-report", "tweedie-files"],
        "mathematics does not read the clock",
    ),
    (
        "std::fs",
        &[
            "tweedie-cli",
            "tweedie-files",
            "tweedie-nn",
            "tweedie-device",
            "tweedie-report",
            "experiments",
            "input",
            "npy",
            "room",
        ],
        "files are touched by data sets, reports and the command line",
    ),
    ("gemm::", &["tweedie-engines"], "matrix products go through math::matmul"),
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The code of a file without comments and without its test module.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    body.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Files in which a running maximum is of integers, or may drop a NaN: (path, why).
const MAXIMA: [(&str, &str); 4] = [
    ("src/tweedie-nn/src/program.rs", "sizes, integers"),
    ("src/tweedie-nn/src/cuda/mod.rs", "sizes, integers"),
    (
        "src/tweedie/src/math/vector.rs",
        "the shift of a sum of exponentials: terms that are NaN stay so",
    ),
    (
        "src/tweedie/src/law/empirical.rs",
        "the shift of a sum of exponentials: terms that are NaN stay so",
    ),
];

/// What stands between a bracket that was just opened and the one that closes it.
fn bracketed(text: &str) -> &str {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    &text[..end.unwrap_or(text.len())]
}

/// Maxima and minima that drop a NaN: folds over `max`, `min` or a comparison of their own, and
/// `worst = worst.max(x)`.
fn drops_nan(text: &str) -> Vec<String> {
    let folds = text.split("fold(").skip(1).map(bracketed).filter(|fold| {
        let own = fold.contains(" if ")
            && [" < ", " > ", "<=", ">="].iter().any(|c| fold.contains(c))
            && !fold.contains("is_nan()");
        own || ["f64::max", "f64::min", "f32::max", "f32::min", ".max(", ".min("]
            .iter()
            .any(|m| fold.contains(m))
    });
    let running = text.lines().map(str::trim).filter(|line| {
        let (name, rest) = line.split_once(" = ").unwrap_or_default();
        let name = name.trim_start_matches("let mut ").trim_start_matches('*');
        !name.is_empty()
            && rest
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(".max(") || rest.starts_with(".min("))
    });
    folds.chain(running).map(str::to_owned).collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&module))
}

/// Every violation in one file, as `module: what`.
fn violations(module: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(own) = layer(module) {
        for reference in code.split("crate::").skip(1) {
            let name: String =
                reference.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            match layer(&name) {
                Some(l) if l > own => found.push(format!("{module} imports upward from {name}")),
                Some(_) => {}
                // `tweedie::Error`, `tweedie::Result` and macros belong to the crate's root, which
                // re-exports error.
                None if name.starts_with(char::is_uppercase) => {}
                None => found.push(format!("{module} imports {name}, which has no layer")),
            }
        }
    }
    for (needle, rooms, why) in ROOMS {
        if code.contains(needle) && !rooms.contains(&module) {
            found.push(format!("{module} names {needle}: {why}"));
        }
    }
    found
}

/// Every source file, with its room: the module in the reference, else the crate.
fn rooms() -> Vec<(String, PathBuf)> {
    let root = PathBuf::from(ROOT);
    let mut files = Vec::new();
    ["src", "experiments"].iter().for_each(|dir| sources(&root.join(dir), &mut files));
    let room = |path: &Path| {
        let parts: Vec<&str> =
            path.strip_prefix(&root).unwrap().iter().map(|part| part.to_str().unwrap()).collect();
        match parts[..] {
            ["src", "tweedie", "src", module, ..] => module.trim_end_matches(".rs").to_owned(),
            ["src", name, ..] => name.to_owned(),
            _ => "experiments".to_owned(),
        }
    };
    // A file of tests may print and look at the clock; a build script speaks to cargo by printing.
    files.retain(|path| {
        path.file_name().is_some_and(|name| name != "tests.rs" && name != "build.rs")
    });
    files.into_iter().map(|path| (room(&path), path)).collect()
}

#[test]
fn layers_and_rooms() {
    let files = rooms();
    assert!(files.len() > 300, "found only {} files", files.len());
    let mut found = Vec::new();
    for (room, path) in files {
        if room == "lib" {
            continue;
        }
        let crates = room.starts_with("tweedie-") || room == "experiments";
        assert!(
            crates || layer(&room).is_some(),
            "{room} has no layer: add it to LAYERS and ARCHITECTURE.md"
        );
        let text = code(&std::fs::read_to_string(&path).unwrap());
        found.extend(violations(&room, &text).iter().map(|v| format!("{}: {v}", path.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A worst error that forgets a NaN passes whatever went wrong most.
#[test]
fn maxima_keep_nan() {
    let root = PathBuf::from(ROOT);
    let mut files = Vec::new();
    ["src", "experiments", "tests", "benches"]
        .iter()
        .for_each(|dir| sources(&root.join(dir), &mut files));
    let mut found = Vec::new();
    for path in files {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
        if name != "tests/layers.rs" && MAXIMA.iter().all(|(file, _)| *file != name) {
            let lines = drops_nan(&std::fs::read_to_string(&path).unwrap());
            found.extend(lines.iter().map(|line| format!("{name}: {line}")));
        }
    }
    assert!(found.is_empty(), "use math::larger and math::smaller:\n{}", found.join("\n"));
}

#[test]
fn the_check_itself_notices_each_kind() {
    assert_eq!(violations("math", "use crate::law::Gaussian;").len(), 1);
    assert_eq!(violations("law", "use crate::math::dd::Dd; use crate::Error;").len(), 0);
    assert_eq!(violations("exact", "use crate::nowhere::X;").len(), 1);
    assert_eq!(
        violations("diffusion", "println!(\"x\"); let t = std::time::Instant::now();").len(),
        2
    );
    assert_eq!(
        code("// crate::cli\nlet x = 1;\n#[cfg(test)]\nmod tests { crate::cli }"),
        "let x = 1;"
    );
    for text in [
        "x.fold(0.0, f64::max)",
        "x.iter().fold(0.0, |m: f64, v| m.max(v.abs()))",
        "x.fold(0.0, |m, v| if v <= m { m } else { v })",
        "    worst = worst.max(error);",
        "    *worst = worst.min(error);",
    ] {
        assert_eq!(drops_nan(text).len(), 1, "{text}");
    }
    for text in [
        "x.fold(0.0, larger).max(1.0)",
        "let size = batch.max(1);",
        "x.fold(0.0, |m: f64, v| if m.is_nan() || v <= m { m } else { v })",
    ] {
        assert!(drops_nan(text).is_empty(), "{text}");
    }
}
