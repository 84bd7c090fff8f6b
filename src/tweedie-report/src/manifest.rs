//! What made a report: program, libraries, machine.

use serde_json::{Map, Value, json};
use std::sync::OnceLock;
use tweedie_device as device;

/// Version of all crates.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

static COMMIT: OnceLock<&str> = OnceLock::new();

/// Tells which commit the program is built from, `-dirty` where files had changed since: only the
/// program itself is built anew at every commit.
pub fn built_from(commit: &'static str) {
    // Who says it twice says the same.
    let _ = COMMIT.set(commit);
}

/// What [`built_from`] was told, or `unknown`.
pub fn commit() -> &'static str {
    COMMIT.get().unwrap_or(&"unknown")
}

/// What all crates depend on, and the versions that this was resolved to.
const CARGO: [&str; 2] = [include_str!("../../../Cargo.toml"), include_str!("../../../Cargo.lock")];

/// What only tests and benches depend on.
const FOR_TESTS: [&str; 3] = ["astro-float", "criterion", "proptest"];

/// What of this machine the last digits of a number may depend on.
pub fn arithmetic() -> String {
    device::simd().join(" ")
}

/// The part of a manifest that does not depend on what was asked for.
pub fn of_the_machine() -> Map<String, Value> {
    let survey = device::survey();
    let of = json!({
        "tweedie": VERSION,
        "commit": commit(),
        "device": "cpu",
        "cpu": survey.cpu,
        "simd": survey.simd,
        "threads": survey.threads,
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "libraries": libraries(CARGO),
    });
    of.as_object().cloned().unwrap_or_default()
}

/// Name and version of each library that the crates themselves ask for, but for their tests.
fn libraries([manifest, lock]: [&str; 2]) -> Map<String, Value> {
    let [manifest, lock]: [toml::Table; 2] =
        [manifest, lock].map(|text| text.parse().unwrap_or_default());
    let all = manifest
        .get("workspace")
        .and_then(|w| w.get("dependencies"))
        .and_then(toml::Value::as_table);
    // What has a path is one of the crates.
    let asked = |name: &str| {
        !FOR_TESTS.contains(&name)
            && all.and_then(|d| d.get(name)).is_some_and(|d| d.get("path").is_none())
    };
    let packages: Vec<&toml::Value> =
        lock.get("package").and_then(toml::Value::as_array).into_iter().flatten().collect();
    let text = |package: &toml::Value, key: &str| {
        package.get(key).and_then(toml::Value::as_str).map(str::to_owned)
    };
    let own = packages.iter().filter(|p| p.get("source").is_none());
    let wanted = own
        .filter_map(|p| p.get("dependencies")?.as_array())
        .flatten()
        .filter_map(toml::Value::as_str);
    let version = |wanted: &str| {
        // "name", or "name version" where several versions of it are built in.
        let (name, version) =
            wanted.split_once(' ').map_or((wanted, None), |(n, v)| (n, Some(v.to_owned())));
        let found = packages
            .iter()
            .find(|p| text(p, "name").as_deref() == Some(name))
            .and_then(|p| text(p, "version"));
        Some((name.to_owned(), version.or(found)?.into()))
    };
    wanted.filter_map(version).filter(|(name, _)| asked(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_have_the_versions_of_the_lock_file() {
        let found = libraries(CARGO);
        assert!(
            ["ndarray", "nalgebra", "statrs", "faer", "cudarc", "plotters"]
                .iter()
                .all(|name| found.contains_key(*name)),
            "{found:?}"
        );
        assert!(!found.contains_key("proptest"));
        assert!(found["ndarray"].as_str().unwrap().starts_with("0.17."));
        let manifest =
            "[workspace.dependencies]\na = \"2\"\nb = \"3\"\nours = { path = \"src\" }\n";
        let lock = "[[package]]\nname = \"ours\"\ndependencies = [\"a 2.0.0\", \"b\"]\n\
                    [[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\n\
                    [[package]]\nname = \"a\"\nversion = \"2.0.0\"\nsource = \"registry\"\n\
                    [[package]]\nname = \"b\"\nversion = \"3.0.0\"\nsource = \"registry\"\n";
        assert_eq!(Value::from(libraries([manifest, lock])), json!({"a": "2.0.0", "b": "3.0.0"}));
    }
}
