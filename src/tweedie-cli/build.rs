//! Tells the program which commit it is built from, for the manifests of its reports, and its tests
//! whether there is a C++ compiler: those that want one are then counted as ignored, with the
//! reason, and do not pass.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Has the code of a folder watched.
fn code(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            code(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

fn main() {
    println!("cargo::rerun-if-changed=..");
    // Settings and texts of chapters are read when a report is made: an edited one is no reason to build.
    code(Path::new("../../experiments"));
    // A log of every commit and checkout; a package from a registry has none.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["describe", "--always", "--dirty", "--abbrev=12", "--match="]) {
        println!("cargo::rustc-env=TWEEDIE_COMMIT={commit}");
    }
    println!("cargo::rustc-check-cfg=cfg(no_cxx)");
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if !linux || Command::new("c++").arg("--version").output().is_err() {
        println!("cargo::rustc-cfg=no_cxx");
    }
}
