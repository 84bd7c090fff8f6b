//! Copies the settings, texts and recipes beside the compiled crate, which holds them for where
//! there is no checkout. In the checkout itself they are read when a report is made: an edited one
//! is no reason to compile, so only code is watched.
//!
//! And it tells each chapter what the code that computes its numbers is known by: a hash of that
//! code, of all crates and chapters that it uses, and of the compiler. A drawing or a text that was
//! edited leaves it as it is.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates whose code every number depends on, and how the one is named that some use beside.
const CRATES: [&str; 5] =
    ["tweedie", "tweedie-engines", "tweedie-files", "tweedie-device", "tweedie-nn"];
const CLAIMS: (&str, &str) = ("tweedie_claims", "tweedie-claims");
/// What of the crate `tweedie-report` numbers use.
const CONTEXT: &str = "tweedie-report/src/experiment.rs";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=Cargo.toml");
    println!("cargo::rerun-if-changed=lib.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let mut all = Vec::new();
    for folder in fs::read_dir(&here).expect("a folder").flatten().filter(|e| e.path().is_dir()) {
        files(&folder.path(), &mut all);
    }
    for path in &all {
        match path.extension().and_then(|e| e.to_str()) {
            Some("toml" | "md") => {
                let to = out.join(path.strip_prefix(&here).expect("it lies there"));
                fs::create_dir_all(to.parent().expect("a folder")).expect("OUT_DIR may be written");
                fs::copy(path, to).expect("OUT_DIR may be written");
            }
            _ => println!("cargo::rerun-if-changed={}", path.display()),
        }
    }
    let crates = here.join("../src");
    let mut shared = vec![here.join("../Cargo.lock"), crates.join(CONTEXT)];
    CRATES.iter().for_each(|name| files(&crates.join(name).join("src"), &mut shared));
    files(&here.join("data"), &mut shared);
    let mut claims = Vec::new();
    files(&crates.join(CLAIMS.1).join("src"), &mut claims);
    for path in shared.iter().chain(&claims) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let rustc = env::var_os("RUSTC").expect("cargo sets it");
    let compiler = Command::new(rustc).arg("-vV").output().expect("it compiles this").stdout;
    for chapter in all.iter().filter(|path| path.ends_with("text.md")) {
        let folder = chapter.parent().expect("a folder");
        let mut used = BTreeSet::new();
        uses(&here, folder, &all, &claims, &mut used);
        let mut hasher = DefaultHasher::new();
        hasher.write(&compiler);
        for name in ["TARGET", "OPT_LEVEL", "CARGO_ENCODED_RUSTFLAGS"] {
            hasher.write(env::var(name).unwrap_or_default().as_bytes());
        }
        for path in shared.iter().chain(&used) {
            hasher.write(&fs::read(path).expect("it was listed"));
        }
        let name = folder.file_name().and_then(|n| n.to_str()).expect("a name");
        println!("cargo::rustc-env=CODE_OF_{name}={:016x}", hasher.finish());
    }
}

/// All files of a folder, in order.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The files that compute a folder's numbers: its own but for figures, and those that they name.
fn uses(
    here: &Path,
    folder: &Path,
    all: &[PathBuf],
    claims: &[PathBuf],
    used: &mut BTreeSet<PathBuf>,
) {
    let own = all.iter().filter(|path| {
        let shown = ["figures.rs", "text.md", "settings.toml"].iter().any(|f| path.ends_with(f));
        path.starts_with(folder) && !shown
    });
    for path in own {
        if !used.insert(path.clone()) || path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let code = fs::read_to_string(path).expect("it was listed");
        if code.contains(CLAIMS.0) {
            used.extend(claims.iter().cloned());
        }
        for name in code.split("crate::").skip(1) {
            let name: String =
                name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let folder = here.join(name.replace('_', "-"));
            if folder.is_dir() {
                uses(here, &folder, all, claims, used);
            }
        }
    }
}
