//! Tells the program which commit it is built from, for the manifests of its reports, and its tests
//! whether there is a C++ compiler: those that want one are then counted as ignored, with the
//! reason, and do not pass.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=..");
    println!("cargo::rerun-if-changed=../../experiments");
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
