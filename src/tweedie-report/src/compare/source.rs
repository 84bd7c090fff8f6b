//! The two folders of a comparison: what kind each is, and what is in it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};
use tweedie_nn::pipeline::SETUP;
use tweedie_nn::train::checkpoint::LATEST;

/// What a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What `tweedie report` writes.
    Report,
    /// What `tweedie train` writes.
    Run,
    /// A model: a pipeline of diffusers, or its network alone.
    Model,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Report => "report",
            Kind::Run => "training run",
            Kind::Model => "model",
        })
    }
}

/// What two folders hold, which has to be of one kind.
///
/// # Errors
/// A folder that is missing or holds none of the three; two of different kinds.
pub fn kind(a: &Path, b: &Path) -> Result<Kind> {
    let (of_a, of_b) = (kind_of(a)?, kind_of(b)?);
    if of_a == of_b {
        return Ok(of_a);
    }
    let mend = match (of_a, of_b) {
        (Kind::Report, _) | (_, Kind::Report) => "compare a report with a report",
        _ => "pass a model of the run, such as its checkpoints/step-N",
    };
    let got = format!("a {of_a} ({}) and a {of_b} ({})", a.display(), b.display());
    Err(Error::domain("--compare", got, "two reports, two models or two training runs", mend))
}

fn kind_of(folder: &Path) -> Result<Kind> {
    let refuse = |problem: &str| {
        let mend = "pass a folder of `tweedie report` (manifest.json), of `tweedie train` (checkpoints/), or of a model (config.json or unet/config.json)";
        Err(Error::file(folder, problem, mend))
    };
    let has = |name: &str| folder.join(name).is_file();
    if !folder.is_dir() {
        return refuse(if folder.exists() { "is no folder" } else { "does not exist" });
    }
    if has(&format!("checkpoints/{LATEST}")) || has("metrics.jsonl") {
        Ok(Kind::Run)
    } else if has("manifest.json") {
        Ok(Kind::Report)
    } else if has("config.json") || has("unet/config.json") || has(SETUP) {
        Ok(Kind::Model)
    } else {
        refuse("is neither a report nor a training run nor a model")
    }
}

/// A JSON document.
///
/// # Errors
/// A file that is missing or no JSON.
pub fn json(path: &Path) -> Result<Value> {
    let bad = |problem: String| Error::file(path, problem, "make it again, or restore it");
    let text = std::fs::read_to_string(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
    serde_json::from_str(&text).map_err(|e| bad(format!("is no JSON: {e}")))
}

/// What a folder has under this name, if that is within the folder: neither a name nor a link leads
/// out of it.
///
/// # Errors
/// What is missing or lies elsewhere.
pub fn within(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let real = |path: &Path| {
        path.canonicalize().map_err(|e| {
            Error::file(path, format!("cannot be read: {e}"), "make it again, or restore it")
        })
    };
    if real(&path)?.starts_with(real(folder)?) {
        return Ok(path);
    }
    Err(Error::file(
        &path,
        format!("leads out of {}", folder.display()),
        "copy into it what it leads to",
    ))
}

/// Whether a name may be that of a chapter, and so of a folder of a report.
pub fn is_chapter(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// The documents of a chapter of a report, by their names, sorted; what cannot be listed is empty.
pub fn documents(report: &Path, chapter: &str) -> Vec<String> {
    let Ok(folder) = within(report, chapter) else { return vec![] };
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = entries.filter(|name| name.ends_with(".json")).collect();
    names.sort();
    names
}

/// The lines of a JSONL file, and how many of them could not be read: a run that was killed leaves
/// half a line. None of a missing file.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn lines(path: &Path) -> Result<(Vec<Value>, usize)> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((vec![], 0)),
        text => text.map_err(|e| {
            Error::file(path, format!("cannot be read: {e}"), "check its permissions")
        })?,
    };
    let text = String::from_utf8_lossy(&text);
    let read: Vec<Option<Value>> = text
        .lines()
        .filter(|l| !l.trim().is_empty())
        .map(|l| serde_json::from_str(l).ok())
        .collect();
    let broken = read.iter().filter(|line| line.is_none()).count();
    Ok((read.into_iter().flatten().collect(), broken))
}

/// Whether two paths lead to one folder.
pub fn same_folder(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    real(a) == real(b)
}
