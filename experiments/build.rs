//! Copies the settings and recipes beside the compiled crate, which holds them for where there is no checkout. In the
//! checkout itself they are read when a report is made: an edited one is no reason to compile, so only code is watched.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=Cargo.toml");
    for folder in fs::read_dir(&here).expect("a folder").flatten().filter(|e| e.path().is_dir()) {
        walk(&folder.path(), &here, &out);
    }
    println!("cargo::rerun-if-changed=lib.rs");
    println!("cargo::rerun-if-changed=build.rs");
}

fn walk(folder: &Path, here: &Path, out: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => walk(&path, here, out),
            Some("rs") => println!("cargo::rerun-if-changed={}", path.display()),
            Some("toml") => {
                let to = out.join(path.strip_prefix(here).expect("it lies there"));
                fs::create_dir_all(to.parent().expect("a folder")).expect("OUT_DIR may be written");
                fs::copy(&path, to).expect("OUT_DIR may be written");
            }
            _ => {}
        }
    }
}
