//! Writing a folder of results so that nobody ever sees half of one, and nobody loses what is
//! theirs.

use serde_json::{Map, Value};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use tweedie::error::{Error, Result};
use tweedie_files::{lock::Lock, sums};

/// A folder being filled beside the one it will be moved into.
///
/// Files are written to a hidden folder on the same file system; [`Staging::publish`] renames each
/// top-level entry into place. Dropped before that, everything is removed. Ctrl-C waits until then.
pub struct Staging {
    target: PathBuf,
    aside: TempDir,
    /// Files of the target that may be replaced, beside those that reports have written.
    shown_again: Vec<String>,
    /// Held for as long as the folder is in use, which tells it from what a process that was killed
    /// has left.
    _lock: Option<fs::File>,
    unbroken: Unbroken,
}

impl Staging {
    /// Starts filling `target`, which is made if it is missing.
    pub fn new(target: &Path) -> Result<Self> {
        fs::create_dir_all(target).map_err(|e| unwritable(target, e))?;
        sweep(target);
        let unbroken = Unbroken::new();
        let aside = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(target)
            .map_err(|e| unwritable(target, e))?;
        Ok(Self {
            target: target.to_path_buf(),
            _lock: locked(aside.path()),
            aside,
            shown_again: Vec::new(),
            unbroken,
        })
    }

    /// The same, which may also replace these files of the target, of other commands: what takes
    /// their place shows them again.
    pub fn replacing(mut self, files: impl IntoIterator<Item = String>) -> Self {
        self.shown_again.extend(files);
        self
    }

    /// Writes one file, named relative to the target.
    ///
    /// # Errors
    /// A name that is absolute, empty, or leads elsewhere; a folder that can't be written; a
    /// request to end the process, which is obeyed when this is dropped.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        if self.unbroken.asked() {
            return Err(Error::file(
                &self.target,
                "was not written: the process was asked to end",
                "run it again",
            ));
        }
        let normal = |part: &str| {
            matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(_)])
        };
        if !name.split('/').all(|part| normal(part) && !part.contains(['\\', '\0'])) {
            let allowed = "names of folders and a file, with / between them";
            return Err(Error::domain(
                "file of a report",
                format!("{name:?}"),
                allowed,
                "report this as a bug",
            ));
        }
        let path = self.aside.path().join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| unwritable(&self.target.join(name), e))?;
        }
        fs::write(&path, bytes).map_err(|e| unwritable(&self.target.join(name), e))
    }

    /// Refuses names in the target, files or folders, that hold something which no earlier report
    /// has written. What can be refused is so before anything is computed.
    ///
    /// # Errors
    /// The first file in the way, by name.
    pub fn claim<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let known = self.known();
        names.into_iter().try_for_each(|name| self.ours(name, &known))
    }

    fn known(&self) -> Known {
        let mut known = Known::read(&self.target);
        known.files.extend(self.shown_again.iter().cloned());
        known
    }

    /// Whether the file or folder of this name may be replaced: all that it holds is known, or to
    /// the bit what takes its place.
    fn ours(&self, name: &str, known: &Known) -> Result<()> {
        let path = self.target.join(name);
        let files: Vec<String> = match path.symlink_metadata() {
            Err(_) => return Ok(()),
            Ok(_) if path.is_dir() => sums::files(&path)
                .map_err(|e| unwritable(&path, e))?
                .into_iter()
                .map(|file| format!("{name}/{file}"))
                .collect(),
            Ok(_) => vec![name.to_owned()],
        };
        for file in files {
            let there = self.target.join(&file);
            let same = || {
                fs::read(&there)
                    .ok()
                    .zip(fs::read(self.aside.path().join(&file)).ok())
                    .is_some_and(|(a, b)| a == b)
            };
            if !known.has(&file) && !same() {
                return Err(Error::file(
                    &there,
                    "is in the way, and no report has written it",
                    "move it elsewhere, or choose another --out",
                ));
            }
            if fs::metadata(&there).is_ok_and(|m| m.permissions().readonly()) {
                return Err(Error::file(
                    &there,
                    "is read-only",
                    "make it writable, or choose another --out",
                ));
            }
        }
        Ok(())
    }

    /// Moves everything into place; a folder of the same name is replaced whole, so no stale file
    /// stays in it.
    ///
    /// `manifest.json` is first, with the names of all files of this and of earlier reports in
    /// `files`, by which a later report knows them. Then come folders, then files: `index.html`,
    /// which refers to them, is last. Reports that end at one time publish one after the other.
    ///
    /// # Errors
    /// As [`Self::claim`], before anything is moved; a folder that can't be written.
    pub fn publish(self) -> Result<()> {
        let _lock = Lock::wait(&self.target)?;
        let read =
            fs::read_dir(self.aside.path()).and_then(|d| d.collect::<std::io::Result<Vec<_>>>());
        let entries = read.map_err(|e| unwritable(&self.target, e))?;
        let known = self.known();
        for entry in &entries {
            self.ours(&entry.file_name().to_string_lossy(), &known)?;
        }
        let mut files: BTreeSet<String> =
            known.files.into_iter().filter(|file| self.target.join(file).is_file()).collect();
        files.extend(sums::files(self.aside.path()).map_err(|e| unwritable(&self.target, e))?);
        files.insert(MANIFEST.into());
        let path = self.aside.path().join(MANIFEST);
        let mut manifest = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok())
            .unwrap_or_default();
        manifest.insert(FILES.into(), files.into_iter().collect());
        fs::write(&path, format!("{:#}\n", Value::from(manifest)))
            .map_err(|e| unwritable(&path, e))?;

        let mut entries: Vec<PathBuf> =
            entries.iter().map(fs::DirEntry::path).filter(|p| *p != path).collect();
        entries.sort_by_key(|p| (p.is_file(), p.clone()));
        entries.insert(0, path);
        let replaced = tempfile::Builder::new()
            .prefix(REPLACED)
            .tempdir_in(&self.target)
            .map_err(|e| unwritable(&self.target, e))?;
        let _lock = locked(replaced.path());
        for from in entries {
            let Some(name) = from.file_name() else { continue };
            let to = self.target.join(name);
            if to.is_dir() {
                fs::rename(&to, replaced.path().join(name)).map_err(|e| unwritable(&to, e))?;
            }
            fs::rename(&from, &to).map_err(|e| unwritable(&to, e))?;
        }
        Ok(())
    }
}

/// The file that says what made a report, and which files it has.
pub const MANIFEST: &str = "manifest.json";

/// The manifest's list of files.
const FILES: &str = "files";

/// The files of a folder that reports have written.
struct Known {
    files: BTreeSet<String>,
    /// Folders of a report of a version that listed no files: what has the ending of a chapter's
    /// file is one.
    unlisted: Vec<String>,
}

impl Known {
    /// By the manifest of a folder; nothing where it is missing or someone else's.
    fn read(target: &Path) -> Self {
        let manifest = fs::read(target.join(MANIFEST))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .unwrap_or_default();
        let texts = |list: &Value, of: fn(&Value) -> Option<&str>| {
            list.as_array()
                .into_iter()
                .flatten()
                .filter_map(of)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        if manifest.get("tweedie").is_none() {
            return Self { files: BTreeSet::new(), unlisted: vec![] };
        }
        if let Some(files) = manifest.get(FILES) {
            return Self {
                files: texts(files, Value::as_str).into_iter().collect(),
                unlisted: vec![],
            };
        }
        let mut unlisted = texts(&manifest["experiments"], |e| e["name"].as_str());
        if manifest.get("kind").is_some() {
            // A comparison has a folder for each of its chapters, and names none.
            let folders =
                fs::read_dir(target).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
            unlisted.extend(folders.map(|e| e.file_name().to_string_lossy().into_owned()));
        }
        Self { files: [MANIFEST, "index.html"].map(String::from).into(), unlisted }
    }

    fn has(&self, file: &str) -> bool {
        let chapters = ["svg", "png", "csv", "json", "html"];
        let ended = |name: &str| {
            name.rsplit_once('.').is_some_and(|(_, ending)| chapters.contains(&ending))
        };
        let older = || {
            file.split_once('/').is_some_and(|(folder, name)| {
                self.unlisted.iter().any(|f| f == folder) && ended(name)
            })
        };
        self.files.contains(file) || older()
    }
}

/// What of a folder and the folders above it is not there, the deepest first.
pub fn missing(folder: &Path) -> Vec<PathBuf> {
    let there = |folder: &Path| folder.as_os_str().is_empty() || folder.symlink_metadata().is_ok();
    folder.ancestors().take_while(|folder| !there(folder)).map(Path::to_path_buf).collect()
}

/// How the names of folders begin that are not there to stay.
const UNFINISHED: &str = ".unfinished-";
const REPLACED: &str = ".replaced-";

/// The lock of a folder, where no other process has it, and where folders can be locked.
fn locked(folder: &Path) -> Option<fs::File> {
    fs::File::open(folder).ok().filter(|file| file.try_lock().is_ok())
}

/// Removes what processes that were killed have left: what nobody has locked, and on a file system
/// without locks what is old.
fn sweep(target: &Path) {
    const HOUR: Duration = Duration::from_secs(3600);
    // A folder is locked right after it was made.
    const MOMENT: Duration = Duration::from_secs(5);
    for entry in fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        let left = |age: Duration| age > HOUR || age > MOMENT && locked(&entry.path()).is_some();
        if (name.starts_with(UNFINISHED) || name.starts_with(REPLACED)) && age.is_some_and(left) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// While it lives, requests to end the process are noted; they are obeyed when it is dropped.
struct Unbroken(&'static [Request; 2]);

/// A signal that ends the process.
struct Request {
    signal: i32,
    /// Whether it does so when it comes.
    at_once: Arc<AtomicBool>,
    noted: Arc<AtomicBool>,
}

impl Unbroken {
    fn new() -> Self {
        // Registered for good: without any action left a signal would not end the process, but be
        // ignored.
        static REQUESTS: OnceLock<[Request; 2]> = OnceLock::new();
        let registered = |signal| {
            let request = Request { signal, at_once: Arc::default(), noted: Arc::default() };
            // Where signals can't be noted they end the process as ever.
            let _ = flag::register(signal, request.noted.clone());
            let _ = flag::register_conditional_default(signal, request.at_once.clone());
            request
        };
        let requests = REQUESTS.get_or_init(|| [SIGINT, SIGTERM].map(registered));
        requests.iter().for_each(|r| r.at_once.store(false, Ordering::Relaxed));
        Self(requests)
    }

    /// Whether the process has been asked to end.
    fn asked(&self) -> bool {
        self.0.iter().any(|request| request.noted.load(Ordering::Relaxed))
    }
}

impl Drop for Unbroken {
    fn drop(&mut self) {
        for request in self.0 {
            request.at_once.store(true, Ordering::Relaxed);
            if request.noted.load(Ordering::Relaxed) {
                let _ = signal_hook::low_level::emulate_default_handler(request.signal);
            }
        }
    }
}

fn unwritable(path: &Path, problem: std::io::Error) -> Error {
    Error::file(
        path,
        format!("can't be written: {problem}"),
        "choose a folder that can be written with --out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What a report with these files does to a folder.
    fn published(target: &Path, files: &[(&str, &str)]) -> Result<()> {
        let staging = Staging::new(target)?;
        files.iter().try_for_each(|(name, content)| staging.write(name, content))?;
        staging.write(MANIFEST, "{\"tweedie\": \"0\"}")?;
        staging.publish()
    }

    #[test]
    fn nothing_is_seen_before_it_is_published_and_nothing_stale_after() {
        let target = tempfile::tempdir().unwrap();
        published(target.path(), &[("x/stale.svg", "old"), ("y/kept.svg", "kept")]).unwrap();
        fs::write(target.path().join("other.md"), "kept").unwrap();

        let abandoned = Staging::new(target.path()).unwrap();
        abandoned.write("x/new.svg", "new").unwrap();
        drop(abandoned);
        assert_eq!(names(target.path()), ["manifest.json", "other.md", "x", "y"]);
        assert_eq!(names(&target.path().join("x")), ["stale.svg"]);

        published(target.path(), &[("x/new.svg", "new"), ("index.html", "page")]).unwrap();
        assert_eq!(names(target.path()), ["index.html", "manifest.json", "other.md", "x", "y"]);
        assert_eq!(names(&target.path().join("x")), ["new.svg"]);
        // What is gone is not listed; what an earlier report wrote still is.
        let manifest: Value =
            serde_json::from_slice(&fs::read(target.path().join(MANIFEST)).unwrap()).unwrap();
        assert_eq!(manifest["tweedie"], "0");
        published(target.path(), &[("y/new.svg", "new")]).unwrap();
        let manifest: Value =
            serde_json::from_slice(&fs::read(target.path().join(MANIFEST)).unwrap()).unwrap();
        assert_eq!(
            manifest[FILES],
            serde_json::json!([
                "index.html",
                "manifest.json",
                "x/new.svg",
                "y/kept.svg",
                "y/new.svg"
            ])
        );
    }

    #[test]
    fn what_no_report_has_written_is_never_replaced() {
        let target = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| {
            fs::create_dir_all(target.path().join(name).parent().unwrap()).unwrap();
            fs::write(target.path().join(name), content).unwrap();
        };
        let refused = |files: &[(&str, &str)], file: &str| {
            let before = sums::of(target.path()).unwrap();
            let staging = Staging::new(target.path()).unwrap();
            let claimed = staging
                .claim(files.iter().map(|f| f.0.split('/').next().unwrap()))
                .unwrap_err()
                .to_string();
            drop(staging);
            let message = published(target.path(), files).unwrap_err().to_string();
            assert_eq!(claimed, message);
            let problem = "is in the way, and no report has written it; move it elsewhere, or choose another --out";
            assert_eq!(message, format!("{}: {problem}", target.path().join(file).display()));
            assert_eq!(before, sums::of(target.path()).unwrap());
        };
        // In a folder without a report: a chapter's name, the page, a manifest of something else.
        put("x/deep/thesis.txt", "mine");
        refused(&[("x/a.svg", "a"), ("index.html", "page")], "x/deep/thesis.txt");
        fs::remove_dir_all(target.path().join("x")).unwrap();
        put("index.html", "mine");
        refused(&[("x/a.svg", "a"), ("index.html", "page")], "index.html");
        fs::remove_file(target.path().join("index.html")).unwrap();
        put(MANIFEST, "{\"files\": [\"index.html\", \"manifest.json\"]}");
        refused(&[(MANIFEST, "")], MANIFEST);
        fs::remove_file(target.path().join(MANIFEST)).unwrap();
        // In one with a report: a file put among its own. The same bits are no loss.
        published(target.path(), &[("x/a.svg", "a"), ("index.html", "page")]).unwrap();
        put("x/b.svg", "mine");
        refused(&[("x/b.svg", "b")], "x/b.svg");
        published(target.path(), &[("x/b.svg", "mine")]).unwrap();
        assert_eq!(names(&target.path().join("x")), ["b.svg"]);
    }

    #[test]
    fn a_report_of_an_older_version_is_known_by_its_chapters() {
        let target = tempfile::tempdir().unwrap();
        let old = [
            ("x/a.svg", "a"),
            ("index.html", "old"),
            (MANIFEST, "{\"tweedie\": \"0\", \"experiments\": [{\"name\": \"x\"}]}"),
        ];
        fs::create_dir_all(target.path().join("x")).unwrap();
        old.iter()
            .for_each(|(name, content)| fs::write(target.path().join(name), content).unwrap());
        fs::write(target.path().join("x/thesis.txt"), "mine").unwrap();
        assert!(published(target.path(), &[("x/b.svg", "b")]).is_err());
        fs::remove_file(target.path().join("x/thesis.txt")).unwrap();
        published(target.path(), &[("x/b.svg", "b"), ("index.html", "new")]).unwrap();
        assert_eq!(names(&target.path().join("x")), ["b.svg"]);
    }

    #[test]
    fn reports_that_end_at_one_time_are_both_whole() {
        let target = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for k in 0..4 {
                let target = target.path();
                scope.spawn(move || {
                    for _ in 0..10 {
                        let (a, b) = (format!("x/{k}"), format!("y{k}/a"));
                        published(target, &[(&a, "a"), (&b, "b"), ("index.html", &k.to_string())])
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(
            names(target.path()),
            ["index.html", "manifest.json", "x", "y0", "y1", "y2", "y3"]
        );
        assert_eq!(names(&target.path().join("x")).len(), 1);
        let known = Known::read(target.path()).files;
        assert!((0..4).all(|k| known.contains(&format!("y{k}/a"))), "{known:?}");
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        let outer = tempfile::tempdir().unwrap();
        let staging = Staging::new(&outer.path().join("site")).unwrap();
        let absolute = outer.path().join("absolute").display().to_string();
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "/x",
            "a//x",
            "a/",
            "./x",
            "a/./x",
            "a\\..\\x",
            "a\0",
            &absolute,
        ] {
            let message = staging.write(name, "x").unwrap_err().to_string();
            assert!(message.contains("file of a report"), "{name}: {message}");
        }
        staging.write("a/..b/c", "x").unwrap();
        staging.publish().unwrap();
        assert_eq!(
            (names(outer.path()), names(&outer.path().join("site"))),
            (vec!["site".to_string()], vec!["a".to_string(), "manifest.json".to_string()])
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_killed_process_left_is_swept_and_what_another_fills_is_not() {
        let target = tempfile::tempdir().unwrap();
        let working = Staging::new(target.path()).unwrap();
        let left = target.path().join(".unfinished-left");
        fs::create_dir(&left).unwrap();
        let at = std::time::SystemTime::now() - Duration::from_secs(60);
        for folder in [&left, working.aside.path()] {
            fs::File::open(folder).unwrap().set_modified(at).unwrap();
        }
        sweep(target.path());
        assert!(!left.exists() && working.aside.path().exists());
    }

    #[test]
    fn a_folder_that_is_a_file_is_refused() {
        let target = tempfile::NamedTempFile::new().unwrap();
        let message = Staging::new(target.path()).err().unwrap().to_string();
        assert!(message.contains("can't be written") && message.contains("--out"), "{message}");
    }
}
